"""Compare means over seeds with numpy, scipy and statsmodels, and check 95 % coverage."""

import math
from collections import defaultdict

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from mvp_align.metrics.seeds import over_seeds

numbers = st.floats(-5, 5).map(lambda x: round(x, 3))


@st.composite
def scored(
    draw: st.DrawFn, values: st.SearchStrategy[float] = numbers
) -> tuple[list[list[float]], list[str]]:
    """Values [seeds, pairs], and the pairs' users."""
    users = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12))
    row = st.lists(values, min_size=len(users), max_size=len(users))
    return draw(st.lists(row, min_size=1, max_size=5)), users


def by_statsmodels(values: np.ndarray, users: list[str]) -> tuple[float, float, float]:
    """Standard error and 95 % interval of OLS on a constant, clustered."""
    groups = np.unique(users, return_inverse=True)[1]
    kwds = {"groups": groups, "use_correction": True, "df_correction": True}
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds=kwds, use_t=True)
    low, high = fit.conf_int(alpha=0.05)[0]
    return float(fit.bse[0]), float(low), float(high)


@given(scored())
def test_equals_a_plain_calculation(case: tuple[list[list[float]], list[str]]) -> None:
    values, users = case
    x = np.array(values)
    found = over_seeds(values, users)
    assert found.mean == pytest.approx(x.mean(), abs=1e-12)
    assert found.by_seed == pytest.approx(tuple(x.mean(axis=1)), abs=1e-12)
    assert (found.n, found.users) == (len(users), len(set(users)))
    if len(values) == 1:
        assert found.sd is found.training is found.both is None
    else:
        assert found.sd == pytest.approx(x.mean(axis=1).std(ddof=1), abs=1e-12)
    if len(set(users)) == 1:
        assert found.people is found.both is None
        return
    _, low, high = by_statsmodels(x.mean(axis=0), users)
    if high - low > 1e-9:  # where all people agree there is no interval
        assert found.people == pytest.approx((low, high), abs=1e-9)


@given(scored())
def test_intervals_over_seeds_equal_scipys_and_welchs(
    case: tuple[list[list[float]], list[str]],
) -> None:
    values, users = case
    x = np.array(values)
    assume(len(values) > 1 and len(set(users)) > 1)
    means = x.mean(axis=1)
    assume(means.std(ddof=1) > 1e-6)
    found = over_seeds(values, users)
    t = stats.ttest_1samp(means, 0).confidence_interval()
    assert found.training == pytest.approx((t.low, t.high), abs=1e-9)
    people, seeds = by_statsmodels(x.mean(axis=0), users)[0], stats.sem(means)
    if people < 1e-9:  # all people agree: of others nothing is known
        assert found.people is found.both is None
        return
    freedom = (people**2 + seeds**2) ** 2 / (
        people**4 / (len(set(users)) - 1) + seeds**4 / (len(values) - 1)
    )
    half = stats.t.ppf(0.975, freedom) * math.hypot(people, seeds)
    assert found.both is not None and found.people is not None
    widest = max(half, *(high - x.mean() for _, high in (found.people, found.training)))
    assert found.both == pytest.approx((x.mean() - widest, x.mean() + widest), abs=1e-9)


def test_by_hand() -> None:
    """Two seeds, two people of two pairs: seeds' means 0.5 and 1; pairs' means 1, 1, 0.5, 0.5."""
    found = over_seeds([[1, 1, 0, 0], [1, 1, 1, 1]], list("aabb"))
    assert found.mean == 0.75
    assert found.by_seed == (0.5, 1.0)
    assert found.sd == pytest.approx(0.5 / math.sqrt(2))
    assert found.training == pytest.approx((0.75 - 12.7062 * 0.25, 0.75 + 12.7062 * 0.25), rel=1e-5)
    # residual sums +-0.5: SE^2 = 2/1 * 2 * 0.25 / 16 = 1/16
    assert found.people == pytest.approx((0.75 - 12.7062 * 0.25, 0.75 + 12.7062 * 0.25), rel=1e-5)


