"""What is compared of runs, recomputed plainly from their files."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compared_runs import Compose, compared_run, drawn_margins, files_of, users_of_ids
from scipy import stats

from mvp_align.reporting.compare import program_tables
from mvp_align.reporting.comparison import Comparison, Measurement, compare_set
from mvp_align.reporting.comparison_tables import groups_table
from mvp_align.reporting.table_formats import format_tables

IDS = [f"p{number}" for number in range(80)]


def read(path: Path) -> dict[str, dict[str, Any]]:
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {line["id"]: line for line in lines}


def plain_interval(
    x: list[float], users: list[str], level: float = 0.95
) -> tuple[float, float, float]:
    """Mean and interval of `x`, its standard error summed over users' residuals."""
    mean = sum(x) / len(x)
    sums: dict[str, float] = {}
    for value, user in zip(x, users, strict=True):
        sums[user] = sums.get(user, 0.0) + value - mean
    people = len(sums)
    error = math.sqrt(people / (people - 1) * sum(s**2 for s in sums.values())) / len(x)
    half = stats.t.ppf((1 + level) / 2, people - 1) * error
    return mean, max(-1.0, mean - half), min(1.0, mean + half)


def line_of(found: Comparison, metric: str, run: str) -> Measurement:
    (one,) = [one for one in found.metrics if one.metric == metric]
    return next(line for line in one.lines if line.run == run)


