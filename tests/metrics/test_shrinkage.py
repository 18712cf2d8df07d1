"""Shrunk means of small groups: calculations by hand, smaller error on average, valid intervals."""

import numpy as np
import pytest

from mvp_align.metrics.shrinkage import shrunk_means

SHARE = (0.0, 1.0)


def test_groups_that_differ_no_more_than_chance_all_become_the_mean() -> None:
    people = [
        np.array([0.0, 1.0]),
        np.array([1.0, 0.0]),
        np.array([0.5, 0.5]),
        np.array([0.0, 1.0, 0.5]),
    ]
    found = shrunk_means(people, SHARE)
    assert [value for value, _, _ in found] == pytest.approx([0.5] * 4)


def test_groups_of_people_who_agree_stay_where_they_are() -> None:
    wiggle = np.array([-1.0, 1.0] * 50) * 1e-4
    people = [0.2 + wiggle, 0.5 + wiggle, 0.6 + wiggle, 0.9 + wiggle]
    assert [value for value, _, _ in shrunk_means(people, SHARE)] == pytest.approx(
        [0.2, 0.5, 0.6, 0.9], abs=1e-4
    )


def test_by_hand() -> None:
    """Five groups of 4, 4, 4, 4 and 1 people: s^2 = 0.16 / 12, and Morris's formulas group by
    group."""
    wiggle = np.array([-0.1, 0.1, -0.1, 0.1])
    people = [0.2 + wiggle, 0.8 + wiggle, 0.5 + wiggle, 0.6 + wiggle, np.array([0.95])]
    own, variances = [0.2, 0.8, 0.5, 0.6, 0.95], [1 / 300] * 4 + [1 / 75]
    pooled = (300 * 2.1 + 75 * 0.95) / 1275
    excess = sum((y - pooled) ** 2 / v for y, v in zip(own, variances, strict=True)) - 4
    between = excess / (1275 - (4 * 300**2 + 75**2) / 1275)
    weights = [1 / (v + between) for v in variances]
    middle = sum(w * y for w, y in zip(weights, own, strict=True)) / sum(weights)
    typical = sum(w * v for w, v in zip(weights, variances, strict=True)) / sum(weights)
    for y, v, (value, low, high) in zip(own, variances, shrunk_means(people, SHARE), strict=True):
        pull = 2 / 4 * v / (v + between)
        spread = (1 - pull * 4 / 5) * v + 2 / 2 * pull**2 * (typical + between) / (v + between) * (
            y - middle
        ) ** 2
        assert value == pytest.approx(pull * middle + (1 - pull) * y)
        assert low == pytest.approx(value - 1.959964 * spread**0.5)
        assert high == pytest.approx(min(1.0, value + 1.959964 * spread**0.5))


def test_too_little_to_learn_from() -> None:
    assert (
        shrunk_means([np.array([0.0, 1.0]), np.array([1.0, 0.0]), np.array([0.0, 0.5])], SHARE)
        is None
    )
    assert shrunk_means([np.array([x]) for x in (0.0, 0.5, 1.0, 0.2)], SHARE) is None
    assert shrunk_means([np.array([0.5, 0.5])] * 5, SHARE) is None


def test_nearer_to_the_truth_than_the_groups_own_means_and_intervals_hold_it() -> None:
    random = np.random.default_rng(3)
    raw = shrunk = 0.0
    covered, groups = 0, 0
    for _ in range(200):
        truth = random.normal(0.6, 0.08, size=25)
        people = [
            random.normal(t, 0.3, size=size)
            for t, size in zip(truth, [1, 2, 3, 4, 30] * 5, strict=True)
        ]
        found = shrunk_means(people, (-np.inf, np.inf))
        for number, size in enumerate([1, 2, 3, 4, 30] * 5):
            if size < 5:
                value, low, high = found[number]
                raw += (people[number].mean() - truth[number]) ** 2
                shrunk += (value - truth[number]) ** 2
                covered += low <= truth[number] <= high
                groups += 1
    assert shrunk < 0.3 * raw
    assert 0.88 <= covered / groups <= 0.98
