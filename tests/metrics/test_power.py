"""Promised power, beside simulated studies, statsmodels, and a plain correlation."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from statsmodels.stats.power import TTestPower

from mvp_align.metrics.clusters import clustered_se, clusters_of
from mvp_align.metrics.intervals import difference_p
from mvp_align.metrics.power import MOST_USERS, Study, study_of

STUDIES = 4000


def drawn(study: Study, lift: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Differences [pairs] and user numbers [pairs] of one study.

    Each pair of a user has, with probability sqrt(icc), the one difference that is the user's, and
    otherwise one of its own: two pairs share it with probability icc, which is their correlation.
    """
    mean = study.pairs_per_user
    if study.variation:  # half of the users have more pairs than the mean, half fewer
        apart = round(study.variation * mean)
        sizes = np.where(np.arange(study.users) % 2, round(mean) + apart, round(mean) - apart)
    else:
        sizes = np.full(study.users, round(mean))
    user = np.repeat(np.arange(study.users), sizes)
    chances = [(study.discordant - lift) / 2, 1 - study.discordant]
    chances.append(1 - sum(chances))

    def differences(count: int) -> np.ndarray:
        return random.choice([-1.0, 0.0, 1.0], size=count, p=chances)

    shared = random.random(len(user)) < np.sqrt(study.icc)
    return np.where(shared, differences(study.users)[user], differences(len(user))), user


@pytest.mark.parametrize("power", [0.8, 0.9])
@pytest.mark.parametrize(
    "study",
    [
        Study(38, 6, 0.1, 0.3),
        Study(20, 10, 0.3, 0.4),
        Study(200, 4, 0.0, 0.2),
        Study(60, 16, 0.05, 0.25),
        Study(80, 6, 0.2, 0.35, variation=0.5),
        Study(500, 3, 0.4, 0.1),
    ],
)
def test_the_power_is_that_of_the_test_that_runs_are_measured_by(
    study: Study, power: float
) -> None:
    lift = study.smallest_lift(power)
    assert lift is not None
    random = np.random.default_rng(20)
    shown = 0
    for _ in range(STUDIES):
        x, user = drawn(study, lift, random)
        p = difference_p(x, clusters_of(user), "difference")
        shown += p is not None and p < 0.05
    assert shown / STUDIES == pytest.approx(power, abs=0.03)


def test_no_lift_is_shown_as_often_as_alpha_says() -> None:
    study, random = Study(60, 5, 0.2, 0.3), np.random.default_rng(3)
    false = sum(
        (p := difference_p(x, clusters_of(user), "difference")) is not None and p < 0.05
        for x, user in (drawn(study, 0.0, random) for _ in range(STUDIES))
    )
    assert false / STUDIES == pytest.approx(0.05, abs=0.02)
    assert study.power(0.0) == pytest.approx(0.05)


@given(st.integers(5, 2000), st.floats(0.01, 0.2), st.floats(0.3, 0.9))
def test_one_pair_a_user_is_the_paired_t_test(users: int, lift: float, discordant: float) -> None:
    study = Study(users, 1, 0.0, discordant)
    effect = lift / np.sqrt(discordant - lift**2)
    assume(effect * np.sqrt(users) < 6)  # above, statsmodels gives NaN for some
    assert study.power(lift) == pytest.approx(
        TTestPower().power(effect, users, 0.05, alternative="two-sided"), abs=1e-6
    )


studies = st.builds(
    Study,
    st.integers(10, 3000),
    st.floats(1, 50),
    st.floats(0, 0.9),
    st.floats(0.05, 1),
    st.floats(0, 2),
)


@given(studies, st.sampled_from([0.5, 0.8, 0.95]))
def test_users_and_lift_are_each_others_inverse(study: Study, power: float) -> None:
    lift = study.smallest_lift(power)
    if lift is None:
        assert study.power(study.discordant) < power
        return
    assert study.power(lift) == pytest.approx(power, abs=1e-4)
    needed = study.users_for(lift * 1.0001, power)
    assert needed is not None and needed <= study.users
    fewer = replace(study, users=max(2, needed - 1))
    assert needed == 2 or fewer.power(lift * 1.0001) < power


def test_more_people_help_more_than_more_pairs_of_each() -> None:
    study = Study(100, 5, 0.3, 0.3)
    lifts = [
        one.smallest_lift()
        for one in (study, replace(study, pairs_per_user=10), replace(study, users=200))
    ]
    assert lifts[0] > lifts[1] > lifts[2]


def test_what_cannot_be_shown_is_none() -> None:
    assert Study(2, 1, 0.0, 0.1).smallest_lift() is None
    assert Study(10, 5, 0.1, 0.3).users_for(1e-6) is None
    assert Study(MOST_USERS, 5, 0.1, 0.3).power(1e-6) < 0.8
    assert Study(30, 5, 0.1, 1.0).power(1.0) == 1.0


def test_the_correlation_of_a_run_by_a_plain_calculation() -> None:
    random = np.random.default_rng(8)
    study = Study(400, 6, 0.25, 0.4, variation=0.5)
    x, user = drawn(study, 0.1, random)
    found = study_of(x, [f"u{number}" for number in user])
    between = within = 0.0
    sizes = []
    for number in range(400):
        own = x[user == number]
        sizes.append(len(own))
        between += len(own) * (own.mean() - x.mean()) ** 2 / 399
        within += ((own - own.mean()) ** 2).sum() / (len(x) - 400)
    typical = (len(x) - sum(size**2 for size in sizes) / len(x)) / 399
    assert found.icc == pytest.approx((between - within) / (between + (typical - 1) * within))
    assert found.icc == pytest.approx(0.25, abs=0.06)
    assert (found.users, found.pairs_per_user) == (400, 6)
    assert found.discordant == pytest.approx(np.mean(x != 0))
    assert found.variation == pytest.approx(np.std(sizes) / np.mean(sizes))
    error = clustered_se(x, clusters_of(user))
    assert found.standard_error(float(x.mean())) == pytest.approx(error, rel=0.05)


@pytest.mark.parametrize(
    ("x", "users", "message"),
    [
        ([1.0, 0.0], ["a", "a"], "two users"),
        ([1.0, 0.0], ["a", "b"], "two pairs of one"),
        ([0.0, 0.0, 0.0], ["a", "a", "b"], "no pair is right under one model"),
    ],
)
def test_a_run_that_says_too_little(x: list[float], users: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study_of(np.array(x), users)


def test_impossible_studies_are_refused() -> None:
    for bad in ({"users": 1}, {"icc": 1.5}, {"discordant": 0.0}, {"pairs_per_user": 0.5}):
        with pytest.raises(ValueError):
            replace(Study(10, 5, 0.1, 0.3), **bad)
    with pytest.raises(ValueError, match="discordant"):
        Study(10, 5, 0.1, 0.3).power(0.4)