@pytest.fixture(scope="module")
def runs(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four runs; the last was tested on half of the pairs and on some more."""
    folder, base = tmp_path_factory.mktemp("runs"), drawn_margins(0, IDS)
    made = [
        compared_run(compose, folder / name, drawn_margins(seed, IDS, shift), base=base)
        for name, seed, shift in (("a", 1, 0.0), ("b", 2, 0.9), ("c", 3, 0.1))
    ]
    others = [*IDS[40:], "p80", "p81", "p82", "p83"]
    return [*made, compared_run(compose, folder / "d", drawn_margins(4, others), base=None)]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_paired_differences_are_those_of_the_files(runs: list[Path], count: int) -> None:
    found = compare_set(runs[:count], "in_domain")
    kept = IDS if count < 4 else IDS[40:]
    assert list(found.shared.ids) == kept
    users = [users_of_ids(IDS)[id] for id in kept]
    first, ps = read(files_of(runs[0])), []
    for run in runs[1:count]:
        scores = read(files_of(run))
        changes = [(scores[id]["margin"] > 0) - (first[id]["margin"] > 0) for id in kept]
        line = line_of(found, "opa/acc@0", run.name)
        e = line.difference
        assert e is not None and (e.n, e.users) == (len(kept), len(kept) // 4)
        assert (e.value, e.low, e.high) == pytest.approx(plain_interval(changes, users))
        margins = [scores[id]["margin"] - first[id]["margin"] for id in kept]
        of_margin = line_of(found, "opa/margin", run.name).difference
        assert of_margin is not None and of_margin.value == pytest.approx(np.mean(margins))
        own = sum(scores[id]["margin"] > 0 for id in kept) / len(kept)
        assert line.value.value == pytest.approx(own)
        assert line.p is not None
        ps.append(line.p)
    corrected = [line_of(found, "opa/acc@0", run.name).p_holm for run in runs[1:count]]
    assert corrected == pytest.approx(plain_holm(ps))


def plain_holm(ps: list[float]) -> list[float]:
    """The k-th smallest times how many are at least as large, never below the one before."""
    highest, found = 0.0, dict.fromkeys(range(len(ps)), 0.0)
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[place]))
        found[place] = highest
    return list(found.values())


def test_lifts_are_compared_where_all_runs_have_a_base(runs: list[Path]) -> None:
    found = compare_set(runs[:2], "in_domain")
    base, first, second = (
        read(files_of(runs[0], "base")),
        read(files_of(runs[0])),
        read(files_of(runs[1])),
    )
    lifts = [(second[id]["margin"] > 0) - (base[id]["margin"] > 0) for id in IDS]
    line = line_of(found, "opa/acc@0_lift", "b")
    assert line.value.value == pytest.approx(np.mean(lifts))
    differences = [(second[id]["margin"] > 0) - (first[id]["margin"] > 0) for id in IDS]
    assert line.difference is not None
    assert line.difference.value == pytest.approx(np.mean(differences))
    without = compare_set(runs, "in_domain")
    assert not [one.metric for one in without.metrics if one.metric.endswith("_lift")]


def test_groups_have_intervals_for_all_looks_together(runs: list[Path]) -> None:
    found = compare_set(runs[:3], "in_domain").moves
    users, first = users_of_ids(IDS), read(files_of(runs[0]))
    groups = {(move.group_by, move.group) for move in found.moves}
    assert {by for by, _ in groups} == {"gender", "dimension", "level", "dimension,level"}
    assert found.looks == 2 * len(groups) == len(found.moves)
    scores = {run.name: read(files_of(run)) for run in runs[:3]}
    checked = 0
    for move in found.moves:
        if move.group_by != "gender":
            continue
        kept = [id for id in IDS if (int(users[id][4:]) % 2 == 0) == (move.group == "Female")]
        changes = [(scores[move.run][id]["margin"] > 0) - (first[id]["margin"] > 0) for id in kept]
        expected = plain_interval(changes, [users[id] for id in kept], 1 - 0.05 / found.looks)
        e = move.difference
        assert (e.value, e.low, e.high) == pytest.approx(expected)
        assert move.shown == (expected[1] > 0 or expected[2] < 0)
        checked += 1
    assert checked == 4


def test_groups_of_few_people_are_held_back_and_counted(compose: Compose, tmp_path: Path) -> None:
    users = users_of_ids(IDS)
    # 3 people alone are from Peru: below min_users of one of the runs, which decides for both
    tags = {id: {"country": "Peru" if int(users[id][4:]) < 3 else "Chile"} for id in IDS}
    one, two = (
        compared_run(compose, tmp_path / name, drawn_margins(seed, IDS), setting, tags=tags)
        for name, seed, setting in (("a", 1, "evals.min_users=2"), ("b", 2, "evals.min_users=4"))
    )
    found = compare_set([one, two], "in_domain").moves
    assert [move.group for move in found.moves] == ["Chile"]
    assert (found.min_users, found.looks) == (4, 1)
    assert found.held_back == (
        ("country", "1 group has too few people to be shown: 3 people, 12 pairs."),
    )


def test_where_all_groups_are_too_small_none_is_compared(compose: Compose, tmp_path: Path) -> None:
    one, two = (
        compared_run(compose, tmp_path / name, drawn_margins(seed, IDS), "evals.min_users=50")
        for name, seed in (("a", 1), ("b", 2))
    )
    found = compare_set([one, two], "in_domain")
    first, *held_back = groups_table(found.shared, found.moves).notes
    assert first == "No group has enough people to be compared."
    assert held_back and found.moves.looks == 0
    alone = compare_set([one], "in_domain")
    assert groups_table(alone.shared, alone.moves).notes == ["One run alone: no group is compared."]


def test_programs_get_every_group_and_every_flipped_pair(runs: list[Path]) -> None:
    found = compare_set(runs[:3], "in_domain")
    told = {
        table["name"]: table["rows"]
        for table in json.loads(format_tables("json", program_tables(runs[:3], found)))["tables"]
    }
    assert [
        (row["run"], row["difference"], row["difference_low"]) for row in told["all_groups"]
    ] == [(move.run, move.difference.value, move.difference.low) for move in found.moves.moves]
    assert len(told["all_groups"]) > len(told["groups"])
    flips = [(one.run, flip.id, flip.margin) for one in found.flips for flip in one.largest]
    assert flips
    assert [(row["run"], row["id"], row["margin"]) for row in told["flipped_pairs"]] == flips


def test_flips_are_the_pairs_that_one_alone_has_right(runs: list[Path]) -> None:
    found = compare_set(runs[:3], "in_domain")
    first = read(files_of(runs[0]))
    for run, one in zip(runs[1:3], found.flips, strict=True):
        scores = read(files_of(run))
        gained = {id for id in IDS if scores[id]["margin"] > 0 >= first[id]["margin"]}
        lost = {id for id in IDS if first[id]["margin"] > 0 >= scores[id]["margin"]}
        assert ({flip.id for flip in one.gained}, {flip.id for flip in one.lost}) == (gained, lost)
        line = line_of(found, "opa/acc@0", run.name)
        assert line.difference is not None
        assert line.difference.value == pytest.approx((len(gained) - len(lost)) / len(IDS))
        for flip in one.gained:
            assert flip.margin == pytest.approx(scores[flip.id]["margin"])
            assert flip.texts is not None and flip.texts.question == f"What of {flip.id}?"
        changes = [abs(flip.change) for flip in one.largest]
        assert changes == sorted(changes, reverse=True)


def test_one_user_has_no_interval_and_no_test(compose: Compose, tmp_path: Path) -> None:
    one_user = dict.fromkeys(IDS[:8], "user1")
    one, two = (
        compared_run(compose, tmp_path / name, drawn_margins(seed, IDS[:8]), users=one_user)
        for name, seed in (("a", 1), ("b", 2))
    )
    found = compare_set([one, two], "in_domain")
    line = line_of(found, "opa/acc@0", "b")
    assert line.difference is not None and line.difference.low is None
    assert (line.p, line.p_holm) == (None, None)
    assert found.moves.moves == () and found.moves.held_back


def test_thirty_runs(compose: Compose, tmp_path: Path) -> None:
    many = [
        compared_run(compose, tmp_path / f"run{seed}", drawn_margins(seed, IDS), f"seed={seed}")
        for seed in range(30)
    ]
    found = compare_set(many, "in_domain")
    (acc,) = [one for one in found.metrics if one.metric == "opa/acc@0"]
    ps = [line.p for line in acc.lines[1:] if line.p is not None]
    assert len(ps) == 29
    assert [line.p_holm for line in acc.lines[1:]] == pytest.approx(plain_holm(ps))


def test_without_groups_it_says_why(compose: Compose, tmp_path: Path) -> None:
    one, two = (compared_run(compose, tmp_path / n, drawn_margins(1, IDS)) for n in "ab")
    (one / "groups" / "in_domain.jsonl").unlink()
    found = compare_set([one, two], "in_domain").moves
    assert found.moves == () and "in_domain.jsonl is not there" in found.unknown
