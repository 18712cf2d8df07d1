"""Resolve the device, precision and attention of a run, in one place."""

import ctypes
import importlib.util
import os
from contextlib import suppress
from dataclasses import dataclass

import torch
from accelerate import PartialState

from mvp_align.config import Hardware
from mvp_align.errors import UserError
from mvp_align.modeling.launcher import launched_precision
from mvp_align.runtime.variables import is_true

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Placement:
    """The resolved `hardware` group. `attention=None` leaves the choice to the model."""

    device: torch.device
    dtype: torch.dtype
    attention: str | None
    compile: bool = False

    @property
    def processes(self) -> int:
        return int(PartialState().num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes."""
        return bool(PartialState().is_main_process)

    @property
    def precision(self) -> str:
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)


def resolve_hardware(hardware: Hardware, *, dry_run: bool = False) -> Placement:
    """Resolve each `auto` against this machine and the settings of `accelerate launch`.

    Raises UserError if the machine lacks what the config asks for (a GPU, bf16 units,
    FlashAttention), if Slurm started several processes that are not connected, or if ZeRO-2 has
    only one process. A dry run needs no GPU: with `device=cuda` it assumes one with bf16 units.
    """
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks != "1" and "RANK" not in os.environ:
        raise UserError(
            f"srun started {tasks} processes, and nothing told them of each other: each would do"
            " the whole run, all in one folder. Use slurm/train.sbatch, or start one process."
        )
    has_gpu = torch.cuda.is_available()
    attention = None if hardware.attention == "auto" else hardware.attention
    if dry_run and hardware.device == "cuda" and not has_gpu:
        PartialState(cpu=True)
        precision = (
            hardware.precision if hardware.precision != "auto" else launched_precision() or "bf16"
        )
        _check_sharding(hardware, precision, dry_run)
        return Placement(torch.device("cuda"), DTYPES[precision], attention, hardware.compile)
    if hardware.device == "cuda" and not has_gpu:
        raise UserError(
            "hardware.device=cuda, but torch sees no CUDA GPU here. Run on a GPU node, install a"
            " CUDA build of torch (`python -c 'import torch; print(torch.version.cuda)'` prints"
            " None for a CPU build), or use hardware=cpu."
        )
    on_gpu = has_gpu and hardware.device != "cpu" and not is_true("ACCELERATE_USE_CPU")
    PartialState(cpu=not on_gpu)  # set it here, before other code creates it
    device = PartialState().device if on_gpu else torch.device("cpu")
    if not on_gpu:
        keep_freed_memory()
        # otherwise DeepSpeed, if installed, looks for a GPU
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    precision = (
        hardware.precision
        if hardware.precision != "auto"
        else launched_precision() or best_precision(on_gpu)
    )
    _check_precision(precision, on_gpu)
    _check_sharding(hardware, precision, dry_run)
    if attention == "flash_attention_2":
        if not on_gpu:
            raise UserError(
                "hardware.attention=flash_attention_2 needs a GPU: use hardware.attention=auto."
            )
        if importlib.util.find_spec("flash_attn") is None:
            raise UserError(
                "hardware.attention=flash_attention_2: `pip install flash-attn`, or use"
                " attention=sdpa."
            )
    return Placement(device, DTYPES[precision], attention, hardware.compile)


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory instead of returning the pages of large tensors.

    A training step frees and allocates gigabytes, and under virtualisation the page faults cost as
    much as the arithmetic. Does nothing without glibc.
    """
    trim_threshold, mmap_max = -1, -4  # values of M_TRIM_THRESHOLD and M_MMAP_MAX in malloc.h
    with suppress(OSError, AttributeError):
        glibc = ctypes.CDLL("libc.so.6")
        glibc.mallopt(mmap_max, 0)
        glibc.mallopt(trim_threshold, -1)


def best_precision(on_gpu: bool) -> str:
    """Return bf16 for GPUs with bf16 units, fp16 for other GPUs, and fp32 for CPUs.

    In fp32, every CPU computes the same bytes.
    """
    if not on_gpu:
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def _check_precision(precision: str, on_gpu: bool) -> None:
    if precision == "fp16" and not on_gpu:
        raise UserError("hardware.precision=fp16 needs a GPU: use fp32 (or auto) on a CPU.")
    if precision != "bf16":
        return
    if on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(
            f"hardware.precision=bf16: {torch.cuda.get_device_name()} has no bf16 units. Use"
            " hardware.precision=fp16."
        )
    if not on_gpu and not cpu_has_bf16():
        raise UserError(
            "hardware.precision=bf16: this CPU has no bf16 units, and emulation is hundreds of"
            " times slower than fp32. Use hardware.precision=fp32 (or auto)."
        )


def _check_sharding(hardware: Hardware, precision: str, dry_run: bool) -> None:
    if hardware.sharding != "zero2":
        return
    if precision == "fp16":
        raise UserError(
            "hardware.sharding=zero2 computes in bf16 or fp32, and this GPU has no bf16 units: use"
            " hardware.sharding=none, or hardware.precision=fp32."
        )
    if not dry_run and "RANK" not in os.environ:
        raise UserError(
            "hardware.sharding=zero2 spreads gradients and optimizer over several processes, and"
            " this is one by itself. Start it by `accelerate launch --num_processes N train.py"
            " ...`, or use hardware.sharding=none."
        )


def cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
