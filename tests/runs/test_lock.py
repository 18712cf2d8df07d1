"""Run folders are locked: real processes, killed ones, and locks of other machines."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mvp_align.errors import UserError
from mvp_align.runs import lock as module
from mvp_align.runs.lock import NAME, lock, refuse_if_locked, release, this_process

HOLD = (
    "import sys, time; from pathlib import Path; from mvp_align.runs.lock import lock\n"
    "lock(Path(sys.argv[1])); print('locked', flush=True); time.sleep(float(sys.argv[2]))"
)
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(folder)`: a process that has locked the folder."""
    processes = []

    def started(folder: Path, seconds: float = 60) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
        processes.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        assert processes[-1].stdout is not None and processes[-1].stdout.readline() == "locked\n"
        return processes[-1]

    yield started
    for process in processes:
        process.kill()
        process.wait()


def test_a_second_process_is_told_who_works_there_and_since_when(
    start: Start, tmp_path: Path
) -> None:
    owner = start(tmp_path)
    known = json.loads((tmp_path / NAME).read_text())
    for attempt in (lock, refuse_if_locked):
        with pytest.raises(UserError) as refused:
            attempt(tmp_path)
        said = (
            f"{tmp_path} is in use by process {owner.pid} on {known['host']}, since"
            f" {known['since']} (UTC): wait for it"
        )
        assert str(refused.value).startswith(said)
    assert json.loads((tmp_path / NAME).read_text()) == known


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None])
def test_the_lock_goes_with_its_process_however_that_ends(
    start: Start, tmp_path: Path, end: signal.Signals | None
) -> None:
    owner = start(tmp_path, 60 if end else 0)
    if end:
        owner.send_signal(end)
    owner.wait()
    assert (tmp_path / NAME).exists() == bool(end)  # an orderly end cleans up
    refuse_if_locked(tmp_path)
    lock(tmp_path)
    lock(tmp_path)  # again is no mistake
    assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    release(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_deleted_meanwhile_is_locked_anew(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    lock(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").mkdir()
    lock(tmp_path / "run")
    assert (tmp_path / "run" / NAME).exists()


def test_a_fork_of_the_owner_frees_nothing(tmp_path: Path) -> None:
    lock(tmp_path)
    child = os.fork()
    if child == 0:
        release(tmp_path)
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / NAME).exists()


def written(folder: Path, silent_seconds: float = 0, **changes: object) -> None:
    """Write LOCK as a process on another machine would have left it."""
    owner = replace(this_process(), host="node7", machine="another", pid=4_000_000, **changes)
    (folder / NAME).write_text(json.dumps(asdict(owner)))
    then = time.time() - silent_seconds
    os.utime(folder / NAME, (then, then))


def test_another_machines_process_is_alive_while_it_moves_the_files_time_on(tmp_path: Path) -> None:
    written(tmp_path, silent_seconds=module.SILENT_SECONDS / 2)
    with pytest.raises(
        UserError,
        match=r"in use by process 4000000 on node7, since .* on another machine after 120 s",
    ):
        lock(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    written(tmp_path, silent_seconds=module.SILENT_SECONDS + 1)
    lock(tmp_path)


def test_the_owner_moves_the_files_time_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    lock(tmp_path)
    os.utime(tmp_path / NAME, (1, 1))
    until = time.monotonic() + 20
    while (tmp_path / NAME).stat().st_mtime < 1e9:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_job_that_slurm_started_again_gets_through_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, job="77", starts=0)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with pytest.raises(UserError, match=r"Slurm job 77"):
        lock(tmp_path)  # two processes of one start of it
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    lock(tmp_path)
    release(tmp_path)
    written(tmp_path, job="78", starts=0)
    with pytest.raises(UserError, match=r"Slurm job 78"):
        lock(tmp_path)


def test_a_machine_that_was_started_anew_has_no_old_processes(tmp_path: Path) -> None:
    written(tmp_path)
    owner = json.loads((tmp_path / NAME).read_text()) | {"host": this_process().host}
    (tmp_path / NAME).write_text(json.dumps(owner))
    lock(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_lock_that_a_kill_left_half_written_is_no_obstacle(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    lock(tmp_path)


def test_without_the_kernels_locks_the_process_is_looked_up(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError("Function not implemented")

    monkeypatch.setattr(module.fcntl, "flock", unsupported)
    owner = start(tmp_path)
    with pytest.raises(UserError, match=f"process {owner.pid} on"):
        lock(tmp_path)
    owner.kill()
    owner.wait()
    lock(tmp_path)


@pytest.mark.parametrize(
    "words", [["stats"], ["report"], ["judge", "--judge", "semantic"], ["generate"]]
)
def test_commands_that_write_to_a_run_wait_their_turn(
    start: Start, tmp_path: Path, words: list[str]
) -> None:
    from mvp_align.cli import app

    start(tmp_path)
    ended = CliRunner().invoke(app, [words[0], str(tmp_path), *words[1:]])
    assert isinstance(ended.exception, UserError)
    assert "is in use by process" in str(ended.exception)
