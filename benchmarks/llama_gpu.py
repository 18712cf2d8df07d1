"""Measure LLaMA-2's memory and speed on this GPU, and compare the memory with the dry run's.

`python -m benchmarks.llama_gpu [7B|13B] [--tokenizer FOLDER] [--json FILE]` prints the tables of
docs/memory.md. Memory is that of single passes, as the dry run simulates them; speed is that of our
trainer's steps. Weights are random, since neither depends on their values, so nothing is
downloaded. `benchmarks.training --gpu` times our trainer beside others.
"""

import gc
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from peft import PeftModel
from transformers import PreTrainedModel

from benchmarks.machine import gemm_rate, now
from benchmarks.memory import (
    ANSWER,
    GIB,
    MICRO_BATCHES,
    PROMPT,
    SHAPES,
    answer_texts,
    llama_pairs,
)
from benchmarks.our_trainer import OurRun, train
from benchmarks.random_llama import with_tokenizer
from benchmarks.work import compose, forward_flop, rows_of, without_weights, workload
from mvp_align.config import Config, Hardware
from mvp_align.errors import UserError
from mvp_align.modeling.adapters import start_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import resolve_hardware
from mvp_align.modeling.source import load_model_config
from mvp_align.planning.simulation import simulate
from mvp_align.schema import PreferencePair
from mvp_align.training.step import as_in_training, largest_batch, score_pass, train_pass

SCORED = 8
"""Pairs per scored batch."""
TIMED = 3
"""Timed scoring passes, after one that allocates the memory."""
STEPS = 6
"""Steps of a trainer's run, of which the first two are not counted."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Memory and speed of training and scoring.

    `training` and `scoring` are peaks of live tensors in bytes, without what was there before the
    model; `training_reserved` is what the allocator reserved. Seconds are per pass over all pairs.
    TFLOP/s count only useful products (benchmarks/work.py).
    """

    training: int
    training_reserved: int
    scoring: int
    scoring_seconds: float
    scoring_tflops: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Steps of our trainer, of one pass each: seconds, pairs/s, and TFLOP/s of useful products."""

    step_seconds: float
    pairs_per_second: float
    tflops: float


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of the table. `simulated` is the peak of training in bytes."""

    model: str
    quantization: str
    checkpointing: bool
    pairs: int
    simulated: int
    found: Measured | None
    speed: Speed | None

    def line(self) -> str:
        kind, on = (
            "QLoRA" if self.quantization == "4bit" else "LoRA",
            ("on" if self.checkpointing else "off"),
        )
        head = f"| {self.model} | {kind} | {on} | {self.pairs} | {self.simulated / GIB:.1f} |"
        if self.found is None:
            return f"{head} does not fit | - | - | - | - |"
        found, speed = self.found, self.speed
        rates = "- | -" if speed is None else f"{speed.tflops:.0f} | {speed.pairs_per_second:.1f}"
        return (
            f"{head} {found.training / GIB:.1f} | {found.training_reserved / GIB:.1f} | {rates} |"
            f" {SCORED / found.scoring_seconds:.1f} |"
        )


