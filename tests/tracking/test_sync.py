"""Offline records are uploaded in order and once, and kept if that fails."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner
from wandb_server import CANARY, WandbServer

from mvp_align.cli import app
from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.runs.run_folder import open_run
from mvp_align.tracking.sync import error_line, is_synced, offline_runs, synced_marker
from mvp_align.tracking.tracker import start_tracking

MakeConfig = Callable[..., Config]
Record = Callable[..., Path]


@pytest.fixture
def record(tmp_path: Path, tracked: MakeConfig) -> Record:
    """`record("a", [1, 2], preempted=True)`: log these steps offline into the run folder `a`."""
    import wandb

    def recorded(name: str, steps: list[int], preempted: bool = False) -> Path:
        chosen = tracked(mode="offline", samples=0)
        folder = open_run(tmp_path / "outputs" / name, chosen)
        tracker = start_tracking(chosen, folder)
        for step in steps:
            tracker.log({"train/loss": 1 / step}, step)
        tracker.finish(preempted=preempted)
        wandb.teardown()  # all of it is on the disk now
        return folder.path

    return recorded


def sync(*words: object) -> tuple[int, list[str]]:
    result = CliRunner().invoke(app, ["runs", "sync", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output.splitlines()


def steps(server: WandbServer, folder: Path) -> list[int]:
    return [
        row["train/step"]
        for row in server.runs[(folder / "wandb_id.txt").read_text().strip()].history()
    ]


def test_the_parts_of_a_run_become_one_and_are_uploaded_once(
    tmp_path: Path, record: Record, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    long = record("sweep/long", [1, 2, 3], preempted=True)
    time.sleep(1.1)  # wandb orders parts by the second
    record("sweep/long", [3, 4], preempted=True)
    time.sleep(1.1)
    record("sweep/long", [4, 5])
    short = record("short", [1])
    code, lines = sync()
    assert code == 0
    assert lines == [
        (
            "outputs/short: uploaded"
            f" {wandb_server.url}/me/mvp-align/runs/{(short / 'wandb_id.txt').read_text().strip()}"
        ),
        (
            f"outputs/sweep/long: uploaded, 3 parts {wandb_server.url}/me/mvp-align/runs/"
            f"{(long / 'wandb_id.txt').read_text().strip()}"
        ),
    ]
    assert len(wandb_server.runs) == 2
    assert steps(wandb_server, long) == [1, 2, 3, 3, 4, 4, 5]
    assert [run.exit_code for run in wandb_server.runs.values()] == [0, 0]

    wandb_server.runs.clear()
    assert sync(long, short) == (0, [f"{long}: uploaded before", f"{short}: uploaded before"])
    assert wandb_server.runs == {}
    assert not (tmp_path / "wandb").exists()  # nothing is left where the command was given
    assert not any(
        CANARY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    )


def test_what_a_run_wrote_after_its_upload_is_uploaded_too(
    record: Record, wandb_server: WandbServer
) -> None:
    folder = record("run", [1, 2], preempted=True)
    assert sync(folder)[0] == 0
    time.sleep(1.1)
    record("run", [2, 3])
    assert sync(folder)[0] == 0
    assert steps(wandb_server, folder) == [1, 2, 2, 3]


def test_a_record_that_grew_since_is_uploaded_again_without_repeats(
    record: Record, wandb_server: WandbServer
) -> None:
    folder = record("run", [1, 2, 3])
    assert sync(folder)[0] == 0
    ((_, [part]),) = offline_runs([folder]).items()
    before = part.stat().st_mtime - 5
    os.utime(synced_marker(part), (before, before))
    assert not is_synced(part)
    _, (line,) = sync(folder)
    assert "uploaded http" in line
    assert steps(wandb_server, folder) == [1, 2, 3]


def test_without_a_server_it_says_so_and_loses_nothing(
    record: Record, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = record("one", [1, 2]), record("two", [1])
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    code, lines = sync(one, two)
    assert time.monotonic() - began < 60
    assert code == 1
    assert [line.split(":")[0] for line in lines] == [str(one), str(two)]
    assert all("not uploaded" in line and "connection refused" in line for line in lines)
    monkeypatch.setenv("WANDB_BASE_URL", wandb_server.url)
    assert sync(one, two)[0] == 0
    assert steps(wandb_server, one) == [1, 2]


def test_without_a_key_it_says_how_to_get_one(record: Record) -> None:
    code, (line,) = sync(folder := record("run", [1]))
    assert code == 1
    assert line == f"{folder}: not uploaded: No API key configured. Use `wandb login` to log in."


def test_paths_without_a_run_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        offline_runs([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="holds no offline W&B run"):
        offline_runs([tmp_path])


def test_the_reason_is_the_error_where_there_is_one() -> None:
    assert error_line("wandb: Syncing\nwandb: ERROR it broke\nwandb: ERROR later\n") == "it broke"
    assert error_line("wandb: Syncing\nwandb: stopped\n") == "stopped"
    assert error_line("") == "wandb said nothing"
