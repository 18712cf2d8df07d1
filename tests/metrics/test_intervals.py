"""Compare intervals clustered by user with statsmodels, and check their coverage."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize_scalar

from mvp_align.metrics.clusters import clusters_of
from mvp_align.metrics.intervals import (
    Estimate,
    clustered_mean,
    difference_p,
    mean_estimate,
    tango,
)

numbers = st.floats(-50, 50).map(lambda x: round(x, 3))
shares = st.sampled_from([0.0, 1.0])


def answers(values: st.SearchStrategy[float]) -> st.SearchStrategy[list[tuple[float, str]]]:
    return st.lists(st.tuples(values, st.sampled_from("abcdefg")), min_size=1, max_size=40)


def mean_of(rows: list[tuple[float, str]], share: bool = False) -> Estimate:
    return clustered_mean(
        [value for value, _ in rows], [user for _, user in rows], "share" if share else "number"
    )


def by_statsmodels(values: list[float], clusters: list[str]) -> tuple[float, float, float]:
    """OLS on a constant. `use_correction` is G/(G-1), since (n-1)/(n-k) is 1 with one regressor."""
    groups = np.unique(clusters, return_inverse=True)[1]
    fit = sm.OLS(values, np.ones(len(values))).fit(
        cov_type="cluster",
        cov_kwds={"groups": groups, "use_correction": True, "df_correction": True},
        use_t=True,
    )
    assert fit.df_resid_inference == len(set(clusters)) - 1
    low, high = fit.conf_int(alpha=0.05)[0]
    return float(fit.params[0]), float(low), float(high)


@given(answers(numbers))
def test_equals_statsmodels(rows: list[tuple[float, str]]) -> None:
    values, users = [value for value, _ in rows], [user for _, user in rows]
    assume(len(set(users)) > 1)
    found = clustered_mean(values, users)
    expected = by_statsmodels(values, users)
    assume(expected[2] - expected[1] > 1e-9)
    assert (found.value, found.low, found.high) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert (found.n, found.users) == (len(rows), len(set(users)))


def test_statsmodels_conventions_that_differ_are_not_ours() -> None:
    """The match above is of this convention alone: a normal quantile, or no G/(G-1), is another
    interval."""
    values, users = [1.0, 0, 1, 1, 0, 0, 1], ["a", "a", "b", "b", "c", "c", "c"]
    ours = clustered_mean(values, users)
    half = ours.high - ours.value
    groups = np.unique(users, return_inverse=True)[1]
    model = sm.OLS(values, np.ones(7))
    normal = model.fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=False)
    bare = model.fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}, use_t=True
    )
    many = model.fit(
        cov_type="cluster", cov_kwds={"groups": groups, "df_correction": False}, use_t=True
    )
    t_3, t_7 = stats.t.ppf(0.975, 2), stats.t.ppf(0.975, 6)
    assert half / (normal.conf_int()[0][1] - ours.value) == pytest.approx(
        t_3 / stats.norm.ppf(0.975)
    )
    assert half / (bare.conf_int()[0][1] - ours.value) == pytest.approx(math.sqrt(3 / 2))
    assert half / (many.conf_int()[0][1] - ours.value) == pytest.approx(t_3 / t_7)


def test_by_hand() -> None:
    found = clustered_mean([1, 1, 0, 0], ["a", "a", "b", "b"])
    # residual sums +1 and -1: SE^2 = 2/1 * 2 / 16 = 1/4, and t with 1 degree of freedom is 12.706
    assert found.value == 0.5
    assert found.high - 0.5 == pytest.approx(12.7062 / 2, rel=1e-5)
    assert 0.5 - found.low == pytest.approx(12.7062 / 2, rel=1e-5)
    kept = clustered_mean([1, 1, 0, 0], ["a", "a", "b", "b"], "share")
    assert (kept.value, kept.low, kept.high) == (0.5, 0.0, 1.0)


def test_one_answer_a_user_is_the_t_test() -> None:
    values = [0.3, -1.2, 2.5, 0.1, 0.9]
    found = clustered_mean(values, list("abcde"))
    interval = stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("share", [False, True])
def test_one_user_has_no_interval(share: bool) -> None:
    assert clustered_mean([1, 0, 1, 1], ["a"] * 4, "share" if share else "number") == Estimate(
        0.75, None, None, 4, 1
    )
    assert clustered_mean([1], ["a"], "share" if share else "number") == Estimate(
        1.0, None, None, 1, 1
    )


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("users", [2, 5, 30])
def test_a_share_on_which_all_agree_has_wilsons_interval_over_users(
    value: float, users: int
) -> None:
    found = clustered_mean([value] * (3 * users), [f"u{n}" for n in range(users)] * 3, "share")
    wilson = stats.binomtest(round(value * users), users).proportion_ci(method="wilson")
    assert found.value == value
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high))
    assert found.high - found.low > 0.1
    assert (found.n, found.users) == (3 * users, users)


@pytest.mark.parametrize("ones", [1, 2, 3, 5, 6])
def test_a_share_that_is_the_same_for_every_user_is_no_certainty_either(ones: int) -> None:
    """Every user's share is ones/7, which is no exact binary number: sums of residuals are
    rounding, not zero."""
    users = [f"u{n}" for n in range(4)]
    found = clustered_mean(
        ([1.0] * ones + [0.0] * (7 - ones)) * 4, [user for user in users for _ in range(7)], "share"
    )
    assert found.value == pytest.approx(ones / 7)
    assert found.high - found.low > 0.3
    z = stats.norm.ppf(0.975)  # Wilson (1927): where |p - ones/7| = z sqrt(p (1 - p) / users)
    for bound in (found.low, found.high):
        assert abs(bound - ones / 7) == pytest.approx(z * math.sqrt(bound * (1 - bound) / 4))


def test_a_mean_on_which_all_agree_has_no_interval() -> None:
    """One of no width would say that nobody can differ."""
    found = clustered_mean([-0.5] * 4, list("aabb"))
    assert (found.value, found.low, found.high) == (-0.5, None, None)
    found = clustered_mean([-0.5] * 4, list("aabb"), "second_difference")
    assert (found.low, found.high) == (None, None)


def test_intervals_stay_inside_what_a_mean_can_be() -> None:
    assert clustered_mean([0.01, 4.0], ["a", "b"], "divergence").low == 0
    assert clustered_mean([1.5, 80.0], ["a", "b"], "perplexity").low == 1
    wide = clustered_mean([-2.0, 2.0], ["a", "b"], "second_difference")
    assert (wide.low, wide.high) == (-2, 2)


@pytest.mark.parametrize(
    ("values", "clusters"), [([], []), ([1.0], []), ([1.0, 0.0], ["a"]), ([], ["a"])]
)
def test_empty_and_unequal_lengths_are_refused(values: list[float], clusters: list[str]) -> None:
    with pytest.raises(ValueError, match=f"{len(values)} values and {len(clusters)} clusters"):
        clustered_mean(values, clusters)


@given(answers(shares))
@example([(1.0, "a"), (1.0, "b"), (0.0, "b")])
def test_a_share_and_its_interval_stay_inside_0_and_1(rows: list[tuple[float, str]]) -> None:
    found = mean_of(rows, share=True)
    assert 0 <= found.value <= 1
    assert (found.low is None) == (found.high is None) == (found.users < 2)
    if found.low is not None and found.high is not None:
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.low < found.high
        wide = mean_of(rows)
        if wide.low is not None and wide.low < wide.high - 1e-9:  # only clipped, never moved
            assert (found.low, found.high) == pytest.approx((max(0, wide.low), min(1, wide.high)))


@given(answers(numbers))
def test_bounds_contain_the_mean(rows: list[tuple[float, str]]) -> None:
    found = mean_of(rows)
    assert found.value == pytest.approx(math.fsum(value for value, _ in rows) / len(rows), abs=1e-9)
    if found.low is not None and found.high is not None:
        assert found.low <= found.value <= found.high
        assert found.high - found.value == pytest.approx(found.value - found.low, abs=1e-9)


@given(answers(numbers), st.integers(2, 4))
def test_repeating_every_answer_narrows_no_interval(
    rows: list[tuple[float, str]], times: int
) -> None:
    once, often = mean_of(rows), mean_of(rows * times)
    assert (often.n, often.users) == (once.n * times, once.users)
    assert often.value == pytest.approx(once.value, abs=1e-9)
    if once.low is not None:
        assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=1e-9)


def test_one_user_who_answers_more_widens_the_interval() -> None:
    values, users = [1.0, 0, 1, 0, 1, 0], list("abcdef")
    before = clustered_mean(values, users)
    talkative = clustered_mean(values + [1.0] * 20, users + ["a"] * 20)
    naive = clustered_mean(values + [1.0] * 20, [str(n) for n in range(26)])
    assert (
        talkative.high - talkative.low > 0.5 * (before.high - before.low) > naive.high - naive.low
    )


@given(st.permutations([(1.0, "a"), (0.0, "a"), (1.0, "b"), (0.5, "c"), (-2.0, "c"), (3.0, "d")]))
def test_order_does_not_matter(rows: list[tuple[float, str]]) -> None:
    found, expected = mean_of(rows), mean_of(sorted(rows))
    assert (found.value, found.low, found.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )


@settings(max_examples=20)
@given(answers(numbers), numbers, st.floats(0.1, 10))
def test_shift_and_scale(rows: list[tuple[float, str]], shift: float, scale: float) -> None:
    found = mean_of(rows)
    moved = mean_of([(value * scale + shift, user) for value, user in rows])
    assert moved.value == pytest.approx(found.value * scale + shift, abs=1e-6)
    if found.low is not None:
        assert moved.low == pytest.approx(found.low * scale + shift, abs=1e-6)


RUNS, USERS, ANSWERS = 200, 40, 10


def coverage(draw_user, truth: float, share: bool) -> tuple[float, float]:
    """How often the clustered and the naive interval cover the truth."""
    random = np.random.default_rng(12)
    users = [f"u{user}" for user in range(USERS) for _ in range(ANSWERS)]
    alone = [str(number) for number in range(len(users))]
    clustered = naive = 0
    for _ in range(RUNS):
        values = np.concatenate([draw_user(random) for _ in range(USERS)]).tolist()
        ours, theirs = (
            clustered_mean(values, names, "share" if share else "number")
            for names in (users, alone)
        )
        clustered += ours.low <= truth <= ours.high
        naive += theirs.low <= truth <= theirs.high
    return clustered / RUNS, naive / RUNS


def test_coverage_of_margins_within_users() -> None:
    """Intraclass correlation 0.5: half of the variance is the user's."""
    clustered, naive = coverage(
        lambda r: 0.3 + r.normal() + r.normal(size=ANSWERS), truth=0.3, share=False
    )
    assert 0.9 <= clustered <= 0.99
    assert naive < 0.75


