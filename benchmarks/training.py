"""Compare our DPO training with TRL's DPOTrainer: same pairs, seed and effective batch.

Both alternate on one machine (benchmarks/training_epochs.py):

python -m benchmarks.training [--data FILE] [--quick] [--json FILE] [OVERRIDE ...]

With `--gpu`, single steps of large models are timed instead, beside more rivals
(benchmarks/training_gpu.py):

python -m benchmarks.training --gpu [--shape 7B] [--settings FILE] [--json FILE] [OVERRIDE ...]
"""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.training_epochs import run_race
from benchmarks.training_gpu import KEYS, Options, compare
from benchmarks.work import Task

WHOLE_RUNS = {"data", "model", "pairs", "repeats", "compare_steps", "quick"}
"""Options that have no meaning with --gpu."""
ALIKE = {"overrides", "json_file", "gpu"}


def refuse_unused(context: typer.Context, gpu: bool) -> None:
    """Raise BadParameter for an option of the other mode that was given."""
    unused = WHOLE_RUNS if gpu else context.params.keys() - WHOLE_RUNS - ALIKE
    for name in sorted(unused):
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"{option} is not used {'with' if gpu else 'without'} --gpu")


def main(
    context: typer.Context,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Hydra overrides, such as quantization=4bit.")
    ] = None,
    data: Annotated[str, typer.Option(help="`sample`, or a file in UF-P-4's schema.")] = "sample",
    model: Annotated[str, typer.Option(help="A name under conf/model.")] = "smollm2_135m",
    pairs: Annotated[int, typer.Option(help="Training pairs, for three epochs.")] = 32,
    repeats: Annotated[int, typer.Option(help="Repetitions; medians are shown.")] = 3,
    compare_steps: Annotated[
        int, typer.Option(help="Steps whose losses and gradient norms are compared.")
    ] = 50,
    quick: Annotated[
        bool, typer.Option(help="Fewer pairs and steps, one repetition: minutes.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File to write the figures to.")
    ] = None,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Time single steps of a large model on a GPU.")
    ] = False,
    shape: Annotated[str, typer.Option(help="With --gpu: 7B, 13B, smollm2 or tiny.")] = "7B",
    batch: Annotated[int, typer.Option(help="With --gpu: rivals' pairs a step.")] = 16,
    steps: Annotated[
        int, typer.Option(help="With --gpu: steps a run; warm-up and a traced one among them.")
    ] = 8,
    passes: Annotated[
        str, typer.Option(help="With --gpu: our pairs a pass, beside what we choose.")
    ] = "8,16,32",
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"With --gpu: one of {', '.join(KEYS)}; may be repeated."),
    ] = None,
    ours: Annotated[
        list[str] | None,
        typer.Option(help="With --gpu: a variant of ours, `NAME: OVERRIDE ...`; may be repeated."),
    ] = None,
    find: Annotated[
        Path | None,
        typer.Option(help="With --gpu: try rivals' sizes only, and write the best to this file."),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="With --gpu: a file that --find has written.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="With --gpu: where the random model is, or is to be.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="With --gpu: a tokenizer's folder; by default the demo model's."),
    ] = None,
    unsloth: Annotated[
        Path | None, typer.Option(help="With --gpu: a folder with Unsloth and its libraries.")
    ] = None,
) -> None:
    """Time training with ours and with TRL, with ratios and the largest difference in losses."""
    refuse_unused(context, gpu)
    if gpu:
        compare(
            Options(
                shape=shape,
                overrides=tuple(overrides or ()),
                batch=batch,
                steps=steps,
                passes=tuple(int(size) for size in passes.split(",")),
                only=tuple(only or KEYS),
                variants=tuple(ours or ()),
                find=find,
                settings=settings,
                folder=folder,
                tokenizer=tokenizer,
                unsloth=unsloth,
                json_file=json_file,
            )
        )
        return
    task = Task(model, data, 8 if quick else pairs, tuple(overrides or ()))
    run_race(task, 1 if quick else repeats, 0 if quick else compare_steps, json_file)


if __name__ == "__main__":
    typer.run(main)