def release() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def measure(model: PeftModel, config: Config, pairs: int, before: int) -> Measured:
    """Measure training passes over `pairs` pairs, and scoring passes over SCORED pairs.

    Pairs share no prompt. AdamW's moments and gradients exist, as they do during accumulation.
    `before` is the memory in bytes that was in use before the model was loaded. Raises
    torch.OutOfMemoryError.
    """
    batch, largest = llama_pairs(pairs), largest_batch(model, [llama_pairs(SCORED)], config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    with as_in_training(
        model, config, checkpointing=config.hardware.gradient_checkpointing is True
    ):
        train_pass(model, batch, config)
        optimizer.step()
        torch.cuda.reset_peak_memory_stats()
        train_pass(model, batch, config)
    training, reserved = (
        torch.cuda.max_memory_allocated() - before,
        torch.cuda.max_memory_reserved() - before,
    )
    optimizer.zero_grad()
    score_pass(model, largest)
    torch.cuda.reset_peak_memory_stats()
    scoring_seconds = seconds(lambda: score_pass(model, largest))
    scoring = torch.cuda.max_memory_allocated() - before
    base = model.get_base_model()
    assert isinstance(base, PreTrainedModel)
    shape = without_weights(base.config)  # packed 4-bit weights have other shapes
    return Measured(
        training=training,
        training_reserved=reserved,
        scoring=scoring,
        scoring_seconds=scoring_seconds,
        scoring_tflops=forward_flop(shape, rows_of(llama_pairs(SCORED))) / scoring_seconds / 1e12,
    )


def seconds(run: Callable[[], None]) -> float:
    device = torch.device("cuda")
    began = now(device)
    for _ in range(TIMED):
        run()
    return (now(device) - began) / TIMED


def config_of(folder: Path, quantization: str, checkpointing: bool) -> Config:
    words = [
        "hardware=cuda", f"quantization={quantization}", "model.name=random", f"model.id={folder}",
        f"hardware.gradient_checkpointing={str(checkpointing).lower()}",
    ]  # fmt: skip
    return compose(words)


def trainer_speed(folder: Path, quantization: str, checkpointing: bool, pairs: int) -> Speed | None:
    """Time steps of our trainer with `pairs` pairs in one pass, or None where they do not fit."""
    words = [
        "hardware=cuda", f"quantization={quantization}", "model.name=random", f"model.id={folder}",
        f"hardware.gradient_checkpointing={str(checkpointing).lower()}", "prompt=question",
        f"train.batch_size={pairs}", f"train.micro_batch_size={pairs}", "train.epochs=1",
        "data=sample",
    ]  # fmt: skip
    chosen, rejected = answer_texts(ANSWER)
    texts = [
        PreferencePair(f"p{n}", f"u{n}", f"{n}" + " tea" * PROMPT, chosen, rejected)
        for n in range(STEPS * pairs)
    ]
    try:
        timed = train(OurRun(words, texts)).timed
    except UserError as error:
        print(f"{pairs} pairs a pass: {error}", file=sys.stderr)
        return None
    assert timed is not None
    flop = workload(texts[:pairs], compose(words)).training_flop
    return Speed(timed.step, pairs / timed.step, flop / timed.step / 1e12)


def measure_all(
    model: PeftModel, configs: dict[bool, Config], before: int
) -> dict[tuple[bool, int], Measured | None]:
    """Return figures by (checkpointing, pairs per pass), or None where memory ran out."""
    found: dict[tuple[bool, int], Measured | None] = {}
    for checkpointing, config in configs.items():
        for pairs in MICRO_BATCHES:
            try:
                found[checkpointing, pairs] = measure(model, config, pairs, before)
            except torch.OutOfMemoryError:
                found[checkpointing, pairs] = None
            model.zero_grad(set_to_none=True)
            release()
    return found


def main(
    size: Annotated[str, typer.Argument(help="7B or 13B.")] = "7B",
    tokenizer: Annotated[
        str | None,
        typer.Option(help="A folder with LLaMA-2's; by default the demo model's, with its size."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File to write the figures to.")
    ] = None,
) -> None:
    """Measure on this GPU, simulate the same settings, and print both."""
    name = f"LLaMA-2-{size}"
    if name not in SHAPES:
        raise typer.BadParameter(
            f"must be one of {', '.join(known.removeprefix('LLaMA-2-') for known in SHAPES)}"
        )
    placement = resolve_hardware(Hardware(device="cuda"))
    rate = gemm_rate(placement.device, placement.dtype) / 1e12
    print(
        f"{torch.cuda.get_device_name()}: matrix products at {rate:.0f} TFLOP/s in"
        f" {placement.precision}\n"
    )
    print(
        "| model | | checkpointing | pairs a pass | simulated | measured | reserved | TFLOP/s |"
        " pairs/s | scoring |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    figures = []
    with tempfile.TemporaryDirectory() as root:
        folder = with_tokenizer(size, Path(root) / "model", tokenizer)
        release()
        shape = load_model_config(config_of(folder, "none", False).model)
        for quantization in ("none", "4bit"):
            before = torch.cuda.memory_allocated()
            configs = {
                checkpointing: config_of(folder, quantization, checkpointing)
                for checkpointing in (False, True)
            }
            model = start_adapter(
                load_base(configs[False].model, placement, quantization), configs[False]
            )
            measured = measure_all(model, configs, before)
            del model
            release()
            for (checkpointing, pairs), found in measured.items():
                known = simulate(
                    configs[checkpointing], shape, placement.dtype, llama_pairs(pairs), []
                )
                assert known.training is not None
                speed = None
                if found is not None:
                    speed = trainer_speed(folder, quantization, checkpointing, pairs)
                figures.append(
                    Figure(
                        name, quantization, checkpointing, pairs, known.training.peak, found, speed
                    )
                )
                print(figures[-1].line(), flush=True)
    if json_file is not None:
        content = {"gemm_tflops": rate, "settings": [asdict(figure) for figure in figures]}
        json_file.write_text(
            json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    typer.run(main)
