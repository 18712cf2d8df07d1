"""Coverage of 95 % intervals over 1,000 simulated studies.

Each study has about 300 people with unequal numbers of answers.
"""

import numpy as np
import pytest
from scipy import stats

from mvp_align.metrics.clusters import (
    Clusters,
    bootstrap_means,
    clusters_of,
    design_effect,
    naive_se,
)
from mvp_align.metrics.intervals import difference_p, mean_estimate

STUDIES, USERS, TRUTH = 1000, 300, 0.6
CORRELATIONS = (0.0, 0.25, 0.6)


def study(random: np.random.Generator, correlation: float) -> tuple[np.ndarray, Clusters]:
    """Return right and wrong answers [pairs].

    Each person's share is drawn from a Beta distribution with this intraclass correlation.
    """
    answers = 1 + random.geometric(1 / 12, size=USERS)  # 2 to about 80 of one person, 13 on average
    user = np.repeat(np.arange(USERS), answers)
    own = np.full(USERS, TRUTH)
    if correlation:
        strength = 1 / correlation - 1
        own = random.beta(TRUTH * strength, (1 - TRUTH) * strength, size=USERS)
    return (random.random(len(user)) < own[user]).astype(float), clusters_of(user)


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_clustered_intervals_cover_and_naive_ones_do_not(correlation: float) -> None:
    random = np.random.default_rng(12)
    clustered = naive = 0
    effects = []
    for _ in range(STUDIES):
        x, clusters = study(random, correlation)
        found = mean_estimate(x, clusters, "share")
        half = float(stats.norm.ppf(0.975)) * naive_se(x)
        clustered += found.low <= TRUTH <= found.high
        naive += abs(found.value - TRUTH) <= half
        effects.append(design_effect(x, clusters))
    assert 0.93 <= clustered / STUDIES <= 0.97
    if correlation:
        assert naive / STUDIES < 0.8
        assert np.mean(effects) > 3
    else:
        assert 0.93 <= naive / STUDIES <= 0.97
        assert np.mean(effects) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_bootstrap_intervals_cover(correlation: float) -> None:
    random = np.random.default_rng(13)
    covered = 0
    for number in range(STUDIES):
        x, clusters = study(random, correlation)
        low, high = np.quantile(
            bootstrap_means(x[None], clusters, 400, seed=number), (0.025, 0.975)
        )
        covered += low <= TRUTH <= high
    assert 0.93 <= covered / STUDIES <= 0.97


def test_the_paired_test_errs_one_time_in_twenty() -> None:
    """Two models of equal quality on the same people's pairs: one p in twenty is below 0.05, and
    far more where answers are taken for people."""
    random = np.random.default_rng(14)
    clustered = naive = 0
    for _ in range(STUDIES):
        answers = 1 + random.geometric(1 / 12, size=USERS)
        user = np.repeat(np.arange(USERS), answers)
        taste = random.normal(size=USERS)[user]  # which of the two models a person's answers favour
        x = np.sign(np.where(np.abs(d := taste + random.normal(size=len(user))) > 1, d, 0))
        clustered += difference_p(x, clusters_of(user), "difference") < 0.05
        naive += difference_p(x, clusters_of(np.arange(len(x))), "difference") < 0.05
    assert 0.035 <= clustered / STUDIES <= 0.065
    assert naive / STUDIES > 0.2


@pytest.mark.parametrize("users", [5, 12, 40])
def test_intervals_of_lifts_cover_in_small_groups(users: int) -> None:
    """Most pairs move nowhere, and in many draws none does: a width of 0 would then cover
    nothing."""
    random = np.random.default_rng(15)
    truth, covered, flat = 0.06, 0, 0
    for _ in range(STUDIES):
        x = random.choice([1.0, -1.0, 0.0], p=[0.1, 0.04, 0.86], size=users)
        found = mean_estimate(x, clusters_of(np.arange(users)), "difference")
        covered += found.low <= truth <= found.high
        flat += not x.any()
        assert -1 <= found.low < found.high <= 1
    assert covered / STUDIES >= 0.9
    if users == 5:
        assert flat / STUDIES > 0.4
