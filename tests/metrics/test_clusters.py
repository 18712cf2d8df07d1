"""Compare cluster-robust estimators with statsmodels, scipy and calculations by hand."""

import numpy as np
import pytest
from scipy import stats

from mvp_align.metrics.clusters import (
    bootstrap_means,
    clustered_se,
    clusters_of,
    design_effect,
    naive_se,
)

USERS = ["b", "a", "b", "c", "a", "b"]
X = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])


def test_pairs_are_gathered_by_user_whatever_they_are_called() -> None:
    made = clusters_of(USERS)
    assert (made.pairs, made.users) == (6, 3)
    assert made.sums(X).tolist() == [1, 2, 0]
    assert made.means(X).tolist() == [0.5, pytest.approx(2 / 3), 0]
    numbered = clusters_of(np.array([7, 3, 7, 9, 3, 7]))
    assert numbered.user.tolist() == made.user.tolist()
    with pytest.raises(ValueError, match="0 pairs"):
        clusters_of([])


def test_design_effect_by_hand() -> None:
    # residual sums -, a: 0, b: 0.5, c: -0.5; SE^2 = 3/2 * 0.5 / 36 = 1/48; naive: var 0.3 / 6 =
    # 1/20
    assert clustered_se(X, clusters_of(USERS)) ** 2 == pytest.approx(1 / 48)
    assert naive_se(X) == pytest.approx(stats.sem(X))
    assert design_effect(X, clusters_of(USERS)) == pytest.approx(20 / 48)


def test_design_effect_is_1_where_each_answer_is_another_persons_and_k_where_answers_repeat() -> (
    None
):
    random = np.random.default_rng(1)
    own = random.random(200)
    assert design_effect(own, clusters_of(np.arange(200))) == pytest.approx(1)
    repeated = np.repeat(own, 7)
    assert design_effect(repeated, clusters_of(np.repeat(np.arange(200), 7))) == pytest.approx(
        7, rel=0.01
    )


def test_one_user_one_pair_or_no_variance_has_no_error() -> None:
    assert clustered_se(X, clusters_of(["a"] * 6)) is None
    assert naive_se(np.array([1.0])) is None
    assert design_effect(np.ones(4), clusters_of(list("aabb"))) is None
    assert design_effect(X, clusters_of(["a"] * 6)) is None


def test_bootstrap_of_means_agrees_with_scipys_on_people() -> None:
    """One answer a person: the cluster bootstrap is the ordinary one."""
    x = np.random.default_rng(2).normal(size=80)
    ours = np.quantile(
        bootstrap_means(x[None], clusters_of(np.arange(80)), 4000, seed=3), (0.025, 0.975)
    )
    theirs = stats.bootstrap(
        (x,), np.mean, method="percentile", n_resamples=4000, rng=4
    ).confidence_interval
    assert ours == pytest.approx([theirs.low, theirs.high], abs=0.02)


def test_bootstrap_draws_people_with_all_their_answers() -> None:
    random = np.random.default_rng(5)
    user = np.repeat(np.arange(60), random.integers(1, 9, 60))
    x = random.normal(size=60)[user] + random.normal(size=len(user)) * 0.3
    clusters = clusters_of(user)
    spread = bootstrap_means(x[None], clusters, 4000, seed=6).std()
    assert spread == pytest.approx(clustered_se(x, clusters), rel=0.1)
    assert spread > 1.5 * naive_se(x)


def test_bootstrap_is_seeded_paired_over_metrics_and_the_same_in_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clusters = clusters_of(USERS)
    both = bootstrap_means(np.stack([X, X + 1]), clusters, 50, seed=7)
    assert both[:, 1] - both[:, 0] == pytest.approx(1)
    assert np.array_equal(both, bootstrap_means(np.stack([X, X + 1]), clusters, 50, seed=7))
    assert not np.array_equal(both, bootstrap_means(np.stack([X, X + 1]), clusters, 50, seed=8))
    # seven draws of three people at a time
    monkeypatch.setattr("mvp_align.metrics.clusters.AT_ONCE", 21)
    assert np.array_equal(both, bootstrap_means(np.stack([X, X + 1]), clusters, 50, seed=7))