def test_one_seed_has_people_alone() -> None:
    found = over_seeds([[1.0, 0.0, 1.0]], list("abc"))
    assert (found.sd, found.training, found.both) == (None, None, None)
    assert found.people is not None


def test_seeds_that_agree_to_the_last_bit_say_nothing_of_their_spread() -> None:
    """An untrained model, say: `both` is then what people leave open."""
    found = over_seeds([[1.0, 0.0, 1.0, 0.0]] * 3, list("abcd"), "share")
    assert (found.sd, found.training) == (0, None)
    assert found.both == found.people


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_share_on_which_all_agree_is_no_certainty(value: float) -> None:
    found = over_seeds([[value] * 6] * 3, list("aabbcc"), "share")
    wilson = stats.binomtest(int(value * 3), 3).proportion_ci(method="wilson")
    assert found.people == found.both == pytest.approx((wilson.low, wilson.high))


@given(scored(st.sampled_from([0.0, 1.0])))
def test_intervals_of_shares_lie_inside_0_and_1_and_both_holds_the_others(
    case: tuple[list[list[float]], list[str]],
) -> None:
    found = over_seeds(*case, "share")
    for interval in (found.people, found.training, found.both):
        if interval is not None:
            assert 0 <= interval[0] <= found.mean + 1e-12
            assert found.mean - 1e-12 <= interval[1] <= 1
            if found.both is not None:
                assert found.both[0] <= interval[0]
                assert interval[1] <= found.both[1]


@given(scored(), st.randoms(use_true_random=False))
def test_neither_the_order_of_seeds_nor_of_pairs_matters(
    case: tuple[list[list[float]], list[str]], random
) -> None:
    values, users = case
    places = random.sample(range(len(users)), len(users))
    shuffled = [[row[place] for place in places] for row in random.sample(values, len(values))]
    one, other = over_seeds(values, users), over_seeds(shuffled, [users[place] for place in places])
    assert one.people == pytest.approx(other.people, abs=1e-9)
    assert one.both == pytest.approx(other.both, abs=1e-6)
    assert (one.mean, one.sd) == pytest.approx((other.mean, other.sd), abs=1e-9)


@pytest.mark.parametrize(
    ("values", "users"), [([], ["a"]), ([[1.0, 2.0], [1.0]], ["a", "b"]), ([[1.0]], ["a", "b"])]
)
def test_unlike_lengths_are_refused(values: list[list[float]], users: list[str]) -> None:
    with pytest.raises(ValueError, match="seeds of"):
        over_seeds(values, users)


@pytest.mark.parametrize(("seed_sd", "too_sure"), [(0.25, "people"), (0.03, "training")])
def test_each_interval_covers_what_it_says_and_no_more(seed_sd: float, too_sure: str) -> None:
    """People, seeds and noise drawn anew 300 times around a truth of 0.3: only `both` holds it as
    often as it says.

    Given the seeds, `people` covers the mean of those seeds; given the people, `training` covers
    the mean of those people.
    """
    random = np.random.default_rng(12)
    seeds, people, answers, runs = 4, 25, 4, 300
    users = [f"u{number}" for number in range(people) for _ in range(answers)]
    held: dict[str, int] = defaultdict(int)

    def count(name: str, interval: tuple[float, float] | None, truth: float) -> None:
        assert interval is not None
        held[name] += interval[0] <= truth <= interval[1]

    for _ in range(runs):
        of_people = random.normal(size=people).repeat(answers) * 0.5
        of_seeds = random.normal(size=(seeds, 1)) * seed_sd
        values = 0.3 + of_people + of_seeds + random.normal(size=(seeds, people * answers)) * 0.3
        found = over_seeds(values.tolist(), users)
        for name in ("people", "training", "both"):
            count(name, getattr(found, name), 0.3)
        count("people, these seeds", found.people, 0.3 + float(of_seeds.mean()))
        count("training, these people", found.training, 0.3 + float(of_people.mean()))
    assert held["both"] / runs >= 0.92
    assert 0.90 <= held["people, these seeds"] / runs <= 0.99
    assert 0.90 <= held["training, these people"] / runs <= 0.99
    assert held[too_sure] / runs < 0.85