def test_coverage_of_shares_within_users() -> None:
    """Users whose own share is drawn from Beta(2, 1): mean 2/3, intraclass correlation 1/4."""
    clustered, naive = coverage(
        lambda r: (r.random(ANSWERS) < r.beta(2, 1)).astype(float), truth=2 / 3, share=True
    )
    assert 0.9 <= clustered <= 0.99
    assert naive < 0.85


# Paired differences of shares


def differences(x: list[float], users: list[str]) -> Estimate:
    return clustered_mean(x, users, "difference")


def tango_by_search(gained: float, lost: float, n: int) -> tuple[float, float]:
    """The interval by definition: restricted likelihood by search, T(D) = z by bisection."""

    def score(d: float) -> float:
        b, c = n * gained, n * lost

        def minus_likelihood(q: float) -> float:  # q: the probability of a loss, q + d of a gain
            p = (q + d, q, 1 - d - 2 * q)
            counts = (b, c, n - b - c)
            return -sum(
                k * math.log(max(part, 1e-300)) for k, part in zip(counts, p, strict=True) if k > 0
            )

        found = minimize_scalar(
            minus_likelihood,
            bounds=(max(0.0, -d), (1 - d) / 2),
            method="bounded",
            options={"xatol": 1e-12},
        )
        return (b - c - n * d) / math.sqrt(n * (2 * found.x + d * (1 - d)))

    def bound(low: float, high: float, target: float) -> float:
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > target else (low, middle)
        return low

    z, value = stats.norm.ppf(0.975), gained - lost
    return bound(-1 + 1e-9, value, z), bound(value, 1 - 1e-9, -z)


