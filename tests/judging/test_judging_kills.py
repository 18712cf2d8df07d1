"""SIGKILL at twenty random moments of judging.

No stored reply is lost or requested again, and the result equals that of an undisturbed process,
byte for byte.
"""

import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest
from judge_server import LASTING, SLOW, counts, hostile, running

from mvp_align.judging.judge import judge_run
from mvp_align.judging.judges import read_judge
from mvp_align.judging.labels import PRESETS
from mvp_align.judging.protocol import JudgingProtocol

CALLS = 1200
KILLS = 20
CONCURRENCY = 4
KEPT = (
    "SELECT key, model, served_by, text, raw, finish_reason, response_format, prompt_tokens FROM"
    " replies"
)


def quick(number: int) -> tuple[str, int]:
    """Return `hostile(number)` with slow failures replaced by fast ones."""
    kind, times = hostile(number)
    return ("500" if kind in SLOW else kind), times


def judge_all(run: Path, judge: Path) -> None:
    way = JudgingProtocol(PRESETS["dvb_judge"])
    judge_run(run, [read_judge(str(judge))], way, run / "replies.sqlite", limit_usd=0.0, yes=False)


def start(run: Path, judge: Path) -> multiprocessing.process.BaseProcess:
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=judge_all, args=(run, judge))
    process.start()
    return process


@pytest.mark.cluster
def test_killed_at_twenty_moments(write_run, write_judge, query) -> None:
    undisturbed, killed = write_run(CALLS, "undisturbed"), write_run(CALLS, "killed")
    settings = {"concurrency": CONCURRENCY, "attempts": 4}
    with running(quick) as url:
        process = start(undisturbed, write_judge(url, **settings))
        process.join()
        assert process.exitcode == 0

    draw = random.Random(20)
    store = killed / "replies.sqlite"
    progress: list[int] = []
    with running(quick, delay_seconds=0.02) as url:
        judge = write_judge(url, **settings)
        for kill in range(KILLS):
            process = start(killed, judge)
            began, before = time.monotonic(), sum(answered for _, answered in counts(url).values())
            if (
                kill % 4
                # every fourth kill comes anywhere, while it starts or recovers the store; the
                # others while it asks
            ):
                while (
                    sum(answered for _, answered in counts(url).values()) == before
                    and process.is_alive()
                ):
                    assert time.monotonic() - began < 60
                    time.sleep(0.02)
            time.sleep(draw.uniform(0, 0.6))
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL, "it ended before it could be killed"
            kept = dict(query(store, "SELECT key, text FROM replies")) if store.is_file() else {}
            at_kill = counts(url)
            answered = sum(number for _, number in at_kill.values())
            # only what was under way is lost
            assert answered - CONCURRENCY * (kill + 1) <= len(kept) <= answered
            assert len(kept) >= (progress[-1] if progress else 0)
            progress.append(len(kept))
        process = start(killed, judge)
        process.join()
        assert process.exitcode == 0
        final = counts(url)
    print("replies in the store after each kill:", progress)
    assert len(set(progress)) > 10 and progress[-1] < CALLS * 0.9  # it was killed all along the way

    assert sorted(query(store, KEPT)) == sorted(query(undisturbed / "replies.sqlite", KEPT))
    assert query(store, "PRAGMA integrity_check") == [("ok",)]
    again = sum(
        answered - 1 for number, (_, answered) in final.items() if quick(number)[0] not in LASTING
    )
    # what was under way at a kill had to be asked again, and nothing else
    assert again <= CONCURRENCY * KILLS
    for name in (
        "judgements/tuned-in_domain-tester.jsonl",
        "labels/tuned-in_domain-dvb_judge.jsonl",
        "metrics.jsonl",
    ):
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes(), name
