"""Profile metrics compared with calculations by hand, and their intervals with statsmodels."""

import numpy as np
import pytest
import statsmodels.api as sm

from mvp_align.metrics.opa import UNDER_CHOICES
from mvp_align.metrics.profile_ablation import LEVEL, VALUES_OVER_SHUFFLED, profile_rows
from mvp_align.metrics.rows import Row
from mvp_align.schema import PairScore


def scores(margins: list[float], users: str = "aabbc") -> list[PairScore]:
    return [
        PairScore(f"p{n}", user, margin, 0.0, 1, 1)
        for n, (margin, user) in enumerate(zip(margins, users, strict=True))
    ]


OWN = scores([0.5, 0.1, -0.2, 0.3, 0.4])
OTHER = scores([-0.5, 0.2, -0.1, -0.3, 0.1])
BASE = {
    "values": scores([-1.0, 0.1, -0.1, -0.1, -0.1]),
    "shuffled": scores([-1.0, -0.1, 0.1, -0.1, 0.1]),
}


def find(rows: list[Row], metric: str, group: str = "") -> Row:
    (found,) = [row for row in rows if (row.metric, row.group) == (metric, group)]
    return found


def test_kinds_contrasts_and_what_training_added() -> None:
    changed = {"p0": True, "p1": True, "p3": False}
    rows = profile_rows("tuned", "in_domain", {"values": OWN, "shuffled": OTHER}, BASE, changed)
    assert find(rows, "opa/profile/values").value == pytest.approx(0.8)
    assert find(rows, "opa/profile/shuffled").value == pytest.approx(0.4)
    assert find(rows, "opa/profile/values_lift").value == pytest.approx(0.6)
    assert find(rows, VALUES_OVER_SHUFFLED).value == pytest.approx(0.4)
    assert find(rows, f"{VALUES_OVER_SHUFFLED}_lift").value == pytest.approx(0.4 - (0.2 - 0.4))
    nats = find(rows, "opa/profile/values/margin_vs_shuffled_lift")
    assert nats.value == pytest.approx((1.0 - 0.1 - 0.1 + 0.6 + 0.3) / 5)
    assert [
        (find(rows, VALUES_OVER_SHUFFLED, g).value, find(rows, VALUES_OVER_SHUFFLED, g).n)
        for g in ("another", "same")
    ] == [(0.5, 2), (1.0, 1)]
    assert {row.group_by for row in rows if row.group} == {LEVEL}
    assert not [row for row in rows if "none" in row.metric or "demographics" in row.metric]


def test_the_interval_of_a_contrast_is_paired_and_clustered() -> None:
    draw = np.random.default_rng(3)
    users = "".join(draw.choice(list("abcdefghij"), 60))
    own, other = (scores(list(draw.normal(0.2, 1, 60)), users) for _ in range(2))
    found = find(
        profile_rows("base", "s", {"values": own, "shuffled": other}, {}, {}),
        "opa/profile/values/margin_vs_shuffled_lift",
    )
    lifts = np.array([one.margin - two.margin for one, two in zip(own, other, strict=True)])
    groups = np.array([ord(user) for user in users])
    fit = sm.OLS(lifts, np.ones(60)).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": True}, use_t=True
    )
    low, high = fit.conf_int()[0]
    assert found.value == pytest.approx(lifts.mean())
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert (found.n, found.users) == (60, 10)


def test_other_pairs_are_refused_and_no_scores_are_no_rows() -> None:
    with pytest.raises(ValueError, match="same pairs"):
        profile_rows("base", "s", {"values": OWN, "shuffled": OTHER[1:]}, {}, {})
    assert profile_rows("base", "s", {}, {}, {}) == []


def test_the_few_shot_curve_is_paired_at_every_count() -> None:
    shown = {
        "none": scores([-0.1, 0.2, -0.2, 0.3, -0.4]),
        "own_1": OWN,
        "other_1": OTHER,
        "own_2": scores([0.5, 0.1, 0.2, 0.3, 0.4]),
        "other_2": OTHER,
    }
    rows = profile_rows("base", "s", shown, {}, {"p0": True, "p2": False}, UNDER_CHOICES)
    found = {row.metric: row.value for row in rows if not row.group}
    assert {name: found[f"opa/choices/{name}"] for name in shown} == pytest.approx(
        {"none": 0.4, "own_1": 0.8, "other_1": 0.4, "own_2": 1.0, "other_2": 0.4}
    )
    assert found["opa/choices/own_1_vs_none_lift"] == pytest.approx(0.4)
    assert found["opa/choices/own_2_vs_none_lift"] == pytest.approx(0.6)
    assert found["opa/choices/own_1_vs_other_1_lift"] == pytest.approx(0.4)
    assert found["opa/choices/own_2_vs_other_2_lift"] == pytest.approx(0.6)
    assert found["opa/choices/own_1/margin_vs_other_1_lift"] == pytest.approx(1.7 / 5)
    assert not [name for name in found if "own_1_vs_other_2" in name or "profile" in name]
    level = find(rows, "opa/choices/own_2_vs_other_2_lift", "another")
    assert (level.value, level.n, level.group_by) == (1.0, 1, LEVEL)
    assert find(rows, "opa/choices/own_1_vs_other_1_lift", "same").value == 0.0
