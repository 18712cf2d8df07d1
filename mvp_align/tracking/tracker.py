"""Experiment tracking: Weights & Biases, TensorBoard or trackio; a run without any goes through the
same calls.

Curves are sent by us, under the names of transformers' own callbacks (`rewrite_logs`). Those would
close TensorBoard's and trackio's record when training ends, before results are known; write the
training arguments and the model's config over the run's settings; let a tracker's error end the
training; keep no best value in W&B's summary; and leave steps that a resumed run takes again twice
in TensorBoard.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Protocol, Self

from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.runs.run_folder import RunFolder
from mvp_align.runtime.preemption import Preempted
from mvp_align.schema import is_finite
from mvp_align.tracking.contents import Table
from mvp_align.tracking.tensorboard import TensorBoardRun
from mvp_align.tracking.trackio import TrackioRun
from mvp_align.tracking.variables import wandb_mode
from mvp_align.tracking.wandb import WandbRun


class Backend(Protocol):
    """One tracking library.

    Methods may raise any error of the library, because `Tracker` catches it.
    """

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def results(self, tables: Mapping[str, Table], summary: Mapping[str, float]) -> None: ...

    def artifacts(self, folder: RunFolder) -> None: ...

    def finish(self, *, preempted: bool) -> None: ...


BACKENDS: dict[str, Callable[[Config, RunFolder], Backend]] = {
    "wandb": WandbRun,
    "tensorboard": TensorBoardRun,
    "trackio": TrackioRun,
}
"""By the name that `tracking.backend` takes. Each imports its library when it starts a run."""


class Tracker:
    """Tracker used by recipes.

    Its methods never raise: on a failure they warn once and the run goes on.
    """

    def __init__(self, backend: Backend | None = None) -> None:
        self._backend = backend
        self._warned = False

    @property
    def on(self) -> bool:
        return self._backend is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # otherwise the library sees the process fail and reports that
        if kind is None or issubclass(kind, Preempted):
            self.finish(preempted=kind is not None)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log numbers at an optimizer step, and warn about NaN and infinities, which are left out.

        After a resume, a step may repeat. It is logged as an axis, so it is not rejected.
        """
        self._attempt(lambda backend: backend.log(_finite(metrics, step), step))

    def results(self, tables: Mapping[str, Table], summary: Mapping[str, float]) -> None:
        """Log the tables of a finished run, and its summary numbers."""
        self._attempt(lambda backend: backend.results(tables, summary))

    def artifacts(self, folder: RunFolder) -> None:
        """Log the adapter, the scores, and the files of the report, if they exist."""
        self._attempt(lambda backend: backend.artifacts(folder))

    def finish(self, *, preempted: bool = False) -> None:
        """Flush and close. `preempted` means that the run will resume later, so it did not fail."""
        self._attempt(lambda backend: backend.finish(preempted=preempted))
        self._backend = None

    def _attempt(self, send: Callable[[Backend], None]) -> None:
        if self._backend is None:
            return
        try:
            send(self._backend)
        except Exception as error:  # a tracker's failure must not cost hours of training
            if not self._warned:
                _warn(error)
            self._warned = True


def _finite(metrics: Mapping[str, float], step: int) -> dict[str, float]:
    """Return the finite metrics, and warn about others, which tracker files cannot hold."""
    numbers = {name: value for name, value in metrics.items() if is_finite(value)}
    if left_out := [f"{name} is {value}" for name, value in metrics.items() if name not in numbers]:
        warnings.warn(f"Step {step}: {', '.join(left_out)}, which is not logged.", stacklevel=4)
    return numbers


def start_tracking(config: Config, folder: RunFolder) -> Tracker:
    """Start or resume this run's record.

    The tracker does nothing if tracking is off (`tracking.backend=none`, WANDB_MODE=disabled) and
    in processes that do not write. Raises UserError if WANDB_RUN_ID differs from the id of a
    resumed run.
    """
    backend = config.tracking.backend
    disabled = backend == "none" or (
        backend == "wandb" and wandb_mode(config.tracking.mode) == "disabled"
    )
    if disabled or not folder.writes:
        return Tracker()
    try:
        return Tracker(BACKENDS[config.tracking.backend](config, folder))
    except UserError:
        raise
    # no account, no network, a broken installation: none is a reason to stop
    except Exception as error:
        _warn(error)
        return Tracker()


def _warn(error: Exception) -> None:
    warnings.warn(
        f"Tracking failed and is left out ({type(error).__name__}: {error}). The run goes on.",
        stacklevel=3,
    )
