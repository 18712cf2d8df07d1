"""Environment variables of `accelerate launch` and torchrun that contradict `hardware.*`.

Nothing here imports torch.
"""

import os

from mvp_align.config import Hardware
from mvp_align.runtime.variables import contradiction, is_true, value

SHARDING = {
    "ACCELERATE_USE_FSDP": "fsdp",
    "ACCELERATE_USE_DEEPSPEED": "zero2",
    "ACCELERATE_USE_MEGATRON_LM": "",
}
"""Variables that `accelerate launch` sets from its config, and their `hardware.sharding`."""


def launched_precision() -> str | None:
    """Return `accelerate launch --mixed_precision` as a `hardware.precision`, or None if unset."""
    asked = value("ACCELERATE_MIXED_PRECISION").lower()
    return asked if asked not in ("", "no") else None


def launcher_problems(hardware: Hardware, *, dry_run: bool) -> list[str]:
    """List contradictions between launcher and config. A dry run may plan for an absent GPU."""
    problems = _process_problems()
    precision = launched_precision()
    if precision is not None and precision not in ("bf16", "fp16"):
        problems.append(
            f"ACCELERATE_MIXED_PRECISION={precision}: must be bf16, fp16 or no"
            " (hardware.precision)."
        )
    elif precision is not None and hardware.precision not in ("auto", precision):
        problems.append(
            contradiction("hardware.precision", hardware.precision, "ACCELERATE_MIXED_PRECISION")
        )
    if hardware.device == "cuda" and not dry_run:
        if is_true("ACCELERATE_USE_CPU"):
            problems.append(contradiction("hardware.device", "cuda", "ACCELERATE_USE_CPU"))
        if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
            problems.append(contradiction("hardware.device", "cuda", "CUDA_VISIBLE_DEVICES"))
    for variable, sharding in SHARDING.items():
        if is_true(variable) and hardware.sharding != sharding:
            meant = f"set hardware.sharding={sharding}, or " if sharding else ""
            problems.append(
                f"{variable}={value(variable)}, and hardware.sharding={hardware.sharding}:"
                f" {meant}take it out of the launcher's config (`accelerate config`)."
            )
    if value("ACCELERATE_DYNAMO_BACKEND").lower() not in ("", "no"):
        problems.append(
            f"ACCELERATE_DYNAMO_BACKEND={value('ACCELERATE_DYNAMO_BACKEND')}: models are not"
            " compiled here. Launch with --dynamo_backend no."
        )
    return problems


def _process_problems() -> list[str]:
    """List problems with the variables that connect processes.

    If only some are set, each process would do the whole run, or fail with an error from torch.
    """
    numbers = {name: value(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    wrong = [
        f"{name}={number}: a whole number belongs there."
        for name, number in numbers.items()
        if not _is_count(number)
    ]
    several = (
        numbers["LOCAL_RANK"]
        or numbers["RANK"] not in ("", "0")
        or numbers["WORLD_SIZE"] not in ("", "1")
    )
    if wrong or not several:
        return wrong
    missing = [name for name in (*numbers, "MASTER_ADDR") if not value(name)]
    if not missing:
        return []
    given = ", ".join(f"{name}={number}" for name, number in numbers.items() if number)
    return [
        f"{given}, but no {', '.join(missing)}: processes of one run find each other by all of"
        " them. `accelerate launch` and `torchrun` set them; to run one process, unset"
        f" {', '.join(name for name, number in numbers.items() if number)}."
    ]


def _is_count(number: str) -> bool:
    return not number or number.isdecimal()
