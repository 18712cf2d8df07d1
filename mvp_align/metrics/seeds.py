"""What several trainings of one configuration say together: spread over seeds, and how sure their
mean is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from mvp_align.metrics.clusters import ZERO, clusters_of, finite
from mvp_align.metrics.intervals import clustered_error, mean_estimate
from mvp_align.metrics.metric import BOUNDS, Kind

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class SeedEstimate:
    """A mean over `n` pairs of `users` people, each scored by one model a seed. Intervals are 95 %
    ones.

    `people` says how the mean would move had other people been asked, these very models given.
    `training` says how it would move had other seeds been drawn, these very people given; `both`
    allows for either. `sd`, `training` and `both` are None with one seed, `people` and `both` with
    one person, and `training` where all seeds agree to the last bit, because no spread is then no
    knowledge of it.
    """

    mean: float
    sd: float | None
    people: Interval | None
    training: Interval | None
    both: Interval | None
    by_seed: tuple[float, ...]
    n: int | None
    users: int | None
    """None where they were not the same under all seeds."""


def over_seeds(
    values: Sequence[Sequence[float]], users: Sequence[str], kind: Kind = "number"
) -> SeedEstimate:
    """Mean and intervals of `values` [seeds, pairs], the pairs in one order, `users` [pairs] naming
    whose they are.

    - sd: standard deviation (divisor seeds - 1) of the seeds' means, what papers print after the
      plus-minus sign.
    - people: each pair's values averaged over the seeds, then clustered by user (Miller 2024,
      "Adding Error Bars to Evals", arXiv 2411.00640: resampling within a question, clustered
      standard errors between). It says nothing about another training.
    - training: Student's t on the seeds' means, seeds - 1 degrees of freedom. It covers what the
      seed decides (the adapter's first weights, dropout, the order of pairs) and none of the other
      sources that Bouthillier et al. 2021 ("Accounting for Variance in Machine Learning
      Benchmarks", arXiv 2103.03098) measure: the draw of the training data, the choice of
      hyperparameters.
    - both: the two squared standard errors added, t with Satterthwaite's (1946) degrees of freedom.
      People and seeds are crossed, so what is particular to one person under one seed is counted in
      both: the interval errs to the wide side, and is widened to hold the other two, which the
      approximated degrees of freedom do not always see to.

    Intervals are kept inside what a mean of that kind can be. Raises ValueError where there are no
    values, not as many of each seed as there are users, or a value is NaN or infinite.
    """
    if not values or any(len(row) != len(users) for row in values):
        raise ValueError(
            f"{len(values)} seeds of {sorted({len(row) for row in values})} values for {len(users)}"
            " users"
        )
    x = np.asarray(values, dtype=np.float64)
    averaged = x.mean(axis=0)
    alone = over_means(x.mean(axis=1).tolist(), [(x.shape[1], len(set(users)))] * len(x), kind)
    estimate = mean_estimate(averaged, clusters_of(users), kind)
    people = (
        (estimate.low, estimate.high)
        if estimate.low is not None and estimate.high is not None
        else None
    )
    people_error, clusters = clustered_error(averaged, users)
    if alone.sd is None or people is None or people_error is None:
        return replace(alone, mean=estimate.value, people=people)
    error, seeds = alone.sd / math.sqrt(len(x)), len(x)
    freedom = _satterthwaite((error, seeds), (people_error, clusters))
    summed = _around(estimate.value, math.hypot(error, people_error), freedom, kind)
    both = _hull(summed, people, *([alone.training] if alone.training else []))
    return replace(alone, mean=estimate.value, people=people, both=both)


def over_means(
    means: Sequence[float], counts: Sequence[tuple[int, int]], kind: Kind
) -> SeedEstimate:
    """The same of what each seed's run says of itself alone: its mean, and how many pairs and users
    that is of. Nothing then says how it would move had other people been asked. Raises ValueError
    where a mean is no finite number."""
    by_seed = np.asarray(means, dtype=np.float64)
    finite(by_seed)
    mean, seeds = float(by_seed.mean()), len(by_seed)
    sd = float(np.std(by_seed, ddof=1)) if seeds > 1 else None
    training = (
        _around(mean, sd / math.sqrt(seeds), seeds - 1, kind)
        if sd is not None and sd > ZERO
        else None
    )
    n, users = counts[0] if len(set(counts)) == 1 else (None, None)
    return SeedEstimate(mean, sd, None, training, None, tuple(by_seed.tolist()), n, users)


def _around(mean: float, error: float, freedom: float, kind: Kind) -> Interval:
    half = float(stats.t.ppf(0.975, freedom)) * error
    lowest, highest = BOUNDS[kind]
    return max(lowest, mean - half), min(highest, mean + half)


def _hull(*intervals: Interval) -> Interval:
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def _satterthwaite(*parts: tuple[float, int]) -> float:
    """Degrees of freedom of a sum of squared standard errors, each given with how many draws it
    came from."""
    total = sum(error**2 for error, _ in parts)
    if math.sqrt(total) < ZERO:
        return 1.0
    # Scaled first: the fourth power of a small error underflows.
    return 1 / sum((error**2 / total) ** 2 / (draws - 1) for error, draws in parts)
