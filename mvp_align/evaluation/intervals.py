"""How sure a mean is when one person gives several answers: intervals clustered by user."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n` pairs of `users` people. `low`, `high`: 95 % interval, None where fewer than two people answered."""

    value: float
    low: float | None
    high: float | None
    n: int
    users: int


def clustered_mean(values: Sequence[float], clusters: Sequence[str], *, share: bool = False) -> Estimate:
    """Mean of `values` with a 95 % interval whose standard error is clustered (Liang & Zeger 1986).

    SE^2 = G/(G-1) * sum over clusters of (sum of residuals)^2 / n^2, and Student's t with G-1 degrees of
    freedom, G the number of clusters: what statsmodels' `cov_type="cluster"` gives for a regression on a constant.
    `share` marks values from 0 to 1: the interval is kept inside [0, 1], and where all clusters agree (so that the SE
    is 0) it is Wilson's with one observation a cluster, rather than a width of zero.
    Raises ValueError where `values` is empty or lengths differ.
    """
    if not values or len(values) != len(clusters):
        raise ValueError(f"{len(values)} values and {len(clusters)} clusters: both must be of one length above 0.")
    x = np.asarray(values, dtype=np.float64)
    n, mean = len(x), float(np.mean(x))
    error, groups = clustered_error(x, clusters)
    if error is None:
        return Estimate(mean, None, None, n, groups)
    if share and error < 1e-12:  # 0 but for rounding
        return Estimate(mean, *wilson(mean, groups), n, groups)
    half = float(stats.t.ppf(0.975, groups - 1)) * error
    low, high = mean - half, mean + half
    if share:
        low, high = max(0.0, low), min(1.0, high)
    return Estimate(mean, low, high, n, groups)


def clustered_error(x: FloatArray, clusters: Sequence[str]) -> tuple[float | None, int]:
    """The standard error that `clustered_mean` gives, None where there is one cluster alone, and the number of clusters."""
    names, index = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    groups = len(names)
    if groups < 2:
        return None, groups
    sums = np.bincount(index, weights=x - np.mean(x), minlength=groups)
    return math.sqrt(groups / (groups - 1) * float(np.sum(sums**2))) / len(x), groups


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval (1927) of a share of `n` observations."""
    z = float(stats.norm.ppf(0.975))
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))
