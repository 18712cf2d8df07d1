"""What can be said of groups too small to speak for themselves: empirical Bayes over the groups of
one breakdown."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from mvp_align.metrics.clusters import ZERO, FloatArray, finite

FEWEST_GROUPS = 4
"""With fewer, Morris's correction is not defined: nothing can be learnt of how groups differ."""


def shrunk_means(
    user_means: Sequence[FloatArray], bounds: tuple[float, float]
) -> list[tuple[float, float, float]] | None:
    """(value, low, high) of each group's mean over people, drawn towards the mean of the groups.

    `user_means`: for each of k groups the means [users] of its people. Normal-normal model: people
    vary around their group with one variance s^2 in all groups, pooled, so that a group's mean has
    the variance V = s^2 / people; groups vary around m with variance t^2, by moments (DerSimonian &
    Laird 1986), not below 0. Point and 95 % interval are Morris's (1983, "Parametric Empirical
    Bayes Inference", JASA 78, 47-55, section 1 with one mean): B = (k-3)/(k-1) V/(V+t^2), value B m
    + (1-B) y for a group's own mean y, and variance (1 - B (k-1)/k) V + 2/(k-3) B^2
    (V'+t^2)/(V+t^2) (y-m)^2, V' the weighted mean of the V: it allows for how unsure m and t^2 are.
    Kept inside `bounds`. None where there are fewer than four groups, no group of two people, or
    people do not vary within groups.
    """
    k = len(user_means)
    for means in user_means:
        finite(means)
    sizes = np.array([len(means) for means in user_means], dtype=np.float64)
    spare = float(sizes.sum()) - k
    if k < FEWEST_GROUPS or spare < 1:
        return None
    own = np.array([means.mean() for means in user_means])
    within = sum(float(np.square(means - means.mean()).sum()) for means in user_means) / spare
    if within < ZERO:
        return None
    variance = within / sizes
    between = _spread_of_groups(own, 1 / variance)
    weight = 1 / (variance + between)
    middle = float(weight @ own / weight.sum())
    pull = (k - 3) / (k - 1) * variance * weight
    values = pull * middle + (1 - pull) * own
    typical = float(weight @ variance / weight.sum())
    unsure = 2 / (k - 3) * pull**2 * (typical + between) * weight
    half = float(stats.norm.ppf(0.975)) * np.sqrt(
        (1 - pull * (k - 1) / k) * variance + unsure * np.square(own - middle)
    )
    found = np.clip(np.stack([values, values - half, values + half], axis=1), *bounds)
    return [(value, low, high) for value, low, high in found.tolist()]


def _spread_of_groups(own: FloatArray, precision: FloatArray) -> float:
    """DerSimonian and Laird's moment estimate of the variance between groups, 0 where they differ
    no more than chance."""
    pooled = float(precision @ own / precision.sum())
    excess = float(precision @ np.square(own - pooled)) - (len(own) - 1)
    return max(0.0, excess / float(precision.sum() - precision @ precision / precision.sum()))