@pytest.mark.parametrize(
    ("gained", "lost", "n"), [(0.3, 0.1, 10), (0.5, 0.5, 12), (0.2, 0.05, 40), (0.1, 0.4, 30)]
)
def test_tango_is_the_score_interval(gained: float, lost: float, n: int) -> None:
    assert tango(gained, lost, n) == pytest.approx(tango_by_search(gained, lost, n), abs=1e-4)


@pytest.mark.parametrize("users", [2, 3, 8, 31])
def test_people_who_all_change_alike_have_an_interval(users: int) -> None:
    """Tango's interval where nothing moves is -+ z^2/(G + z^2), and where all is gained from (G -
    z^2)/(G + z^2) to 1."""
    names, z2 = [f"u{n}" for n in range(users)] * 3, stats.norm.ppf(0.975) ** 2
    still, gained, lost = (differences([move] * (3 * users), names) for move in (0.0, 1.0, -1.0))
    assert (still.low, still.high) == pytest.approx(
        (-z2 / (users + z2), z2 / (users + z2)), abs=1e-6
    )
    assert (gained.low, gained.high) == pytest.approx(((users - z2) / (users + z2), 1), abs=1e-6)
    assert (lost.low, lost.high) == pytest.approx((-1, -(users - z2) / (users + z2)), abs=1e-6)


