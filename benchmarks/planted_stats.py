"""How sure figures on planted people are: 95 % intervals over people and seeds.

Objectives are compared pair by pair under the same seed. A group's acc@0 is a mean over pairs, and
has the project's interval. Which group is the worst may differ from run to run, so the worst
group's acc@0 is no mean over pairs, and has an interval of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from benchmarks.planted import MAJORITY, MINORITY
from benchmarks.planted_runs import Served
from mvp_align.metrics.clusters import ZERO, FloatArray, bootstrap_means, clusters_of
from mvp_align.metrics.metric import BOUNDS, Kind
from mvp_align.metrics.seeds import over_seeds

DRAWS = 2000
"""Resamples of people."""


@dataclass(frozen=True, slots=True)
class Bounded:
    """A share, or a difference of shares, with its interval; None where none can be had."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Standing:
    """acc@0 of an objective over seeds, or its difference to another's."""

    worst: Bounded
    """Mean of each seed's worst group."""
    majority: Bounded
    minority: Bounded
    mean: Bounded


def standing(runs: Sequence[Served], others: Sequence[Served] = ()) -> Standing:
    """Return the figures of one objective's runs, a run a seed, on the same pairs.

    With `others`, another objective's runs under the same seeds, they are differences: ours minus
    theirs.
    """
    kind: Kind = "difference" if others else "share"
    values = _right(runs) - (_right(others) if others else 0.0)
    users, levels = np.asarray(runs[0].users), np.asarray(runs[0].levels)

    def over(kept: np.ndarray) -> Bounded:
        found = over_seeds(values[:, kept].tolist(), users[kept].tolist(), kind)
        return Bounded(found.mean, *(found.both or (None, None)))

    return Standing(
        worst=_worst(runs, others, kind),
        majority=over(levels == MAJORITY),
        minority=over(levels == MINORITY),
        mean=over(levels != ""),
    )


def _right(runs: Sequence[Served]) -> FloatArray:
    """Return who is served, [seeds, pairs]."""
    return np.array([run.right for run in runs], dtype=np.float64)


def _worst(runs: Sequence[Served], others: Sequence[Served], kind: Kind) -> Bounded:
    """Return the worst group's figure, with an interval over people and seeds.

    Its squared standard error is that over seeds, plus the variance over resamples of each group's
    people, the same people for `others`. Student's t has seeds - 1 degrees of freedom, which errs
    to the wide side.
    """
    by_seed = np.array([run.worst for run in runs])
    if others:
        by_seed = by_seed - np.array([run.worst for run in others])
    value, seeds = float(by_seed.mean()), len(by_seed)
    if seeds < 2:
        return Bounded(value, None, None)
    drawn = _resampled_worst([*runs, *others])
    people = drawn[:, :seeds].mean(1) - (drawn[:, seeds:].mean(1) if others else 0.0)
    error = math.hypot(float(people.std(ddof=1)), float(by_seed.std(ddof=1)) / math.sqrt(seeds))
    if error < ZERO:
        return Bounded(value, None, None)
    half = float(stats.t.ppf(0.975, seeds - 1)) * error
    lowest, highest = BOUNDS[kind]
    return Bounded(value, max(lowest, value - half), min(highest, value + half))


def _resampled_worst(runs: Sequence[Served]) -> FloatArray:
    """Return the worst group's acc@0 of each run where people are drawn again, [draws, runs]."""
    values, users, levels = _right(runs), np.asarray(runs[0].users), np.asarray(runs[0].levels)
    by_level = [
        bootstrap_means(values[:, levels == level], clusters_of(users[levels == level]), DRAWS, n)
        for n, level in enumerate(sorted(set(runs[0].levels)))
    ]
    worst: FloatArray = np.minimum.reduce(by_level)
    return worst
