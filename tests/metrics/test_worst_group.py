"""The worst group as one number: which group it is, its interval, and how far noise pulls it."""

import numpy as np
import pytest

from mvp_align.metrics.rows import Row
from mvp_align.metrics.score_rows import score_headlines
from mvp_align.metrics.shrinkage import shrunk_means
from mvp_align.metrics.worst_group import compared_groups, worst_group_rows
from mvp_align.schema import PairScore


def study(
    right: dict[tuple[str, str], list[int]],
) -> tuple[list[PairScore], dict[str, dict[str, str]]]:
    """Pairs right (1) or wrong (0) by (dimension, level), each of another person."""
    scores, groups = [], {}
    for (dimension, level), answers in right.items():
        for number, answer in enumerate(answers):
            name = f"{dimension}-{level}-{number}"
            scores.append(PairScore(name, name, -10.0 - 10 * (1 - answer), -15.0, 10, 10))
            groups[name] = {"dimension": dimension, "level": level}
    return scores, groups


CELLS = {
    ("safety", "High"): [1, 1, 1, 1, 1, 0],
    ("safety", "Low"): [0, 0, 0, 0, 1],
    ("fluency", "High"): [1, 1, 1, 1, 1],
    ("fluency", "Low"): [0, 0, 0],  # too few people
}


def by_metric(rows: list[Row]) -> dict[str, Row]:
    assert all((row.group_by, row.group) == ("", "") for row in rows)
    return {row.metric: row for row in rows}


def test_the_worst_group_and_the_gap_by_a_crossing() -> None:
    scores, groups = study(CELLS)
    rows = by_metric(worst_group_rows("tuned", "s", scores, groups, "dimension+level", 5))
    worst, gap = rows["opa/worst_group"], rows["opa/worst_group_gap"]
    assert worst.value == pytest.approx(0.2)
    assert (worst.n, worst.users) == (5, 5)
    assert gap.value == pytest.approx(0.8)
    assert "opa/worst_group_shrunk" not in rows  # three groups are too few for it
    # the intervals allow for the search, as those of every breakdown do
    (known,) = [
        row
        for row in score_headlines("tuned", "s", scores, groups, None, min_users=5)
        if (row.metric, row.group_by) == ("opa/acc@0_worst", "dimension,level")
    ]
    assert known.group == "safety,Low"
    assert (worst.value, worst.low, worst.high) == (known.value, known.low, known.high)


def test_by_one_variable_and_by_another_number_of_people() -> None:
    scores, groups = study(CELLS)
    low = by_metric(worst_group_rows("tuned", "s", scores, groups, "level", 5))
    assert low["opa/worst_group"].value == pytest.approx(1 / 8)
    few = by_metric(worst_group_rows("tuned", "s", scores, groups, "dimension+level", 3))
    assert few["opa/worst_group"].value == 0
    shrunk = few["opa/worst_group_shrunk"]
    assert shrunk.high is not None and 0 < shrunk.value < shrunk.high


def test_fewer_than_two_groups_have_no_worst() -> None:
    scores, groups = study(CELLS)
    assert worst_group_rows("tuned", "s", scores, groups, "dimension+level", 6) == []
    assert worst_group_rows("tuned", "s", scores, groups, "shoe_size", 1) == []
    users = [score.user_id for score in scores]
    tags = [groups[score.id] for score in scores]
    assert compared_groups(users, tags, "dimension+level", 6) == ["safety,High"]
    assert compared_groups(users, tags, "level", 5) == ["High", "Low"]


@pytest.mark.parametrize(
    ("truth", "raw_from", "raw_to", "shrunk_from", "shrunk_to"),
    [
        # all alike at 0.7: the raw worst is far below, the shrunk one near
        ([0.7] * 14, 0.44, 0.50, 0.61, 0.66),
        # one at 0.5: the raw worst is a little below, the shrunk one hides the group
        ([0.5] + [0.8] * 13, 0.44, 0.50, 0.61, 0.67),
    ],
)
def test_how_far_noise_pulls_the_worst_of_14_groups_of_12(
    truth: list[float], raw_from: float, raw_to: float, shrunk_from: float, shrunk_to: float
) -> None:
    """docs/statistics.md states the means of 1,000 such studies."""
    random = np.random.default_rng(5)
    raw, shrunk = [], []
    for _ in range(300):
        people = [(random.random(12) < share).astype(float) for share in truth]
        found = shrunk_means(people, (0.0, 1.0))
        assert found is not None
        raw.append(min(group.mean() for group in people))
        shrunk.append(min(value for value, _, _ in found))
    assert raw_from < np.mean(raw) < raw_to
    assert shrunk_from < np.mean(shrunk) < shrunk_to
