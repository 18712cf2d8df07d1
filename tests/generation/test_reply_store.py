"""The reply store: append-only, synced, one process at a time, with clear errors."""

import multiprocessing
import resource
import shutil
import sqlite3
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from mvp_align.errors import UserError
from mvp_align.generation.completion import Completion
from mvp_align.generation.reply_store import open_store
from mvp_align.generation.response import Reply


def reply(text: str, **changes: object) -> Reply:
    values = {"model": "m-1", "prompt_tokens": 3, "completion_tokens": 2, "seconds": 0.1}
    return Reply(
        **(
            {"completion": Completion(text), "raw": f"<{text}>", "response_format": "text"}
            | values
            | changes
        )
    )  # type: ignore[arg-type]


def test_stored_replies_are_found(tmp_path: Path, query) -> None:
    path = tmp_path / "replies.sqlite"
    with open_store(path) as store:
        store.add("a", "m", reply("A", failures=("HTTP 500", "timed out")))
        store.add(
            "b",
            "m",
            reply(
                "", completion=Completion("B\0 ü \N{GRINNING FACE}", "length"), prompt_tokens=None
            ),
        )
        store.log("c", "m", ["HTTP 400"])
    with open_store(path) as store:
        known = store.known(["b", "a", "c", "a"])
    assert known == {
        "a": Completion("A", "stop"),
        "b": Completion("B\0 ü \N{GRINNING FACE}", "length"),
    }
    assert [known["a"].cut, known["b"].cut] == [False, True]
    failures = [("a", "HTTP 500"), ("a", "timed out"), ("c", "HTTP 400")]
    assert query(path, "SELECT key, problem FROM attempts") == failures
    assert query(path, "SELECT raw FROM replies WHERE key = 'a'") == [("<A>",)]


def test_rows_are_only_added(tmp_path: Path, query) -> None:
    path = tmp_path / "replies.sqlite"
    with open_store(path) as store:
        store.add("a", "m", reply("A"))
        with pytest.raises(UserError, match="UNIQUE"):
            store.add("a", "m", reply("another", failures=("HTTP 500",)))
    for statement in ("UPDATE replies SET text = 'B'", "DELETE FROM replies"):
        with pytest.raises(sqlite3.IntegrityError, match="only added"):
            query(path, statement)
    assert query(path, "SELECT text FROM replies") == [("A",)]
    assert query(path, "SELECT count(*) FROM attempts") == [(0,)]  # nor half of what was refused


def test_every_reply_is_synced(tmp_path: Path) -> None:
    with open_store(tmp_path / "replies.sqlite") as store:
        assert store.connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert store.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def hold(path: Path, held: Event, release: Event) -> None:
    with open_store(path):
        held.set()
        release.wait(30)


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvp_align.generation.reply_store.WAIT_SECONDS", 0.1)
    context = multiprocessing.get_context("forkserver")
    held, release = context.Event(), context.Event()
    path = tmp_path / "replies.sqlite"
    process = context.Process(target=hold, args=(path, held, release))
    process.start()
    assert held.wait(30)
    with pytest.raises(UserError, match="another process is using"), open_store(path):
        pass
    process.kill()  # which leaves no lock behind
    process.join()
    with open_store(path) as store:
        assert store.known(["a"]) == {}


def test_a_full_disk_loses_nothing(
    mount_disk: Callable[[str], Path], tmp_path: Path, query
) -> None:
    path = mount_disk("1m") / "replies.sqlite"
    kept = 0
    with open_store(path) as store, pytest.raises(UserError, match=r"[Nn]o space") as error:
        for number in range(1000):
            store.add(str(number), "m", reply("x" * 10_000))
            kept += 1
    assert f"(df -h {path.parent}), then run the same command again" in str(error.value)
    assert kept > 5
    for file in path.parent.iterdir():  # to where there is room
        shutil.copy(file, tmp_path)
    assert query(tmp_path / path.name, "SELECT count(*) FROM replies") == [(kept,)]


def test_a_write_that_fails_otherwise_may_be_a_quota(tmp_path: Path) -> None:
    """As a file size limit here, SQLite tells a quota by `disk I/O error` alone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with (
            open_store(tmp_path / "replies.sqlite") as store,
            pytest.raises(UserError, match=r"your quota is used up \(quota -s"),
        ):
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
            store.add("a", "m", reply("x" * 200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "content", [b"not a database, but longer than a header of SQLite, which takes 100 bytes" * 3]
)
def test_a_file_that_is_not_a_store_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "replies.sqlite"
    path.write_bytes(content)
    with pytest.raises(UserError, match="it is no store of replies"), open_store(path):
        pass
    assert path.read_bytes() == content


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="see whether its folder is there"),
        open_store(tmp_path / "no" / "r.sqlite"),
    ):
        pass
