"""Environment variables of libraries that mean the same as settings of ours.

A setting that is left as it is obeys its variable; a setting that is given and a variable that says
otherwise are refused together, because nobody can know which of the two was meant. Nothing here
imports a library.
"""

import os
from typing import Literal

from mvp_align.config import Config, Hardware, Tracking

WandbMode = Literal["online", "offline", "disabled"]

WANDB_MODES: dict[str, WandbMode] = {
    "online": "online", "run": "online", "offline": "offline", "dryrun": "offline",
    "disabled": "disabled",
}  # fmt: skip
"""What WANDB_MODE may say. W&B's `shared` is for several processes that write one run; here one of
them writes."""

TRACKIO_SERVERS = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
"""Either sends trackio's runs away."""

SHARDING = {
    "ACCELERATE_USE_FSDP": "fsdp",
    "ACCELERATE_USE_DEEPSPEED": "zero2",
    "ACCELERATE_USE_MEGATRON_LM": "",
}
"""What `accelerate launch` sets from its config file, and the `hardware.sharding` that means it."""


def variable_problems(config: Config) -> list[str]:
    """Every variable that contradicts a setting or that cannot be obeyed, with what to do; empty
    where there is none."""
    tracking = config.tracking
    problems = launcher_problems(config.hardware, dry_run=config.train.dry_run)
    if tracking.backend == "wandb":
        problems += wandb_problems(tracking)
    if tracking.backend == "trackio":
        problems += trackio_problems(tracking)
    return problems


def wandb_mode(wanted: str) -> WandbMode:
    """`tracking.mode` resolved: auto is what W&B's variables say, else online where it has a key in
    WANDB_API_KEY."""
    if wanted in ("online", "offline"):
        return WANDB_MODES[wanted]
    variable = mode_variable()
    if variable is not None:
        return "disabled" if variable == "WANDB_DISABLED" else WANDB_MODES[value(variable).lower()]
    return "online" if value("WANDB_API_KEY") else "offline"


def mode_variable() -> str | None:
    """The variable that decides W&B's mode, if one is set. transformers reads WANDB_DISABLED, W&B
    itself no longer does."""
    if is_true("WANDB_DISABLED"):
        return "WANDB_DISABLED"
    return "WANDB_MODE" if value("WANDB_MODE") else None


def wandb_project(tracking: Tracking) -> str:
    return tracking.project or value("WANDB_PROJECT") or "mvp-align"


def wandb_problems(tracking: Tracking) -> list[str]:
    problems = []
    variable = mode_variable()
    if variable == "WANDB_MODE" and value("WANDB_MODE").lower() not in WANDB_MODES:
        problems.append(
            f"WANDB_MODE={value('WANDB_MODE')}: must be one of {', '.join(WANDB_MODES)}."
        )
    elif (
        variable and tracking.mode in ("online", "offline") and wandb_mode("auto") != tracking.mode
    ):
        problems.append(contradiction("tracking.mode", tracking.mode, variable))
    given: dict[str, tuple[object, object, str]] = {
        "project": (tracking.project, value("WANDB_PROJECT"), "WANDB_PROJECT"),
        "entity": (tracking.entity, value("WANDB_ENTITY"), "WANDB_ENTITY"),
        "group": (tracking.group, value("WANDB_RUN_GROUP"), "WANDB_RUN_GROUP"),
        "tags": (
            list(tracking.tags),
            [tag.strip() for tag in value("WANDB_TAGS").split(",") if tag.strip()],
            "WANDB_TAGS",
        ),
    }
    for name, (ours, theirs, variable) in given.items():
        if ours and theirs and ours != theirs:
            shown = f"[{','.join(tracking.tags)}]" if name == "tags" else str(ours)
            problems.append(contradiction(f"tracking.{name}", shown, variable))
    if value("WANDB_RESUME") not in ("", "allow"):
        problems.append(
            f"WANDB_RESUME={value('WANDB_RESUME')}: a run that goes on keeps its own id. Unset it."
        )
    uploads = value("WANDB_LOG_MODEL").lower()
    if uploads and (uploads in ("false", "0", "no", "off")) == tracking.artifacts:
        kept = str(tracking.artifacts).lower()
        problems.append(contradiction("tracking.artifacts", kept, "WANDB_LOG_MODEL"))
    if value("WANDB_WATCH").lower() not in ("", "false"):
        problems.append(
            f"WANDB_WATCH={value('WANDB_WATCH')}: no gradients or weights are told to W&B."
            " Unset it."
        )
    return problems


def trackio_mode(wanted: str) -> Literal["online", "offline"]:
    """`tracking.mode` resolved: auto is online where a variable names a Space or a server."""
    if wanted == "auto":
        return "online" if any(map(value, TRACKIO_SERVERS)) else "offline"
    return "online" if wanted == "online" else "offline"


def trackio_problems(tracking: Tracking) -> list[str]:
    problems = []
    server = next(filter(value, TRACKIO_SERVERS), None)
    if server and tracking.mode == "offline":
        problems.append(contradiction("tracking.mode", "offline", server))
    if tracking.mode == "online" and not server:
        problems.append(
            f"tracking.mode=online: trackio goes where {' or '.join(TRACKIO_SERVERS)} says. Set"
            " one."
        )
    offline = next(filter(is_true, ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")), None)
    if offline and server == "TRACKIO_SPACE_ID" and tracking.mode != "offline":
        problems.append(
            f"{offline}=1 keeps trackio from TRACKIO_SPACE_ID={value(server)}: unset either."
        )
    return problems


def launched_precision() -> str | None:
    """What `accelerate launch --mixed_precision` asked for, as `hardware.precision` has it; None
    where it did not."""
    asked = value("ACCELERATE_MIXED_PRECISION").lower()
    return asked if asked not in ("", "no") else None


def launcher_problems(hardware: Hardware, *, dry_run: bool) -> list[str]:
    """A dry run may plan for a GPU that is not here."""
    problems = process_problems()
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


def process_problems() -> list[str]:
    """Processes that are told of each other in part would each do the whole run, or end in torch's
    own error."""
    numbers = {name: value(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    wrong = [
        f"{name}={number}: a whole number belongs there."
        for name, number in numbers.items()
        if not is_count(number)
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
    told = ", ".join(f"{name}={number}" for name, number in numbers.items() if number)
    return [
        f"{told}, but no {', '.join(missing)}: processes of one run find each other by all of them."
        " `accelerate launch` and `torchrun` set them; to run one process, unset"
        f" {', '.join(name for name, number in numbers.items() if number)}."
    ]


def is_count(number: str) -> bool:
    return not number or number.isdecimal()


def contradiction(setting: str, given: str, variable: str) -> str:
    said = os.environ.get(variable, "")
    return (
        f"{setting}={given}, and {variable}={said} says otherwise: leave the one out, or unset the"
        " other."
    )


def value(variable: str) -> str:
    return os.environ.get(variable, "").strip()


def is_true(variable: str) -> bool:
    """As the libraries read their flags."""
    return value(variable).lower() in ("1", "true", "yes", "on")
