"""trackio's database and requests, in separate processes because it reads its paths only once."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mvp_align.metrics.rows import Row

Run = Callable[..., dict[str, Any]]

ROOT = Path(__file__).parents[2]
CANARY = "hf_canary0123456789"

PRELUDE = """
import json, sys, warnings
from pathlib import Path

reached = []
def audit(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        reached.append(str(args[1:] if event == "socket.connect" else args[0]))
sys.addaudithook(audit)

from mvp_align.config import Config, Data, Model, Prompt
from mvp_align.metrics.rows import Row
from mvp_align.runs.run_folder import open_run
from mvp_align.runtime.watching import Tracking
from mvp_align.reporting.samples import Sample
from mvp_align.reporting.tracked import summary, tables
from mvp_align.tracking.tracker import start_tracking

rows = [Row(**row) for row in json.loads(Path(sys.argv[2]).read_text())]
sample = Sample("in_domain", "p7", "dimension=safety", "What now?", "Wait.", "Run!", -0.25, 0.5)
model, prompt = Model("tiny", "somewhere/tiny"), Prompt("paper", "{question}")
tracking = Tracking("trackio", tags=["sweep"])
config = Config("lora_dpo", model, Data("sample"), prompt, tracking=tracking)
folder = open_run(Path(sys.argv[1]), config)
"""


@pytest.fixture
def trackio(tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`trackio(code)`: run code after the prelude, and return its last line of output as JSON."""
    (tmp_path / "rows.json").write_text(json.dumps([asdict(row) for row in rows]))
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")

    def ran(code: str) -> dict[str, Any]:
        words = [
            sys.executable,
            "-c",
            PRELUDE + code,
            str(tmp_path / "run"),
            str(tmp_path / "rows.json"),
        ]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert CANARY not in done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return ran


STORED = """
from trackio.sqlite_storage import SQLiteStorage
def stored():
    runs = SQLiteStorage.get_run_records("mvp-align")
    logs = [SQLiteStorage.get_logs("mvp-align", run["name"], run_id=run["id"]) for run in runs]
    return [[{key: log[key] for key in log if key != "timestamp"} for log in one] for one in logs]
"""


def test_a_run_is_kept_whole_and_nobody_is_asked(trackio: Run, tmp_path: Path) -> None:
    found = trackio(
        """
for path in (folder.adapter, folder.path / "scores"):
    path.mkdir()
    (path / "file").write_text(path.name)
folder.shared_report.parent.mkdir(exist_ok=True)
folder.report.write_text("texts")
folder.shared_report.write_text("<html>")
with warnings.catch_warnings():
    warnings.simplefilter("error", UserWarning)
    tracker = start_tracking(config, folder)
    tracker.log({"train/loss": 0.7}, 1)
    tracker.log({"train/loss": 0.6}, 2)
    tracker.results(tables(rows, [sample]), summary(rows))
    tracker.artifacts(folder)
    tracker.finish()
"""
        + STORED
        + """
import os
import trackio
(run,) = trackio.Api().runs("mvp-align")
blobs = Path(os.environ["TRACKIO_DIR"], "artifacts").rglob("*")
print(json.dumps({
    "reached": reached, "config": run.config, "logs": stored(),
    "artifacts": sorted(path.read_text() for path in blobs if path.is_file()),
}))
"""
    )
    assert found["reached"] == []
    config = found["config"]
    assert (config["_Group"], config["tracking"]["tags"]) == (
        "lora_dpo-tiny-sample-paper",
        ["sweep"],
    )
    assert config["train"]["learning_rate"] == 5e-5
    assert config["environment"]["versions"]["torch"]
    ((first, second, end),) = found["logs"]
    assert [first, second] == [{"train/loss": 0.7, "step": 1}, {"train/loss": 0.6, "step": 2}]
    assert end["tuned/in_domain/opa/acc@0"] == 0.7761
    assert [row["group"] for row in end["groups/in_domain_by_level"]["_value"]] == ["High", "Low"]
    assert end["samples"]["_value"][0]["tuned_margin"] == 0.5
    *others, environment = found["artifacts"]
    assert others == ["<html>", "adapter", "scores"]
    assert json.loads(environment)["inputs"] == {"model": "somewhere/tiny"}
    assert not (tmp_path / "run" / "trackio").exists()


def test_a_variable_sends_it_to_a_space(trackio: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what the test above would see if a run were not kept local."""
    monkeypatch.setenv("TRACKIO_SPACE_ID", "someone/space")
    found = trackio(
        "start_tracking(config, folder).finish()\nprint(json.dumps({'reached': reached}))"
    )
    assert found["reached"]


def test_a_resumed_run_goes_on_and_a_new_one_of_its_name_does_not(trackio: Run) -> None:
    found = trackio(
        """
import shutil
def worked(steps):
    tracker = start_tracking(config, open_run(Path(sys.argv[1]), config))
    for step in steps:
        tracker.log({"train/loss": step / 10}, step)
    tracker.finish(preempted=True)
worked([1, 2])
worked([2, 3])
shutil.rmtree(folder.path)
worked([1])
"""
        + STORED
        + 'print(json.dumps({"steps": sorted([log["step"] for log in run] for run in stored())}))'
    )
    assert found["steps"] == [[1], [1, 2, 2, 3]]


WITHOUT_A_PLACE = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    tracker = start_tracking(config, folder)
    fill()
    for step in range(20):
        tracker.log({"train/loss": 0.5}, step)
    tracker.results(tables(rows, [sample]), summary(rows))
    tracker.artifacts(folder)
    tracker.finish()
warned = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
print(json.dumps({"warned": warned}))
"""


def test_a_folder_that_cannot_be_made_stops_the_tracker_alone(
    trackio: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "file" / "trackio"))
    found = trackio("fill = lambda: None\n" + WITHOUT_A_PLACE)
    assert found["warned"]


def test_a_full_disk_stops_the_tracker_alone(
    trackio: Run, mount_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = mount_disk("2m")
    monkeypatch.setenv("TRACKIO_DIR", str(disk / "trackio"))
    found = trackio(
        f"""
def fill():
    with open({str(disk / "filler")!r}, "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(b"0" * 4096)
        except OSError:
            pass
"""
        + WITHOUT_A_PLACE
    )
    assert any("disk is full" in said or "No space left" in said for said in found["warned"]), found
