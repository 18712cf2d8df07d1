"""How sure a mean is when one person gives several answers: intervals and tests clustered by
user."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from mvp_align.metrics.clusters import ZERO, Clusters, FloatArray, clustered_se, clusters_of
from mvp_align.metrics.metric import BOUNDS, Kind


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n` pairs of `users` people. `low`, `high`: 95 % interval, None where none can be
    had: fewer than two people answered, or a number is the same for all of them."""

    value: float
    low: float | None
    high: float | None
    n: int
    users: int


def clustered_mean(
    values: Sequence[float] | FloatArray, clusters: Sequence[str], kind: Kind = "number"
) -> Estimate:
    """`mean_estimate` of `values`, `clusters` naming the user of each. Raises ValueError where
    `values` is empty or lengths differ."""
    if not len(values) or len(values) != len(clusters):
        raise ValueError(
            f"{len(values)} values and {len(clusters)} clusters: both must be of one length"
            " above 0."
        )
    return mean_estimate(np.asarray(values, dtype=np.float64), clusters_of(clusters), kind)


def mean_estimate(x: FloatArray, clusters: Clusters, kind: Kind, level: float = 0.95) -> Estimate:
    """Mean of `x` [pairs] with an interval whose standard error is clustered by user.

    Student's t with G-1 degrees of freedom, G the number of users, around `clustered_se`: what
    statsmodels' `cov_type="cluster"` gives for a regression on a constant, kept inside what a mean
    of that kind can be. In closed form, because statsmodels would fit a regression for each of
    thousands of groups; tests compare the two. Where all users agree the standard error is 0, which
    is no certainty: the interval is then a score interval with one observation a user, Wilson's
    (1927) for a share and Tango's (1998) for a paired difference; a number has none. Raises
    ValueError where a value is NaN or infinite.
    """
    n, users, mean = clusters.pairs, clusters.users, float(x.mean())
    error = clustered_se(x, clusters)
    if error is None:
        return Estimate(mean, None, None, n, users)
    if error < ZERO and kind == "share":
        return Estimate(mean, *wilson(mean, users, level), n, users)
    if error < ZERO and kind == "difference":
        gained, lost = (float(np.maximum(sign * x, 0).mean()) for sign in (1, -1))
        return Estimate(mean, *tango(gained, lost, users, level), n, users)
    if error < ZERO:
        return Estimate(mean, None, None, n, users)
    half = float(stats.t.ppf((1 + level) / 2, users - 1)) * error
    lowest, highest = BOUNDS[kind]
    return Estimate(mean, max(lowest, mean - half), min(highest, mean + half), n, users)


def clustered_error(x: FloatArray, clusters: Sequence[str]) -> tuple[float | None, int]:
    """The standard error that `clustered_mean` rests on, None with one cluster, and the number of
    clusters."""
    made = clusters_of(clusters)
    return clustered_se(x, made), made.users


def difference_p(x: FloatArray, clusters: Clusters, kind: Kind) -> float | None:
    """Two-sided p of a paired difference `x` [pairs] being 0 on average; None where it cannot be
    had (one user).

    Student's t with G-1 degrees of freedom on mean over `clustered_se`: below 0.05 exactly where
    the interval of `mean_estimate` leaves 0 out. Where the standard error is 0, McNemar's (1947)
    score test with one observation a user, which is Tango's at 0.
    """
    error = clustered_se(x, clusters)
    if error is None:
        return None
    if error >= ZERO:
        return float(2 * stats.t.sf(abs(float(x.mean())) / error, clusters.users - 1))
    moved = float(np.abs(x).mean())
    if moved < ZERO:
        return 1.0
    if kind != "difference":
        return None
    return float(2 * stats.norm.sf(abs(float(x.mean())) * math.sqrt(clusters.users / moved)))


def wilson(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval (1927, JASA 22) of a share of `n` observations."""
    if not 0 <= share <= 1:
        raise ValueError(f"{share} is no share")
    z = float(stats.norm.ppf((1 + level) / 2))
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def tango(gained: float, lost: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Tango's score interval (1998, Statistics in Medicine 17, 891-908) of a difference of two
    paired shares.

    `gained` of the `n` observations turned from wrong to right and `lost` the other way, as shares
    of `n`. The bounds are the differences D at which |T(D)| = z, T's variance taken at its
    restricted maximum likelihood under D.
    """
    if not (0 <= gained <= 1 and 0 <= lost <= 1):
        raise ValueError(f"{gained} and {lost} are no two shares")
    z = float(stats.norm.ppf((1 + level) / 2))
    moved, mean = gained + lost, gained - lost

    def score(difference: float) -> float:
        b = -moved + (2 - mean) * difference
        c = -lost * difference * (1 - difference)
        changed = (math.sqrt(max(0.0, b**2 - 8 * c)) - b) / 4  # the restricted estimate of `lost`
        variance = max(0.0, 2 * changed + difference * (1 - difference))
        return math.copysign(math.inf,
        mean - difference) if variance < ZERO else (mean - difference) * math.sqrt(
            n / variance
        )  # fmt: skip

    return _root(score, z, -1.0, mean), _root(score, -z, mean, 1.0)


def _root(score: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Where the falling `score` passes `target` between `low` and `high`; the outer end where it
    does not."""
    if high - low < ZERO:
        return low
    edge, inner = (low, high) if target > 0 else (high, low)
    near = edge + (inner - edge) * 1e-9  # at the very ends the variance may vanish
    if abs(score(near)) <= abs(target):
        return edge
    return float(
        optimize.brentq(
            lambda d: (score(d) if d != inner else 0.0) - target, near, inner, xtol=1e-10
        )
    )
