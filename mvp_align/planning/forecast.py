"""Forecast of a run's memory, FLOP, time and disk, compared with what this machine has.

It runs before anything is loaded.
"""

import math
import shutil
import threading
import time
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.modeling.base import run_quantization
from mvp_align.modeling.hardware import Placement
from mvp_align.modeling.source import load_model_config
from mvp_align.runtime.recipes import recipe_named
from mvp_align.scoring.tokens import to_common_length
from mvp_align.training.plan import Batches, Plan
from mvp_align.training.step import longest_first, pair_tokens, trained_tokens

if TYPE_CHECKING:
    from mvp_align.planning.simulation import Simulated

GIB = 2**30
CONTEXT_GIB, FRAGMENTED = 1.0, 0.1
"""What a GPU holds beyond live tensors: the CUDA context, and fragmentation as a share of the peak.

On an H200 we measured 0.75 GiB and up to 9 % (docs/memory.md).
"""
CHECKPOINTS = 3
"""The Trainer keeps two, and writes a third before it deletes the oldest."""
BEST_CHECKPOINTS = 2
"""With `train.best_by` it keeps what each of its two knows as the best."""
TRAINING_SHARE = {"cpu": 0.7, "cuda": 0.35}
"""Share of the matrix-product rate that a training step reaches.

For GPUs, the rate is the data sheet's. Measured on a CPU and, with LLaMA-2-7B at 4 or more pairs
per pass, on an H200 (docs/speed.md). Fewer pairs, small models and checkpointing reach less.
"""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU model. `gib` is the approximate memory that torch sees.

    `peak` is the data sheet's FLOP/s for dense 16-bit products.
    """

    name: str
    sold_as: str
    gib: float
    peak: float


GPUS = (
    Gpu("T4", "T4 16 GB", 14.6, 65e12),
    Gpu("V100", "V100 16 GB", 15.8, 125e12),
    Gpu("L4", "L4 24 GB", 22.0, 121e12),
    Gpu("A10", "A10 24 GB", 22.0, 125e12),
    Gpu("RTX 4090", "RTX 4090 24 GB", 23.5, 165e12),
    Gpu("A100", "A100 40 GB", 39.4, 312e12),
    Gpu("L40S", "L40S 48 GB", 44.4, 362e12),
    Gpu("A6000", "A6000 48 GB", 47.4, 155e12),
    Gpu("A100", "A100 80 GB", 79.1, 312e12),
    Gpu("H100", "H100 80 GB", 79.1, 989e12),
    Gpu("H200", "H200 141 GB", 139.7, 989e12),
    Gpu("B200", "B200 192 GB", 178.0, 2250e12),
)


def forecast_lines(config: Config, plan: Plan, placement: Placement) -> list[str]:
    """Return the forecast as lines of text.

    Raises UserError if the model lacks the adapter's layers. Any other failure becomes a line,
    because a forecast must not stop a run.
    """
    timer = threading.Timer(2, print, ["simulating the step ..."])
    timer.start()
    try:
        found = simulated(config, plan, placement.dtype)
        return _cost_lines(config, plan, placement, found)
    except UserError:
        raise
    except Exception as error:
        return [f"no forecast: {' '.join(f'{type(error).__name__}: {error}'.split())}"[:300]]
    finally:
        timer.cancel()


def _cost_lines(config: Config, plan: Plan, placement: Placement, found: "Simulated") -> list[str]:
    here = _available(placement)
    if (
        here is not None
        and _may_checkpoint(config)
        and device_bytes(found.peak, placement.device) > here
    ):
        config = _checkpointed(config)
        found = simulated(config, plan, placement.dtype)
    lines = [
        *_memory_lines(config, found, plan.batches, placement, here),
        *_work_lines(config, plan, found, placement),
    ]
    fits = here is not None and device_bytes(found.peak, placement.device) <= here
    if here is not None and not fits:
        lines.append(
            f"DOES NOT FIT this {placement.device.type}: try"
            f" {remedies(config, found.bound_by_training)}"
        )
    if not torch.cuda.is_available() and not fits:
        half = found if placement.device.type == "cuda" else simulated(config, plan, torch.bfloat16)
        lines += _gpu_lines(config, plan, half)
    return [*lines, *_disk_lines(config, found)]


def _may_checkpoint(config: Config) -> bool:
    """Whether a pass that does not fit will be tried with checkpointing."""
    trains = recipe_named(config.recipe).trains
    return trains and config.hardware.gradient_checkpointing == "auto"


def _checkpointed(config: Config) -> Config:
    return replace(config, hardware=replace(config.hardware, gradient_checkpointing=True))


def simulated(config: Config, plan: Plan, dtype: torch.dtype) -> "Simulated":
    # imported here, because it depends on private parts of torch
    from mvp_align.planning.simulation import simulate

    batches = plan.batches
    micro = _simulated_pairs(config, batches) if batches else 0
    return simulate(
        config,
        load_model_config(config.model),
        dtype,
        longest_first(plan.train_tokens, config)[:micro],
        [plan.train_tokens, *plan.scored],
        accumulates=batches is not None and batches.accumulation > 1,
    )


def _simulated_pairs(config: Config, batches: Batches) -> int:
    """Return the micro-batch to simulate: 1 for `auto`, which is decided later on the device."""
    return 1 if config.train.micro_batch_size == "auto" else batches.micro


def device_bytes(peak: int, device: torch.device) -> float:
    """Return bytes of the device for a peak of live tensors. On a CPU that is a lower bound."""
    return peak if device.type == "cpu" else peak * (1 + FRAGMENTED) + CONTEXT_GIB * GIB


def _available(placement: Placement) -> float | None:
    """Return free bytes per process, or None if the device is not here."""
    if placement.device.type == "cpu":
        return float(psutil.virtual_memory().available) / placement.processes
    return (
        float(torch.cuda.mem_get_info(placement.device)[0]) if torch.cuda.is_available() else None
    )


def _memory_lines(
    config: Config,
    found: "Simulated",
    batches: Batches | None,
    placement: Placement,
    here: float | None,
) -> list[str]:
    parts = []
    if found.training and batches:
        micro = _simulated_pairs(config, batches)
        longest = "longest pair" if micro == 1 else f"{micro} longest pairs"
        longest += ", layers checkpointed," * (config.hardware.gradient_checkpointing is True)
        more = ", and more where they fit" if config.train.micro_batch_size == "auto" else ""
        parts.append(f"training on the {longest} {found.training.peak / GIB:.2f}{more}")
    if found.scoring:
        parts.append(f"scoring {found.scoring.peak / GIB:.2f}")
    each = " a process" if placement.processes > 1 else ""
    if placement.device.type == "cpu":
        more = (
            "a CPU's process keeps what it frees: it held 1.2 to 3.8 times that where it was"
            " measured (docs/memory.md)"
        )
    else:
        expected = device_bytes(found.peak, placement.device) / GIB
        more = f"with fragmentation and context: {expected:.1f} GiB"
    free = "" if here is None else f"; free here: {here / GIB:.1f} GiB"
    offloaded = found.training.offloaded if found.training else 0
    return [
        (
            f"memory{each}, simulated, GiB: weights {found.weights / GIB:.2f}, adapter and"
            f" optimizer {found.adapter / GIB:.2f}, peak {found.peak / GIB:.2f}"
            f" ({'; '.join(parts)})"
        ),
        f"{more}{free}",
        *[
            f"activation offloading: {offloaded / GIB:.2f} GiB a pass to the machine's memory and"
            " back, whose time is not in the forecast"
        ]
        * bool(offloaded),
    ]


def remedies(config: Config, training: bool) -> str:
    """List settings that need less memory, in training or in scoring, the least harmful first."""
    settings = []
    micro = config.train.micro_batch_size
    if training and isinstance(micro, int) and micro > 1:
        settings.append(f"train.micro_batch_size={micro // 2}")
    if training and not config.hardware.gradient_checkpointing:
        settings.append("hardware.gradient_checkpointing=true")
    if not training and config.evals.batch_size > 1:
        settings.append(f"evals.batch_size={config.evals.batch_size // 2}")
    if config.quantization != "4bit" and run_quantization(config.model, "none") == "none":
        settings.append("quantization=4bit")
    return ", ".join([*settings, "a lower data.max_tokens", "a smaller model"])


def count_flop(config: Config, plan: Plan, found: "Simulated") -> tuple[float, float, float]:
    """Return the FLOP of one training step, of all steps, and of all scoring.

    References are scored once, and with `train.ld_alpha` a second time up to the shorter answer's
    length, evaluation sets before and after training. Computed from token
    counts at the FLOP per token of the simulated passes, so without what shared profiles and cached
    log-probs save.
    """
    step = training = scoring = 0.0
    if found.training and plan.batches:
        tokens = [trained_tokens(pair, config) for pair in plan.train_tokens]
        step = (
            plan.batches.effective
            * sum(tokens)
            / len(tokens)
            * found.training.flop
            / found.training.tokens
        )
        training = step * plan.batches.steps
    if found.scoring:
        recipe = recipe_named(config.recipe)
        times = 2 if recipe.trains or config.adapter else 1
        scored = times * sum(map(pair_tokens, chain(*plan.scored)))
        if recipe.reference:
            scored += sum(map(pair_tokens, plan.train_tokens))
        if recipe.reference and config.train.ld_alpha is not None:
            scored += sum(pair_tokens(to_common_length(pair)) for pair in plan.train_tokens)
        scoring = scored * found.scoring.flop / found.scoring.tokens
    return step, training, scoring


def _work_lines(config: Config, plan: Plan, found: "Simulated", placement: Placement) -> list[str]:
    step, training, scoring = count_flop(config, plan, found)
    lines = [
        f"work: {step / 1e12:.3g} TFLOP a step, {training / 1e12:.3g} in all steps,"
        f" {scoring / 1e12:.3g} in scoring"
    ]
    rate, source = _product_rate(placement)
    if rate is not None:
        share = TRAINING_SHARE[placement.device.type]
        seconds = (training + scoring) / (rate * share * placement.processes)
        lines.append(
            f"time: about {duration(seconds)}, of it"
            f" {duration(seconds * scoring / (training + scoring))} scoring: a guess from"
            f" {share:.0%} of {rate / 1e12:.3g} TFLOP/s, {source}"
        )
    return lines


def _product_rate(placement: Placement) -> tuple[float | None, str]:
    """Return one process's matrix-product rate in FLOP/s, and its source."""
    if placement.device.type == "cpu":
        return _cpu_rate(placement.dtype), "measured just now"
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(placement.device)
        for gpu in GPUS:
            if gpu.name in name.replace("-", " ").split() or (" " in gpu.name and gpu.name in name):
                return gpu.peak, f"the data sheet's for {gpu.name}"
    return None, ""


