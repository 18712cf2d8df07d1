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
    """One tracking library. Its methods may raise whatever the library does: `Tracker` stands
    before them."""

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
    """What a recipe logs to. Its methods raise nothing: a tracker that fails warns once and the run
    goes on."""

    def __init__(self, backend: Backend | None = None) -> None:
        self._backend = backend
        self._warned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # else the library sees the process fail, and says so
        if kind is None or issubclass(kind, Preempted):
            self.finish(preempted=kind is not None)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers at an optimizer step; NaN and infinities are left out, with a word. After a
        resume a step may come again: it is logged as an axis, not refused."""
        self._attempt(lambda backend: backend.log(_finite(metrics, step), step))

    def results(self, tables: Mapping[str, Table], summary: Mapping[str, float]) -> None:
        """The tables of a finished run, and the numbers that stand for it."""
        self._attempt(lambda backend: backend.results(tables, summary))

    def artifacts(self, folder: RunFolder) -> None:
        """The adapter, the scores, and the files that the report is made of, where they are
        there."""
        self._attempt(lambda backend: backend.artifacts(folder))

    def finish(self, *, preempted: bool = False) -> None:
        """Flush and close. `preempted`: the run stops now and goes on later, which is no
        failure."""
        self._attempt(lambda backend: backend.finish(preempted=preempted))
        self._backend = None

    def _attempt(self, send: Callable[[Backend], None]) -> None:
        if self._backend is None:
            return
        try:
            send(self._backend)
        except Exception as error:  # whatever a tracker does, hours of training are worth more
            if not self._warned:
                _warn(error)
            self._warned = True


def _finite(metrics: Mapping[str, float], step: int) -> dict[str, float]:
    """Those that are numbers, which alone a tracker's files can hold; warns of the others."""
    numbers = {name: value for name, value in metrics.items() if is_finite(value)}
    if left_out := [f"{name} is {value}" for name, value in metrics.items() if name not in numbers]:
        warnings.warn(f"Step {step}: {', '.join(left_out)}, which is not logged.", stacklevel=4)
    return numbers


def start_tracking(config: Config, folder: RunFolder) -> Tracker:
    """Begin or resume this run's record; a null one where nothing is tracked
    (`tracking.backend=none`, WANDB_MODE=disabled) and in processes that don't write. Raises
    UserError where WANDB_RUN_ID is another than the run goes on under."""
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
    # no account, no network, a broken installation: none of them is a reason to stop
    except Exception as error:
        _warn(error)
        return Tracker()


def _warn(error: Exception) -> None:
    warnings.warn(
        f"Tracking failed and is left out ({type(error).__name__}: {error}). The run goes on.",
        stacklevel=3,
    )
