"""What several trainings of one configuration say together: spread over seeds, and how sure their mean is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mvp_align.evaluation.clusters import ZERO, clusters_of
from mvp_align.evaluation.intervals import BOUNDS, clustered_error, mean_estimate
from mvp_align.evaluation.names import Kind

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class SeedEstimate:
    """A mean over `n` pairs of `users` people, each scored by one model a seed. Intervals are 95 % ones.

    `people` says how the mean would move had other people been asked, these very models given. `training` says how it
    would move had other seeds been drawn, these very people given; `both` allows for either. `sd`, `training` and `both`
    are None with one seed, `people` and `both` with one person, and `training` where all seeds agree to the last bit,
    because no spread is then no knowledge of it.
    """

    mean: float
    sd: float | None
    people: Interval | None
    training: Interval | None
    both: Interval | None
    by_seed: tuple[float, ...]
    n: int
    users: int


def over_seeds(values: Sequence[Sequence[float]], users: Sequence[str], kind: Kind = "number") -> SeedEstimate:
    """Mean and intervals of `values` [seeds, pairs], the pairs in one order, `users` [pairs] naming whose they are.

    - sd: standard deviation (divisor seeds - 1) of the seeds' means, what papers print after the plus-minus sign.
    - people: each pair's values averaged over the seeds, then clustered by user (Miller 2024, "Adding Error Bars to
      Evals", arXiv 2411.00640: resampling within a question, clustered standard errors between). It says nothing about
      another training.
    - training: Student's t on the seeds' means, seeds - 1 degrees of freedom. It covers what the seed decides (the
      adapter's first weights, dropout, the order of pairs) and none of the other sources that Bouthillier et al. 2021
      ("Accounting for Variance in Machine Learning Benchmarks", arXiv 2103.03098) measure: the draw of the training
      data, the choice of hyperparameters.
    - both: the two squared standard errors added, t with Satterthwaite's (1946) degrees of freedom. People and seeds are
      crossed, so what is particular to one person under one seed is counted in both: the interval errs to the wide side,
      and is widened to hold the other two, which the approximated degrees of freedom do not always see to.

    The intervals of a share or a difference of shares are kept inside what these can be. Raises ValueError where there are
    no values, or not as many of each seed as there are users.
    """
    if not values or any(len(row) != len(users) for row in values):
        raise ValueError(f"{len(values)} seeds of {sorted({len(row) for row in values})} values for {len(users)} users")
    x = np.asarray(values, dtype=np.float64)
    by_seed, averaged = x.mean(axis=1), x.mean(axis=0)
    estimate = mean_estimate(averaged, clusters_of(users), kind)
    people = (estimate.low, estimate.high) if estimate.low is not None and estimate.high is not None else None
    mean, seeds = estimate.value, len(x)
    sd = float(np.std(by_seed, ddof=1)) if seeds > 1 else None
    training = both = None
    if sd is not None:
        error = sd / math.sqrt(seeds)
        training = around(mean, error, seeds - 1, kind) if sd > ZERO else None
        people_error, clusters = clustered_error(averaged, users)
        if people and people_error is not None:
            total = math.hypot(error, people_error)
            summed = around(mean, total, satterthwaite((error, seeds), (people_error, clusters)), kind)
            both = hull(summed, people, *([training] if training else []))
    return SeedEstimate(mean, sd, people, training, both, tuple(by_seed.tolist()), x.shape[1], estimate.users)


def around(mean: float, error: float, freedom: float, kind: Kind) -> Interval:
    half = float(stats.t.ppf(0.975, freedom)) * error
    lowest, highest = BOUNDS[kind]
    return max(lowest, mean - half), min(highest, mean + half)


def hull(*intervals: Interval) -> Interval:
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def satterthwaite(*parts: tuple[float, int]) -> float:
    """Degrees of freedom of a sum of squared standard errors, each given with how many draws it came from."""
    total = sum(error**2 for error, _ in parts)
    if math.sqrt(total) < ZERO:
        return 1.0
    # Scaled first: the fourth power of a small error underflows.
    return 1 / sum((error**2 / total) ** 2 / (draws - 1) for error, draws in parts)
