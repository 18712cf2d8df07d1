"""Groups of users' own pairs in a run's statistics and report, as those of the benchmark."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mvp_align.data.readers import read_pairs
from mvp_align.metrics.rows import Row, read_rows
from mvp_align.reporting.stats import Choices, write_statistics

Run = Callable[..., Path]


def rows_by(rows: list[Row], group_by: str) -> dict[str, Row]:
    return {
        row.group: row
        for row in rows
        if (row.stage, row.metric, row.group_by) == ("base", "opa/acc@0", group_by)
    }


@pytest.fixture(scope="module")
def evaluated(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people of two clubs, who disagree about the same answers."""
    folder = tmp_path_factory.mktemp("own")
    records = []
    for person in range(6):
        answers = ["I love it, truly.", "Not for me, thanks."]
        chosen, rejected = answers if person % 2 else answers[::-1]
        records += [
            {
                "prompt": f"What of {subject}?",
                "chosen": f" {chosen}",
                "rejected": f" {rejected}",
                "user_id": f"u{person}",
                "profile": {"age": 30 + person % 2},
                "groups": {"club": "odd" if person % 2 else "even", "size": 2},
                "scores": {"warmth": 90 if person % 2 else 10},
                "topic": "warmth",
            }
            for subject in ("tea", "chess")
        ]
    (folder / "own.json").write_text(json.dumps(records))
    (folder / "values.yaml").write_text("about: topic\ndimensions: {warmth: scores.warmth}\n")
    return run(
        folder / "run",
        "data=files",
        f"data.test={folder / 'own.json'}",
        f"data.values={folder / 'values.yaml'}",
        "data.limit=null",
        "evals.ufp4=null",
        "evals.worst_by=club",
        "evals.min_users=3",
        name="evaluate",
    )


def test_groups_of_own_pairs_have_rows_a_worst_group_and_a_ceiling(evaluated: Path) -> None:
    rows = read_rows(evaluated / "metrics.jsonl")
    assert {name: (row.n, row.users) for name, row in rows_by(rows, "club").items()} == {
        "even": (6, 3), "odd": (6, 3),
    }  # fmt: skip
    assert rows_by(rows, "age").keys() == {"30", "31"}
    assert rows_by(rows, "level").keys() == {"High", "Low"}
    assert rows_by(rows, "dimension").keys() == {"warmth"}
    (ceiling,) = [r for r in rows if r.metric == "opa/value_blind_ceiling" and not r.group_by]
    assert ceiling.value == 0.5
    assert any(row.metric == "opa/worst_group" for row in rows)


def test_the_report_shows_them_as_it_shows_the_benchmarks(evaluated: Path) -> None:
    page = (evaluated / "report.html").read_text("utf-8")
    for heading in ("By club", "By size", "By age", "By stated level"):
        assert heading in page


def test_stats_take_a_groups_name(evaluated: Path) -> None:
    found = write_statistics(evaluated, Choices(by=("club",), draws=50))
    assert rows_by(found.rows, "club").keys() == {"even", "odd"}


def test_real_personas_are_groups(run: Run, shared: Path, tmp_path: Path) -> None:
    """The file has one persona after the other, so a part of its middle has both."""
    source = shared / "data" / "psoups_friendly_history.json"
    assert len(read_pairs(str(source), "auto").pairs) == 600
    middle = tmp_path / "middle.json"
    middle.write_text(json.dumps(json.loads(source.read_text("utf-8"))[270:330]))
    folder = run(
        tmp_path / "run",
        "data=files",
        f"data.test={middle}",
        "data.limit=null",
        "evals.ufp4=null",
        name="evaluate",
    )
    found = write_statistics(folder, Choices(by=("persona",), draws=50))
    personas = rows_by(found.rows, "persona")
    assert len(personas) == 2 and all(name.startswith("Generate a response") for name in personas)
    assert [row.n for row in personas.values()] == [30, 30]
    assert "By persona" in (folder / "report.html").read_text("utf-8")
