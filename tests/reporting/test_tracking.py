"""A real offline W&B run, and trackers that fail: nothing is mocked."""

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from mvp_align.config import Config, Data, Model, Prompt, Tracking
from mvp_align.evaluation.rows import Row
from mvp_align.reporting.run_folder import RunFolder, open_run
from mvp_align.reporting.tracking import Tracker, mode, start_tracking


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))


def config(**tracking: object) -> Config:
    return Config(
        recipe="lora_dpo",
        model=Model("tiny", "somewhere/tiny"),
        data=Data(name="sample"),
        prompt=Prompt("paper", "{question}"),
        tracking=Tracking(**tracking),  # type: ignore[arg-type]
    )


def records(folder: RunFolder) -> list[bytes]:
    """What wandb wrote, a file each offline run: its text is stored as it is.

    Its own process may write a moment after `finish` returns, so files that hold a header alone get some time.
    """
    paths = sorted(folder.path.glob("wandb/offline-run-*/run-*.wandb"))
    until = time.monotonic() + 30
    while time.monotonic() < until and any(path.stat().st_size < 100 for path in paths):
        time.sleep(0.1)
    return [path.read_bytes() for path in paths]


def test_offline_run_holds_config_metrics_and_results_and_resumes(tmp_path: Path, rows: list[Row]) -> None:
    chosen = config(group="ablation-7", tags=["seed-sweep"], project="values")
    folder = open_run(tmp_path / "run", chosen)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tracker = start_tracking(chosen, folder)
        tracker.log({"train/loss": 0.693147}, step=1)
        tracker.table(rows)
        tracker.finish()
    (written,) = records(folder)
    for text in (
        b"train/loss", b"0.693147", b"train/step", b"ablation-7", b"seed-sweep", b"values",
        b"lora_dpo-tiny-sample-paper-12", b'"learning_rate":0.00005', b"tuned/in_domain/opa/acc@0", b"0.7761",
    ):  # fmt: skip
        assert text in written, text
    (table,) = folder.path.glob("wandb/offline-run-*/files/media/table/results*.table.json")
    assert "birth_country" in table.read_text()

    first = folder.wandb_id.read_text().strip()
    again = start_tracking(chosen, open_run(tmp_path / "run", chosen))
    again.log({"train/loss": 0.5}, step=1)  # the step of a checkpoint, a second time
    again.finish()
    assert folder.wandb_id.read_text().strip() == first
    assert len(records(folder)) == 2
    assert all(first.encode() in written for written in records(folder))


@pytest.mark.parametrize("writes", [True, False])
def test_no_backend_or_no_writer_leaves_no_trace(tmp_path: Path, rows: list[Row], writes: bool) -> None:
    chosen = config(backend="none" if writes else "wandb")
    folder = open_run(tmp_path / "run", chosen)
    tracker = start_tracking(chosen, RunFolder(folder.path, resumed=False, writes=writes))
    tracker.log({"train/loss": 1.0}, step=1)
    tracker.table(rows)
    tracker.finish()
    assert [path.name for path in folder.path.iterdir()] == ["config.yaml"]


def test_tracker_that_cannot_start_warns_and_lets_the_run_go_on(tmp_path: Path) -> None:
    chosen = config(mode="offline")
    folder = open_run(tmp_path / "run", chosen)
    folder.wandb_id.write_text("no/such:id")
    with pytest.warns(UserWarning, match="Tracking failed and is left out") as caught:
        tracker = start_tracking(chosen, folder)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.log({"train/loss": 1.0}, step=1)
        tracker.finish()


def test_tracker_that_fails_while_logging_warns_once(tmp_path: Path) -> None:
    chosen = config()
    folder = open_run(tmp_path / "run", chosen)
    tracker = start_tracking(chosen, folder)
    with pytest.warns(UserWarning, match="The run goes on") as caught:
        tracker.log("no metrics", step=1)  # type: ignore[arg-type]
        tracker.log("no metrics", step=2)  # type: ignore[arg-type]
    tracker.log({"train/loss": 0.25}, step=3)
    tracker.finish()
    assert len(caught) == 1
    assert b"0.25" in records(folder)[0]
    tracker.log({"train/loss": 0.125}, step=4)  # after the end: nothing


def test_auto_is_online_only_with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "")
    assert mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert (mode("auto"), mode("offline")) == ("online", "offline")


def test_importing_it_does_not_import_wandb() -> None:
    code = "import sys, mvp_align.reporting.tracking as t; t.Tracker().finish(); sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_null_tracker_takes_everything(rows: list[Row]) -> None:
    tracker = Tracker()
    tracker.log({"a": 1.0}, step=1)
    tracker.table(rows)
    tracker.finish()
