"""Scores that people gave become pairs of theirs, and nothing else does."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from population_rows import conversation, person
from typer.testing import CliRunner

from mvp_align.cli import app
from mvp_align.construction.population import Population
from mvp_align.construction.records import NoRecords
from mvp_align.construction.score_pairs import build_score_pairs
from mvp_align.data.readers import read_pairs
from mvp_align.errors import UserError


def made(out: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    lines = (out / "records.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines], json.loads((out / "build.json").read_text("utf-8"))


def counted(summary: dict[str, Any], part: str) -> dict[str, int]:
    return {row["reason"]: row["count"] for row in summary["left_out"][part]}


def test_pairs_are_those_at_least_a_margin_apart(
    write_population: Callable[..., Population], tmp_path: Path
) -> None:
    rows = [conversation("c1", "a", (90, 40, None, 70), later=1), conversation("c2", "a", (50, 70))]
    rows[1]["conversation_history"][1]["content"] = " "
    rows.append(conversation("c3", "a", (100, 0)))
    for turn in rows[2]["conversation_history"][1:]:
        turn["content"] = "The same."
    write_population([person("a")], rows)
    words = ["data", "from-scores", str(tmp_path / "own.yaml"), "--out", str(tmp_path / "o")]
    result = CliRunner().invoke(app, words)
    assert result.exception is None, result.output
    records, summary = made(tmp_path / "o")
    found = [(r["id"], r["answer_w"], r["answer_l"], r["question"]) for r in records]
    question = "What of c1?"
    assert found == [
        ("c1-0-1", "Reply 0 to c1.", "Reply 1 to c1.", question),
        ("c1-0-2", "Reply 0 to c1.", "Reply 3 to c1.", question),
        ("c1-2-1", "Reply 3 to c1.", "Reply 1 to c1.", question),
    ]
    assert records[2]["provenance"] == {
        "made": "scores", "conversation_id": "c1", "score_w": 70.0, "score_l": 40.0,
    }  # fmt: skip
    assert (summary["replies"], summary["prompts"], summary["records"]) == (10, 1, 3)
    later = "to a later message, which leans on what was said before"
    assert counted(summary, "replies") == {later: 2, "empty": 1, "no score": 1}
    assert counted(summary, "pairs") == {"both replies are the same": 1}

    (pair, *_) = read_pairs(str(tmp_path / "o" / "records.jsonl"), "mvpbench").pairs
    assert (pair.user_id, pair.chosen) == ("a", "Reply 0 to c1.")
    assert pair.groups["birth_country"] == "Chile"
    assert not read_pairs(str(tmp_path / "o" / "records.jsonl"), "mvpbench").unread

    again = CliRunner().invoke(app, [*words, "--margin", "30"])
    assert isinstance(again.exception, UserError)
    assert "records that were built otherwise (margin): name another --out" in str(again.exception)
    assert made(tmp_path / "o") == (records, summary)
    (tmp_path / "o" / "records.jsonl").unlink()
    assert CliRunner().invoke(app, [*words, "--margin", "30"]).exception is None
    records, summary = made(tmp_path / "o")
    assert [record["id"] for record in records] == ["c1-0-1", "c1-2-1"]
    assert counted(summary, "pairs")["scores less than 30 apart"] == 1


def test_nothing_made_is_no_success(
    write_population: Callable[..., Population], tmp_path: Path
) -> None:
    own = write_population([person("a")], [conversation("c", "a", (50, 51))])
    with pytest.raises(NoRecords, match=r"1 left out: scores less than 20 apart\nNot one pair"):
        build_score_pairs(own, tmp_path, 20.0)
    assert not (tmp_path / "records.jsonl").exists()
    own.turn.score = None
    with pytest.raises(UserError, match="need columns for `turns` and their `score`"):
        build_score_pairs(own, tmp_path, 20.0)


def test_the_bundled_population_has_pairs(tmp_path: Path) -> None:
    out = tmp_path / "o"
    result = CliRunner().invoke(app, ["data", "from-scores", "sample", "--out", str(out)])
    assert result.exception is None, result.output
    records, summary = made(out)
    assert len({record["id"] for record in records}) == len(records) == summary["records"]
    assert all(record["user_id"].startswith("synthetic-") for record in records)
    assert len(read_pairs(str(out / "records.jsonl"), "mvpbench").pairs) == len(records)


LARGE = """
import resource, time
from pathlib import Path
from mvp_align.construction.conversations import JoinedConversations
from mvp_align.construction.people import read_people
from mvp_align.construction.population import Population
from mvp_align.construction.score_pairs import build_score_pairs

own = Population("survey.jsonl", "conversations.jsonl")
began = time.process_time()
if {pairs}:
    build_score_pairs(own, Path("."), 20.0)
else:
    people = read_people(own)
    assert all(one.preference is not None for one in JoinedConversations(own, people, None).people
               .known.values())
    assert sum(1 for _ in JoinedConversations(own, people, None)) == {count}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(time.process_time() - began, peak)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "pairs", "seconds"), [(8_011, True, 10), (100_000, False, 60)], ids=["prism", "large"]
)
def test_large_tables_take_seconds(tmp_path: Path, count: int, pairs: bool, seconds: int) -> None:
    """Of a processor's time, which other processes on this machine do not lengthen; under 2 GB."""
    with (tmp_path / "survey.jsonl").open("w") as file:
        for number in range(1500):
            file.write(json.dumps(person(f"u{number}")) + "\n")
    words = "It depends on many things, some of which nobody knows. " * 8
    with (tmp_path / "conversations.jsonl").open("w") as file:
        for number in range(count):
            row = conversation(f"c{number}", f"u{number % 1500}", (90, 60, 30, 10), later=2)
            for turn in row["conversation_history"]:
                turn["content"] += words
            file.write(json.dumps(row) + "\n")
    code = LARGE.format(count=count, pairs=pairs)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    taken, peak = map(float, done.stdout.split())
    print(f"{count:,} conversations: {taken:.1f} s, {peak / 1e6:.2f} GB")
    assert taken < seconds
    assert peak < 2e6
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >= peak
