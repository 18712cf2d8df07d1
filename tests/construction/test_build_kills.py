"""SIGKILL while pairs are built: at chosen moments, between a reply and its storage too, and at
twenty random ones. No stored reply is asked for again, and the records are an undisturbed build's.
"""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from population_rows import conversation, person
from writer_server import WriterServer, writing

from mvp_align.construction.population import Population

CONCURRENCY = 3
BUILD = """
import os, signal, sys
from pathlib import Path
from mvp_align import cli
from mvp_align.construction import records
from mvp_align.generation.reply_store import ReplyStore

moment, wait = sys.argv[1], int(sys.argv[2])
sys.argv = ["mvp-align", *sys.argv[3:]]
owner, name = {
    "before": (ReplyStore, "add"),
    "after": (ReplyStore, "add"),
    "records": (records.hashlib, "sha256"),
    "summary": (records, "write_json"),
}.get(moment, (None, ""))


def die(*words, **more):
    global wait
    wait -= 1
    if wait < 0 and moment != "after":
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*words, **more)
    if wait < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return result


if owner is not None:
    real = getattr(owner, name)
    setattr(owner, name, die)
cli.main()
"""
KEPT = "SELECT key, text FROM replies ORDER BY key"


@pytest.fixture
def start(
    write_population: Callable[..., Population], write_writer: Callable[..., Path], tmp_path: Path
) -> Callable[..., subprocess.Popen[bytes]]:
    """`start(server, "out", 12, moment="before", wait=3)`: a build in a process of its own."""

    def started(
        server: WriterServer, out: str, count: int, moment: str = "none", wait: int = 0
    ) -> subprocess.Popen[bytes]:
        write_population(
            [person(f"u{number}") for number in range(5)],
            [conversation(f"c{number}", f"u{number % 5}") for number in range(count)],
        )
        writer = write_writer(server.url, concurrency=CONCURRENCY)
        words = ["data", "build", str(tmp_path / "own.yaml"), "--writer", str(writer)]
        words += ["--out", str(tmp_path / out), "--questions", "2"]
        return subprocess.Popen(
            [sys.executable, "-c", BUILD, moment, str(wait), *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    return started


def check_same(tmp_path: Path, query) -> None:
    for name in ("records.jsonl", "build.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (
            tmp_path / "whole" / name
        ).read_bytes(), name
    kept = [query(tmp_path / out / "replies.sqlite", KEPT) for out in ("killed", "whole")]
    assert kept[0] == kept[1]
    assert not [*(tmp_path / "killed").glob("records.jsonl.*")]


def test_killed_around_the_store_and_the_files(start, tmp_path: Path, query) -> None:
    count = 12
    with writing() as server:
        assert start(server, "whole", count).wait() == 0
    with writing() as server:
        stored = 0
        for moment, wait in (("summary", 0), ("before", 0), ("after", 2), ("before", 4),
                             ("records", 0), ("summary", 0)):  # fmt: skip
            assert start(server, "killed", count, moment, wait).wait() == -signal.SIGKILL, moment
            store = tmp_path / "killed" / "replies.sqlite"
            kept = len(query(store, KEPT)) if store.is_file() else 0
            assert kept >= stored
            stored = kept
        assert start(server, "killed", count).wait() == 0
        assert stored >= 7
        # at a kill, those in flight are lost: the one that was not stored, and others beside it
        assert sum(server.asked.values()) <= count + 4 * CONCURRENCY
    check_same(tmp_path, query)


@pytest.mark.cluster
def test_a_build_killed_at_twenty_moments(start, tmp_path: Path, query) -> None:
    count, kills = 400, 20
    with writing() as server:
        assert start(server, "whole", count).wait() == 0
    draw = random.Random(15)
    progress = []
    with writing(delay_seconds=0.05) as server:
        for kill in range(kills):
            before = sum(server.asked.values())
            process = start(server, "killed", count)
            began = time.monotonic()
            while kill % 4 and sum(server.asked.values()) == before:
                assert process.poll() is None and time.monotonic() - began < 120
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.5))
            process.kill()
            assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
            store = tmp_path / "killed" / "replies.sqlite"
            kept = len(query(store, KEPT)) if store.is_file() else 0
            assert sum(server.asked.values()) - CONCURRENCY * (kill + 1) <= kept
            progress.append(kept)
        assert start(server, "killed", count).wait() == 0
        assert sum(server.asked.values()) <= count + CONCURRENCY * kills
    print("replies in the store after each kill:", progress)
    assert progress == sorted(progress) and len({*progress}) > 10 and progress[-1] < count
    check_same(tmp_path, query)