def _cpu_rate(dtype: torch.dtype) -> float:
    left, right = torch.ones(512, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    fastest = math.inf
    for _ in range(4):
        began = time.perf_counter()
        left @ right
        fastest = min(fastest, time.perf_counter() - began)
    return 2 * 512 * 1024 * 1024 / fastest


def _gpu_lines(config: Config, plan: Plan, half: "Simulated") -> list[str]:
    """List the common GPUs that the run fits on in 16 bits, with the time it would take on each."""
    need = device_bytes(half.peak, torch.device("cuda"))
    fitting = [gpu for gpu in GPUS if gpu.gib * GIB >= need]
    if not fitting and _may_checkpoint(config):
        config = _checkpointed(config)
        return _gpu_lines(config, plan, simulated(config, plan, torch.bfloat16))
    head = (
        f"on a GPU, in 16 bits: peak {half.peak / GIB:.1f} GiB, {need / GIB:.1f} with context and"
        " fragmentation"
    )
    if not fitting:
        return [
            f"{head}: more than any single GPU has ({GPUS[-1].sold_as}). Try"
            f" {remedies(config, half.bound_by_training)}"
        ]
    _, training, scoring = count_flop(config, plan, half)
    share = TRAINING_SHARE["cuda"]
    times = ", ".join(
        f"{gpu.sold_as} {duration((training + scoring) / (gpu.peak * share))}" for gpu in fitting
    )
    return [
        f"{head}. It fits these, one of which would take, at a guessed {share:.0%} of its data"
        f" sheet's rate: {times}"
    ]


def _disk_lines(config: Config, found: "Simulated") -> list[str]:
    """Return the disk forecast.

    Of the 16 bytes per weight for adapter, gradient and moments, a checkpoint keeps 12 and the
    final adapter 4.
    """
    if not found.training:
        return []
    count = CHECKPOINTS + BEST_CHECKPOINTS * (config.train.best_by is not None)
    need = found.adapter / 16 * (count * 12 + 4)
    folder = next(
        path
        for path in (Path(config.run.dir).absolute(), *Path(config.run.dir).absolute().parents)
        if path.exists()
    )
    free = shutil.disk_usage(folder).free
    short = ": TOO LITTLE. Free some, or set run.dir" * (need > free)
    return [
        f"disk: {need / GIB:.2f} GiB for {count} checkpoints and the adapter;"
        f" {free / GIB:.1f} free{short}"
    ]


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
