"""Weights & Biases, offline unless asked otherwise; a run without it goes through the same calls."""

import os
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import OmegaConf

from mvp_align.atomic import write_text
from mvp_align.config import Config
from mvp_align.evaluation.rows import Row
from mvp_align.reporting.run_folder import RunFolder

if TYPE_CHECKING:
    from wandb import Run

STEP = "train/step"


class Tracker:
    """What a recipe logs to. Its methods raise nothing: a tracker that fails warns once and the run goes on."""

    def __init__(self, run: "Run | None" = None) -> None:
        self._run = run
        self._warned = False

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers at an optimizer step. After a resume a step may come again: it is logged as an axis, not refused."""
        self._attempt(lambda run: run.log({**metrics, STEP: step}))

    def table(self, rows: Sequence[Row]) -> None:
        """All rows as a table, and those of whole sets as the run's summary (`tuned/in_domain/opa/acc@0`)."""

        def send(run: "Run") -> None:
            import wandb

            columns: list[str | int] = [field.name for field in fields(Row)]
            run.log({"results": wandb.Table(columns=columns, data=[list(asdict(row).values()) for row in rows])})
            run.summary.update({f"{r.stage}/{r.set}/{r.metric}": r.value for r in rows if not r.group_by})

        self._attempt(send)

    def finish(self) -> None:
        """Flush and close; an offline run then lies under `wandb/` in the run folder, for `wandb sync`."""
        self._attempt(lambda run: run.finish())
        self._run = None

    def _attempt(self, send: Callable[["Run"], object]) -> None:
        if self._run is None:
            return
        try:
            send(self._run)
        except Exception as error:  # whatever a tracker does, hours of training are worth more
            if not self._warned:
                warn(error)
            self._warned = True


def start_tracking(config: Config, folder: RunFolder) -> Tracker:
    """Begin or resume this run's W&B record; a null one for `tracking.backend=none` and processes that don't write."""
    if config.tracking.backend == "none" or not folder.writes:
        return Tracker()
    try:
        return Tracker(start_wandb(config, folder))
    except Exception as error:  # no account, no network, a broken installation: none of them is a reason to stop
        warn(error)
        return Tracker()


def start_wandb(config: Config, folder: RunFolder) -> "Run":
    import wandb

    chosen = mode(config.tracking.mode)
    settings = full_config(config)
    run = wandb.init(
        mode=chosen,
        dir=folder.path,
        id=run_id(folder),
        resume="allow" if chosen == "online" else None,  # offline, wandb ignores it with a warning; the id is enough
        name=settings["run"]["name"],
        job_type=config.recipe,
        project=config.tracking.project,
        entity=config.tracking.entity,
        group=config.tracking.group,
        tags=config.tracking.tags,
        config=settings,
    )
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP)
    return run


def mode(wanted: str) -> Literal["online", "offline"]:
    if wanted == "auto":
        return "online" if os.environ.get("WANDB_API_KEY") else "offline"
    return "online" if wanted == "online" else "offline"


def run_id(folder: RunFolder) -> str:
    """The same id after a resume, so that one run stays one line in W&B."""
    if folder.wandb_id.is_file() and (stored := folder.wandb_id.read_text(encoding="utf-8").strip()):
        return stored
    fresh = uuid.uuid4().hex[:8]
    write_text(folder.wandb_id, f"{fresh}\n")
    return fresh


def full_config(config: Config) -> dict[str, Any]:
    container = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def warn(error: Exception) -> None:
    warnings.warn(f"Tracking failed and is left out ({type(error).__name__}: {error}). The run goes on.", stacklevel=3)
