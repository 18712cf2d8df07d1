"""The tracker accepts every call, never raises, and imports tracking libraries only when needed."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from mvp_align.config import Config
from mvp_align.metrics.rows import Row
from mvp_align.reporting.tracked import summary, tables
from mvp_align.runs.run_folder import RunFolder, open_run
from mvp_align.tracking.tracker import Tracker, start_tracking

MakeConfig = Callable[..., Config]


@pytest.mark.parametrize("backend", ["wandb", "tensorboard", "trackio"])
@pytest.mark.parametrize("writes", [True, False])
def test_no_backend_or_no_writer_leaves_no_trace(
    tmp_path: Path, rows: list[Row], tracked: MakeConfig, backend: str, writes: bool
) -> None:
    chosen = tracked(backend="none" if writes else backend)
    folder = open_run(tmp_path / "run", chosen)
    tracker = start_tracking(chosen, RunFolder(folder.path, resumed=False, writes=writes))
    tracker.log({"train/loss": 1.0}, step=1)
    tracker.results(tables(rows, []), summary(rows))
    tracker.artifacts(folder)
    tracker.finish()
    assert {path.name for path in folder.path.iterdir()} == {
        "config.yaml",
        "environment.json",
        "LOCK",
    }


@pytest.mark.parametrize("backend", ["wandb", "tensorboard"])
def test_a_tracker_that_fails_while_logging_warns_once_and_goes_on(
    tmp_path: Path, tracked: MakeConfig, backend: str
) -> None:
    chosen = tracked(backend=backend)
    tracker = start_tracking(chosen, open_run(tmp_path / "run", chosen))
    with pytest.warns(UserWarning, match="The run goes on") as caught:
        tracker.log("no metrics", step=1)  # type: ignore[arg-type]
        tracker.log("no metrics", step=2)  # type: ignore[arg-type]
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tracker.log({"train/loss": 0.25}, step=3)
        tracker.finish()
        tracker.log({"train/loss": 0.125}, step=4)  # after the end: nothing
        tracker.finish()


def test_importing_it_imports_no_tracking_library() -> None:
    code = (
        "import sys, mvp_align.tracking.tracker as t; t.Tracker().finish(); "
        "sys.exit(bool({'wandb', 'tensorboard', 'trackio'} & set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False
        ).returncode
        == 0
    )


def test_the_null_tracker_takes_everything(tmp_path: Path, rows: list[Row]) -> None:
    tracker = Tracker()
    tracker.log({"a": 1.0}, step=1)
    tracker.results(tables(rows, []), summary(rows))
    tracker.artifacts(RunFolder(tmp_path, resumed=False))
    tracker.finish(preempted=True)


def test_nan_is_reported_and_not_logged(tmp_path: Path, tracked: MakeConfig) -> None:
    """No tracker's file can hold NaN as JSON; a gradient norm may overflow in fp16 and the run go
    on."""
    seen: list[tuple[dict[str, float], int]] = []

    class Heard:
        def log(self, metrics: dict[str, float], step: int) -> None:
            seen.append((metrics, step))

    tracker = Tracker(Heard())  # type: ignore[arg-type]
    with pytest.warns(
        UserWarning, match=r"Step 7: train/grad_norm is inf, train/x is nan, which is not logged\."
    ):
        tracker.log(
            {"train/loss": 0.5, "train/grad_norm": float("inf"), "train/x": float("nan")}, step=7
        )
    assert seen == [({"train/loss": 0.5}, 7)]