def test_an_interval_of_three_users_stays_within_100_points() -> None:
    found = differences([1, 1, 0, 1, 0, 0], list("aabbcc"))
    wide = clustered_mean([1, 1, 0, 1, 0, 0], list("aabbcc"))
    assert wide.high > 1
    assert (found.low, found.high) == (wide.low, 1.0)


@given(answers(st.sampled_from([-1.0, 0.0, 1.0])))
def test_differences_have_a_width_and_keep_to_their_bounds(rows: list[tuple[float, str]]) -> None:
    found = differences([value for value, _ in rows], [user for _, user in rows])
    if found.low is not None and found.high is not None:
        assert -1 <= found.low <= found.value <= found.high <= 1
        assert found.low < found.high


@given(answers(st.sampled_from([-1.0, 0.0, 1.0])))
def test_p_is_below_a_twentieth_where_the_interval_leaves_0_out(
    rows: list[tuple[float, str]],
) -> None:
    x, clusters = np.array([value for value, _ in rows]), clusters_of([user for _, user in rows])
    found, p = mean_estimate(x, clusters, "difference"), difference_p(x, clusters, "difference")
    assert (p is None) == (clusters.users < 2)
    if p is not None and abs(p - 0.05) > 1e-6:
        assert (p < 0.05) == (found.low > 0 or found.high < 0)


def test_p_is_the_t_test_of_people_and_mcnemars_where_all_agree() -> None:
    x = np.array([0.3, -1.2, 2.5, 0.1, 0.9])
    alone = clusters_of(list("abcde"))
    assert difference_p(x, alone, "number") == pytest.approx(stats.ttest_1samp(x, 0).pvalue)
    assert difference_p(np.ones(5), alone, "difference") == pytest.approx(stats.chi2.sf(5, 1))
    assert (
        difference_p(np.zeros(5), alone, "number")
        == difference_p(np.zeros(5), alone, "difference")
        == 1
    )
    assert difference_p(np.ones(5), alone, "number") is None
