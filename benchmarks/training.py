"""Compare our DPO training with TRL's DPOTrainer: same pairs, seed and effective batch.

Both alternate on one machine:

python -m benchmarks.training [--data FILE] [--quick] [--json FILE] [OVERRIDE ...]
"""

import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from peft import PeftModel
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer
from trl import DPOTrainer

from benchmarks.machine import (
    Worker,
    close,
    gemm_rate,
    machine_name,
    native_placement,
    now,
    peak_memory_bytes,
)
from benchmarks.work import (
    Task,
    forward_flop,
    largest_relative_gap,
    render_and_tokenize,
    rows_of,
    training_flop,
    training_pairs,
)
from mvp_align.config import Config
from mvp_align.data.load import DataSets
from mvp_align.modeling.adapters import start_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import Placement, resolve_hardware
from mvp_align.modeling.source import cache_root, load_tokenizer
from mvp_align.planning.preflight import make_plan
from mvp_align.schema import PreferencePair
from mvp_align.scoring.identity import logps_folder
from mvp_align.training.trainers import TrainerParts, dpo_arguments, dpo_trainer, pair_dataset

OURS, TRL, TRL_PRECOMPUTED = "mvp-align", "TRL", "TRL, reference precomputed"
TRL_LIGER = "TRL with Liger kernels"
CONTENDERS = (OURS, TRL, TRL_PRECOMPUTED)
WARM = "mvp-align, cache warm"
EPOCHS = 3
"""As in the paper."""
MICRO_BATCHES = {OURS: (2, 4, 8), TRL: (1, 2, 4, 8)}
QUICK_MICRO_BATCHES = {OURS: (4, 8), TRL: (1, 2)}
TRAINING = (
    "train.batch_size=8",
    f"train.epochs={EPOCHS}",
    "train.save_steps=100000",
    "tracking=none",
)


@dataclass(frozen=True, slots=True)
class Timed:
    seconds: float
    before_seconds: float
    """The part of `seconds` before the first step: tokenising, and any precomputed reference."""
    losses: list[float]
    grad_norms: list[float]
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Facts:
    machine: str
    gemm: float
    flop_epoch: float
    """FLOP of a forward and backward pass over all pairs, without the reference."""
    flop_reference: float
    """FLOP of one reference pass over all pairs."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What every contender gets. `folder` is for its files."""

    pairs: list[PreferencePair]
    tokenizer: PreTrainedTokenizerBase
    placement: Placement
    folder: Path


loaded: dict[str, Any] = {}
"""State of a worker process: its task, contender, base model and setup."""


def prepare(task: Task, contender: str, folder: str) -> None:
    config = task.config(*TRAINING)
    placement = resolve_hardware(config.hardware) if contender == OURS else native_placement()
    base = load_base(config.model, placement)
    setup = Setup(training_pairs(task), load_tokenizer(config.model), placement, Path(folder))
    loaded.update(task=task, contender=contender, base=base, setup=setup)
    for kept in cache_root().iterdir() if cache_root().is_dir() else ():
        if kept != logps_folder():
            (Path(folder) / kept.name).symlink_to(kept)
    os.environ["MVP_ALIGN_CACHE"] = folder  # so that a cold run finds no reference log-probs


def facts() -> Facts:
    config = loaded["task"].config(*TRAINING)
    _, pairs = render_and_tokenize(loaded["setup"].pairs, config)
    model = start_adapter(loaded["base"], config)
    adapter_weights = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    base = model.unload()
    device = loaded["setup"].placement.device
    found = Facts(
        machine=machine_name(device),
        gemm=gemm_rate(device, base.dtype),
        flop_epoch=training_flop(base, pairs, adapter_weights),
        flop_reference=forward_flop(base, rows_of(pairs)),
    )
    loaded["base"] = base
    return found


def train(micro_batch: int, *overrides: str, warm: bool = False) -> Timed:
    """Time one run from a fresh adapter, including the construction of its trainer.

    With `warm`, log-probs of earlier runs are in the cache.
    """
    setup: Setup = loaded["setup"]
    device = setup.placement.device
    if not warm:
        for part in setup.folder.iterdir():
            if not part.is_symlink():  # keep the unpacked model
                shutil.rmtree(part)
    config = loaded["task"].config(*TRAINING, f"train.micro_batch_size={micro_batch}", *overrides)
    model = start_adapter(loaded["base"], config)
    began = now(device)
    trainer = make_trainer(loaded["contender"], config, model, setup)
    before = now(device) - began
    trainer.train()
    seconds = now(device) - began
    loaded["base"] = model.unload()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    losses, norms = [entry["loss"] for entry in steps], [entry["grad_norm"] for entry in steps]
    return Timed(seconds, before, losses, norms, peak_memory_bytes(device))


