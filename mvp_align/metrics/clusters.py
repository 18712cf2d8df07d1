"""Pairs gathered by the person who asked: made once for a group, it feeds the mean, its standard
errors, the design effect, the tests and the bootstrap."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

AT_ONCE = 2**21
"""Weights of a bootstrap held at a time: 16 MiB."""
ZERO = 1e-12
"""Below it, a standard error is rounding."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """`user` [pairs] numbers each pair's user from 0; `counts` [users] is how many pairs each
    has."""

    user: IntArray
    counts: FloatArray

    @property
    def pairs(self) -> int:
        return len(self.user)

    @property
    def users(self) -> int:
        return len(self.counts)

    def sums(self, x: FloatArray) -> FloatArray:
        """The sum of `x` [pairs] over each user's pairs, [users]. Raises ValueError where one is no
        finite number."""
        finite(x)
        return np.bincount(self.user, weights=x, minlength=self.users).astype(
            np.float64, copy=False
        )

    def means(self, x: FloatArray) -> FloatArray:
        return self.sums(x) / self.counts


def finite(x: FloatArray) -> None:
    """Raise ValueError where `x` holds NaN or an infinity: no mean, test or comparison means
    anything with them."""
    if not np.isfinite(x).all():
        wrong = int((~np.isfinite(x)).sum())
        raise ValueError(
            f"{wrong} of {x.size} values are no finite numbers: there is nothing to estimate from"
            " them."
        )


def clusters_of(users: Sequence[str] | IntArray) -> Clusters:
    """`users` [pairs]: ids or numbers. Raises ValueError where there is none."""
    if not len(users):
        raise ValueError("0 pairs: there is nothing to gather by user.")
    ids = users if isinstance(users, np.ndarray) else np.asarray(users, dtype=object).astype(str)
    _, user, counts = np.unique(ids, return_inverse=True, return_counts=True)
    return Clusters(user.astype(np.int64), counts.astype(np.float64))


def clustered_se(x: FloatArray, clusters: Clusters) -> float | None:
    """Standard error of the mean of `x` [pairs] with users as clusters; None with one user.

    SE^2 = G/(G-1) * sum over the G users of (sum of the user's residuals)^2 / n^2 (Liang & Zeger
    1986, Biometrika 73).
    """
    finite(x)
    if clusters.users < 2:
        return None
    residuals = clusters.sums(x - x.mean())
    return (
        math.sqrt(clusters.users / (clusters.users - 1) * float(residuals @ residuals))
        / clusters.pairs
    )


def naive_se(x: FloatArray) -> float | None:
    """Standard error that takes every pair for a person of its own; None with one pair."""
    finite(x)
    return float(x.std(ddof=1)) / math.sqrt(len(x)) if len(x) > 1 else None


def design_effect(x: FloatArray, clusters: Clusters) -> float | None:
    """Clustered variance of the mean over the naive one (Kish 1965, Survey Sampling, section 5.4);
    None without a variance to divide by."""
    clustered, naive = clustered_se(x, clusters), naive_se(x)
    return None if clustered is None or not naive or naive < ZERO else (clustered / naive) ** 2


def bootstrap_means(values: FloatArray, clusters: Clusters, draws: int, seed: int) -> FloatArray:
    """Means [draws, metrics] of `values` [metrics, pairs] where `users` people are drawn with
    replacement, all of a person's pairs with them (the cluster bootstrap: Davison & Hinkley 1997,
    Bootstrap Methods, section 3.8).

    One draw of people serves all metrics, so differences between them stay paired. The same seed
    gives the same draws for every group with as many users.
    """
    users = clusters.users
    random = np.random.default_rng(seed)
    sums = np.stack([clusters.sums(x) for x in values], axis=1)
    found = np.empty((draws, len(values)))
    step = max(1, AT_ONCE // users)
    for first in range(0, draws, step):
        rows = min(step, draws - first)
        drawn = random.integers(0, users, size=(rows, users)) + users * np.arange(rows)[:, None]
        times = (
            np.bincount(drawn.ravel(), minlength=rows * users)
            .reshape(rows, users)
            .astype(np.float64)
        )
        found[first : first + rows] = (times @ sums) / (times @ clusters.counts)[:, None]
    return found
