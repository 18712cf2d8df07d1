"""What a run will take, beside what is there: memory, arithmetic, time and disk, told before
anything is loaded."""

import math
import shutil
import threading
import time
from dataclasses import dataclass
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
from mvp_align.training.plan import Batches, Plan
from mvp_align.training.step import longest_first, pair_tokens, trained_tokens

if TYPE_CHECKING:
    from mvp_align.planning.simulation import Simulated

GIB = 2**30
CONTEXT_GIB, FRAGMENTED = 1.0, 0.1
"""What a GPU holds beyond live tensors: the CUDA context, and a share of the peak lost between
blocks. On an H200 it was 0.75 GiB and up to 9 % (docs/memory.md)."""
CHECKPOINTS = 3
"""Two are kept; a third is there before the oldest goes."""
TRAINING_SHARE = {"cpu": 0.7, "cuda": 0.35}
"""Of the rate of matrix products that a step reaches (the data sheet's, of GPUs): measured on a CPU
and, with LLaMA-2-7B at 4 pairs a pass and more, on an H200 (docs/speed.md); less at fewer pairs, in
small models and with checkpointing."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """`gib` as torch sees it, about; `peak` FLOP/s of dense 16-bit products by the maker's data
    sheet."""

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
    """Raises UserError where the adapter's layers are not in the model. Whatever else fails is one
    line: a forecast keeps no run from starting."""
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
    lines = [
        *_memory_lines(config, found, plan.batches, placement, here),
        *_work_lines(config, plan, found, placement),
    ]
    fits = here is not None and needed(found.peak, placement.device) <= here
    if here is not None and not fits:
        lines.append(
            f"DOES NOT FIT this {placement.device.type}: try"
            f" {remedies(config, found.bound_by_training)}"
        )
    if not torch.cuda.is_available() and not fits:
        half = found if placement.device.type == "cuda" else simulated(config, plan, torch.bfloat16)
        lines += _gpu_lines(config, plan, half)
    return [*lines, *_disk_lines(config, found)]


def simulated(config: Config, plan: Plan, dtype: torch.dtype) -> "Simulated":
    # here: it takes hold of torch where torch promises nothing
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
    """`auto` is decided on the device, by trying: the least that it can come to is simulated."""
    return 1 if config.train.micro_batch_size == "auto" else batches.micro


def needed(peak: int, device: torch.device) -> float:
    """Bytes of the device for a peak of live tensors; on a CPU, at the least."""
    return peak if device.type == "cpu" else peak * (1 + FRAGMENTED) + CONTEXT_GIB * GIB


def _available(placement: Placement) -> float | None:
    """Free bytes for one process; None where the device is not here."""
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
        more = (
            f"with fragmentation and context: {needed(found.peak, placement.device) / GIB:.1f} GiB"
        )
    free = "" if here is None else f"; free here: {here / GIB:.1f} GiB"
    return [
        (
            f"memory{each}, simulated, GiB: weights {found.weights / GIB:.2f}, adapter and"
            f" optimizer {found.adapter / GIB:.2f}, peak {found.peak / GIB:.2f}"
            f" ({'; '.join(parts)})"
        ),
        f"{more}{free}",
    ]


def remedies(config: Config, training: bool) -> str:
    """What takes less memory than this config, in `training` or else in scoring; the most harmless
    first."""
    ways = []
    micro = config.train.micro_batch_size
    if training and isinstance(micro, int) and micro > 1:
        ways.append(f"train.micro_batch_size={micro // 2}")
    if training and not config.hardware.gradient_checkpointing:
        ways.append("hardware.gradient_checkpointing=true")
    if not training and config.evals.batch_size > 1:
        ways.append(f"evals.batch_size={config.evals.batch_size // 2}")
    if config.quantization != "4bit" and run_quantization(config.model, "none") == "none":
        ways.append("quantization=4bit")
    return ", ".join([*ways, "a lower data.max_tokens", "a smaller model"])


def work(config: Config, plan: Plan, found: "Simulated") -> tuple[float, float, float]:
    """FLOP of a training step, of all of them, and of all scoring: references once, evaluation sets
    before and after. By tokens, at the simulated passes' FLOP a token, so without what shared
    profiles and earlier runs' log-probs save."""
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
        scoring = scored * found.scoring.flop / found.scoring.tokens
    return step, training, scoring


def _work_lines(config: Config, plan: Plan, found: "Simulated", placement: Placement) -> list[str]:
    step, training, scoring = work(config, plan, found)
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
    """FLOP/s of matrix products of one process, and where that is known from."""
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
    """Which of the common GPUs the run fits on, in 16 bits, and how long it would take on one."""
    need = needed(half.peak, torch.device("cuda"))
    fitting = [gpu for gpu in GPUS if gpu.gib * GIB >= need]
    head = (
        f"on a GPU, in 16 bits: peak {half.peak / GIB:.1f} GiB, {need / GIB:.1f} with context and"
        " fragmentation"
    )
    if not fitting:
        return [
            f"{head}: more than any single GPU has ({GPUS[-1].sold_as}). Try"
            f" {remedies(config, half.bound_by_training)}"
        ]
    _, training, scoring = work(config, plan, half)
    share = TRAINING_SHARE["cuda"]
    times = ", ".join(
        f"{gpu.sold_as} {duration((training + scoring) / (gpu.peak * share))}" for gpu in fitting
    )
    return [
        f"{head}. It fits these, one of which would take, at a guessed {share:.0%} of its data"
        f" sheet's rate: {times}"
    ]


def _disk_lines(config: Config, found: "Simulated") -> list[str]:
    """Of 16 bytes of adapter, gradient and moments a weight, a checkpoint keeps 12 and the final
    adapter 4."""
    if not found.training:
        return []
    need = found.adapter / 16 * (CHECKPOINTS * 12 + 4)
    folder = next(
        path
        for path in (Path(config.run.dir).absolute(), *Path(config.run.dir).absolute().parents)
        if path.exists()
    )
    free = shutil.disk_usage(folder).free
    short = ": TOO LITTLE. Free some, or set run.dir" * (need > free)
    return [
        f"disk: {need / GIB:.2f} GiB for {CHECKPOINTS} checkpoints and the adapter;"
        f" {free / GIB:.1f} free{short}"
    ]


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
