"""Variables of W&B and trackio that contradict `tracking.*`. Imports neither library."""

from typing import Literal

from mvp_align.runtime.variables import contradiction, is_true, value
from mvp_align.runtime.watching import Tracking

WandbMode = Literal["online", "offline", "disabled"]

WANDB_MODES: dict[str, WandbMode] = {
    "online": "online", "run": "online", "offline": "offline", "dryrun": "offline",
    "disabled": "disabled",
}  # fmt: skip
"""Values of WANDB_MODE.

W&B's `shared` is for several processes that write one run; here only one writes.
"""

TRACKIO_SERVERS = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
"""Either variable makes trackio upload runs."""


def wandb_mode(wanted: str) -> WandbMode:
    """Resolve `tracking.mode`. `auto` follows W&B's variables, or is online with WANDB_API_KEY."""
    if wanted in ("online", "offline"):
        return WANDB_MODES[wanted]
    variable = mode_variable()
    if variable is not None:
        return "disabled" if variable == "WANDB_DISABLED" else WANDB_MODES[value(variable).lower()]
    return "online" if value("WANDB_API_KEY") else "offline"


def mode_variable() -> str | None:
    """Return the variable that decides W&B's mode, if any.

    transformers reads WANDB_DISABLED; W&B itself no longer does.
    """
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
    """Resolve `tracking.mode`. `auto` is online if a variable names a Space or a server."""
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
