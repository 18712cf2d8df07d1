"""Planted people are what the page says they are, and the comparison runs end to end on a few."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import minorities
from benchmarks.minorities import GRID, Checked, Plan, Tried, chosen
from benchmarks.planted import (
    MAJORITY,
    MINORITY,
    SMALL,
    WHOLE,
    Planted,
    Split,
    ceilings,
    planted_records,
)
from benchmarks.planted_runs import Served, Setting
from benchmarks.planted_stats import standing
from mvp_align.runtime.json_files import write_json_lines
from mvp_align.schema import PreferencePair


@pytest.mark.parametrize("splits", [WHOLE, SMALL], ids=["whole", "small"])
def test_splits_share_nobody_and_no_question_and_a_tenth_disagrees(
    splits: dict[str, Split], tmp_path: Path
) -> None:
    records = planted_records(splits)
    people = {name: {row["user_id"] for row in rows} for name, rows in records.items()}
    questions = {name: {row["question"] for row in rows} for name, rows in records.items()}
    assert len(set.union(*people.values())) == sum(one.people for one in splits.values())
    assert len(set.union(*questions.values())) == sum(one.questions for one in splits.values())
    for name, rows in list(records.items())[1:]:  # after those whom the model reads
        assert len(rows) == splits[name].people * splits[name].pairs
        path = tmp_path / f"{name}.jsonl"
        write_json_lines(path, rows)
        pairs = Planted({name: path}, tmp_path).pairs(name)
        assert ceilings(pairs) == (0.9, 1.0)
        assert all(pair.user_id.startswith("synthetic-") for pair in pairs)
        assert all(f"{pair.groups['level']} safety" in pair.preference for pair in pairs)
        assert opposite(pairs)


def opposite(pairs: list[PreferencePair]) -> bool:
    """Whether the groups want different answers to each question, and agree among themselves."""
    wanted: dict[str, dict[str, set[tuple[str, str]]]] = {}
    for pair in pairs:
        by_level = wanted.setdefault(pair.question, {MAJORITY: set(), MINORITY: set()})
        by_level[pair.groups["level"]].add((pair.chosen, pair.rejected))
    return all(
        len(one[MAJORITY]) == len(one[MINORITY]) == 1
        and one[MAJORITY] == {answers[::-1] for answers in one[MINORITY]}
        for one in wanted.values()
    )


def test_every_objective_gets_the_same_budget() -> None:
    assert {len(set(grid)) for grid in GRID.values()} == {Plan().tried}
    assert all(one.objective == name for name, grid in GRID.items() for one in grid)


def test_the_best_worst_group_is_chosen_then_the_best_mean_then_the_first() -> None:
    tried = [
        Tried(Setting("mean", rate), worst, mean)
        for rate, worst, mean in (
            (1.0, 0.1, 0.9),
            (2.0, 0.4, 0.5),
            (3.0, 0.4, 0.6),
            (4.0, 0.4, 0.6),
        )
    ]
    assert chosen(tried).rate == 3.0
    assert chosen(tried[:2]).rate == 2.0


def test_a_comparison_needs_a_majority_that_is_learnt_first() -> None:
    seen = {5: {MAJORITY: 1.0, MINORITY: 0.0}, 9: {MAJORITY: 1.0, MINORITY: 1.0}}
    checked = Checked(0.9, 1.0, seen[5], seen)
    assert checked.majority_first
    assert not replace(checked, curve={9: seen[9]}).majority_first


def run_of(majority: list[float], minority: list[float]) -> Served:
    """Whom a run serves, of people with two pairs each."""
    right = (*majority, *minority)
    levels = (MAJORITY,) * len(majority) + (MINORITY,) * len(minority)
    return Served(right, tuple(f"u{place // 2}" for place in range(len(right))), levels)


def test_the_worst_group_may_be_another_one_in_each_run() -> None:
    ours = [run_of([1, 1, 1, 1], [1, 0, 1, 1]), run_of([1, 0, 1, 0], [1, 1, 1, 1])]
    plain = [run_of([1, 1, 1, 1], [0, 0, 0, 1]), run_of([1, 1, 1, 1], [0, 0, 1, 1])]
    assert [run.worst for run in ours] == [0.75, 0.5]
    found, paired = standing(ours), standing(ours, plain)
    assert found.worst.value == pytest.approx(0.625)
    assert paired.worst.value == pytest.approx(0.25)
    assert paired.minority.value == pytest.approx(0.5)
    assert paired.majority.value == pytest.approx(-0.25)
    assert paired.mean.value == pytest.approx(0.125)
    for one in (found, paired):
        for bounded in (one.worst, one.minority, one.mean):
            assert bounded.low < bounded.value < bounded.high
    same = standing(ours, ours).worst
    assert (same.value, same.low, same.high) == (0.0, None, None)


def test_where_the_minority_is_always_the_worst_its_intervals_agree() -> None:
    """Against the project's own over people and seeds; t has fewer degrees of freedom here."""
    runs = [
        run_of([1] * 40, [float((place * step) % 7 < 3) for place in range(40)])
        for step in (1, 2, 3, 5, 6)
    ]
    found = standing(runs)
    assert found.worst.value == pytest.approx(found.minority.value)
    width, other = (one.high - one.low for one in (found.worst, found.minority))
    assert width == pytest.approx(other, rel=0.35)


def test_the_comparison_runs_and_writes_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: replace(SMALL[name], people=40) for name in ("read", "train", "val", "test")}
    quick = replace(minorities.QUICK, splits=few, read_steps=20, curve=(3,))
    quick = replace(quick, conditions=(replace(quick.conditions[0], steps=3),))
    monkeypatch.setattr(minorities, "QUICK", quick)
    two = {name: GRID[name] for name in ("mean", "gr_dpo")}
    monkeypatch.setattr(minorities, "GRID", two)
    app = typer.Typer()
    app.command()(minorities.main)
    out = tmp_path / "figures.json"
    result = CliRunner().invoke(app, ["--quick", "--json", str(out)])
    assert result.exit_code == 0, (result.output, result.exception)
    figures = json.loads(out.read_text())
    ((name, found),) = figures["conditions"].items()
    assert name == "shown-12" and found.keys() == two.keys()
    for objective, one in found.items():
        assert one["setting"]["objective"] == objective
        assert len(one["by_seed"]) == 2 and len(one["tried"]) == 1
        assert one["test"]["mean"]["value"] == pytest.approx(
            0.9 * one["test"]["majority"]["value"] + 0.1 * one["test"]["minority"]["value"]
        )
    assert found["mean"]["minus_plain"]["worst"]["value"] == 0
    assert figures["checked"]["value_blind"] == 0.9
    refused = CliRunner().invoke(app, ["--quick", "--only", "shown-50"])
    assert refused.exit_code == 2 and "shown-50 is no condition" in refused.output