def make_trainer(contender: str, config: Config, model: PeftModel, setup: Setup) -> Trainer:
    """Return our trainer, or TRL's with exactly the same arguments."""
    placement, tokenizer = setup.placement, setup.tokenizer
    checkpoints = setup.folder / "checkpoints"
    data = DataSets(train=setup.pairs, test=[])
    plan = make_plan(
        replace(config, evals=replace(config.evals, sets=[])), data, tokenizer, placement
    )
    if contender == OURS:
        return dpo_trainer(
            TrainerParts(config, plan, model, tokenizer, placement, checkpoints, logps_folder())
        )
    args = dpo_arguments(config, plan, placement, checkpoints)
    args.precompute_ref_log_probs = contender == TRL_PRECOMPUTED
    args.use_liger_kernel = contender == TRL_LIGER
    trainer = DPOTrainer(
        model=model, args=args, train_dataset=pair_dataset(plan.train), processing_class=tokenizer
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def best_micro_batch(worker: Worker, sizes: Sequence[int]) -> int:
    """Return the size with the fastest optimizer step, after a warm-up step.

    The construction of the trainer is not counted.
    """

    def seconds(size: int) -> float:
        worker.call(train, size, "train.max_steps=1")
        timed = worker.call(train, size, "train.max_steps=1")
        return timed.seconds - timed.before_seconds

    return min(sizes, key=seconds)


def main(
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
) -> None:
    """Time training with ours and with TRL, with ratios and the largest difference in losses."""
    task = Task(model, data, 8 if quick else pairs, tuple(overrides or ()))
    turns = 1 if quick else repeats
    tried = QUICK_MICRO_BATCHES if quick else MICRO_BATCHES
    with tempfile.TemporaryDirectory() as root:
        workers = prepared(task, Path(root) / "tries", OURS, TRL)
        known = workers[OURS].call(facts)
        sizes = {
            contender: best_micro_batch(worker, tried[contender])
            for contender, worker in workers.items()
        }
        sizes[TRL_PRECOMPUTED] = sizes[TRL]
        close(workers)
        # fresh processes, whose peak memory is that of the best size
        workers = prepared(task, Path(root) / "timed", *CONTENDERS)
        timed: dict[str, list[Timed]] = {name: [] for name in (*CONTENDERS, WARM)}
        for _ in range(turns):
            for contender, worker in workers.items():
                timed[contender].append(worker.call(train, sizes[contender]))
            timed[WARM].append(workers[OURS].call(train, sizes[OURS], warm=True))
        compared = timed[OURS][0], timed[TRL][0]
        if not quick:
            longer = ("train.batch_size=4", f"train.max_steps={compare_steps}")
            workers[OURS].call(widen, compare_steps * 4)
            workers[TRL].call(widen, compare_steps * 4)
            ours, theirs = (
                workers[name].call(train, min(sizes[name], 4), *longer) for name in (OURS, TRL)
            )
            compared = ours, theirs
        close(workers)
    figures = summary(timed, known, compared)
    show(timed, sizes, known, figures, task, len(compared[0].losses))
    if json_file is not None:
        json_file.write_text(
            json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )


def prepared(task: Task, root: Path, *contenders: str) -> dict[str, Worker]:
    workers = {contender: Worker() for contender in contenders}
    for number, (contender, worker) in enumerate(workers.items()):
        folder = root / str(number)
        folder.mkdir(parents=True)
        worker.call(prepare, task, contender, str(folder))
        worker.call(train, 1, "train.max_steps=1", "train.batch_size=1")  # warm-up
    return workers


def widen(pairs: int) -> None:
    """Draw more pairs for the longer comparison of losses."""
    more = training_pairs(replace(loaded["task"], pairs=pairs))
    loaded["setup"] = replace(loaded["setup"], pairs=more)


def summary(
    timed: dict[str, list[Timed]], known: Facts, compared: tuple[Timed, Timed]
) -> dict[str, float]:
    seconds = {name: statistics.median(run.seconds for run in runs) for name, runs in timed.items()}
    ours, theirs = compared
    return {
        "ratio_vs_trl_cold": seconds[TRL] / seconds[OURS],
        "ratio_vs_trl_warm": seconds[TRL] / seconds[WARM],
        "ratio_vs_trl_precomputed": seconds[TRL_PRECOMPUTED] / seconds[OURS],
        "gemm_share": (
            (EPOCHS * known.flop_epoch + known.flop_reference) / seconds[OURS] / known.gemm
        ),
        "max_abs_error": max(abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True)),
        "loss_max_rel_error": largest_relative_gap(ours.losses, theirs.losses),
        "grad_norm_max_rel_error": largest_relative_gap(ours.grad_norms, theirs.grad_norms),
        "peak_memory_ratio": timed[OURS][0].peak_bytes / timed[TRL][0].peak_bytes,
    }


def show(
    timed: dict[str, list[Timed]],
    sizes: dict[str, int],
    known: Facts,
    figures: dict[str, float],
    task: Task,
    steps: int,
) -> None:
    table = Table(
        title=f"{EPOCHS} epochs over {task.pairs} pairs, 8 pairs a step", title_justify="left"
    )
    for column in ("", "pairs a pass", "seconds", "of them before step 1", "pairs/s", "peak GiB"):
        table.add_column(column, justify="left" if not column else "right")
    for name, runs in timed.items():
        seconds = statistics.median(run.seconds for run in runs)
        before = statistics.median(run.before_seconds for run in runs)
        numbers = (f"{seconds:.1f}", f"{before:.1f}", f"{EPOCHS * task.pairs / seconds:.2f}")
        table.add_row(
            name, str(sizes.get(name, sizes[OURS])), *numbers, f"{runs[0].peak_bytes / 2**30:.2f}"
        )
    console = Console()
    console.print(
        f"{known.machine}: matrix products at {known.gemm / 1e9:.0f} GFLOP/s", highlight=False
    )
    console.print(table)
    console.print(
        f"{figures['ratio_vs_trl_cold']:.2f} x TRL with the reference counted,"
        f" {figures['ratio_vs_trl_warm']:.2f} x with the cache warm; {figures['gemm_share']:.0%} of"
        f" the matrix-product rate in useful FLOP; over {steps} steps, losses within"
        f" {figures['loss_max_rel_error']:.1e} and gradient norms within"
        f" {figures['grad_norm_max_rel_error']:.1e}, relative",
        highlight=False,
    )


if __name__ == "__main__":
    typer.run(main)
