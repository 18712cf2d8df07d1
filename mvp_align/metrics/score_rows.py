"""Compute metrics from log-probs of pairs, for a whole set and by group, as rows."""

from collections.abc import Mapping, Sequence

import numpy as np

from mvp_align.metrics.groups import (
    Breakdown,
    Values,
    break_down,
    default_by,
    exact_rows,
    group_rows,
    headline_rows,
)
from mvp_align.metrics.intervals import Estimate, clustered_mean
from mvp_align.metrics.metric import LIFT
from mvp_align.metrics.names import kind_of
from mvp_align.metrics.opa import CEILING, LENGTH_ONLY
from mvp_align.metrics.rows import Row, row
from mvp_align.metrics.table import CHANGES, SCORED, metric_named
from mvp_align.schema import PairScore

HEADLINE_LIFTS = tuple(f"{metric.name}{LIFT}" for metric in SCORED if metric.headline)
BY_GROUP = (
    *(metric.name for metric in SCORED if metric.by_group),
    *(metric.name for metric in CHANGES if metric.by_group),
    *HEADLINE_LIFTS,
)
"""Metrics that every run breaks down by group. `mvp-align stats` breaks down all others too."""

Groups = Mapping[str, Mapping[str, str]]
"""Pair id -> group variable -> group."""


def pair_values(
    scores: Sequence[PairScore], base: Sequence[PairScore] | None = None
) -> dict[str, list[float]]:
    """Return each metric's values, one per pair, in order.

    With `base`, this includes the metrics of what training changed. Raises ValueError unless `base`
    holds the same pairs in the same order.
    """
    values = {metric.name: metric.of(scores) for metric in SCORED}
    if base is not None:
        both = match_scores(base, scores)
        values |= {metric.name: metric.of(both) for metric in CHANGES}
    return values


def match_scores(
    base: Sequence[PairScore], scores: Sequence[PairScore]
) -> list[tuple[PairScore, PairScore]]:
    """Return the scores of both runs, pair by pair.

    Raises ValueError unless both hold the same pairs in the same order.
    """
    if [score.id for score in base] != [score.id for score in scores]:
        raise ValueError("the two lists of scores are not of the same pairs in the same order")
    return list(zip(base, scores, strict=True))


def score_values(scores: Sequence[PairScore], base: Sequence[PairScore] | None = None) -> Values:
    """Return each metric of `pair_values` as an array [pairs], and with `base` also the lifts."""
    values = {
        metric: np.asarray(x, dtype=np.float64) for metric, x in pair_values(scores, base).items()
    }
    return values if base is None else {**values, **lifts(values, score_values(base), LIFT)}


def lifts(values: Values, before: Values, suffix: str) -> Values:
    """Return the difference per pair, `values` minus `before`, of each `lifted` metric in both.

    Each is named by its metric plus `suffix`.
    """
    return {
        f"{metric}{suffix}": x - before[metric]
        for metric, x in values.items()
        if metric in before and metric_named(metric).lifted
    }


def score_estimates(
    scores: Sequence[PairScore], base: Sequence[PairScore] | None = None
) -> dict[str, Estimate]:
    """Return the mean of each metric, and with `base` the lifts of the headline metrics.

    Intervals are clustered by user. A lift is a paired difference, so its interval is usually
    narrower than that of either mean.
    """
    users = users_of(scores)
    return {
        metric: clustered_mean(x, users, kind_of(metric))
        for metric, x in score_values(scores, base).items()
        if not metric.endswith(LIFT) or metric in HEADLINE_LIFTS
    }


def length_only(scores: Sequence[PairScore]) -> Estimate:
    """Return the acc@0 of always preferring the longer answer, or the shorter if that is better.

    Lengths are token counts. Ties count as one half.
    """
    longer = LENGTH_ONLY.of(scores)
    prefers_longer = sum(longer) >= len(longer) / 2
    return clustered_mean(
        longer if prefers_longer else [1 - x for x in longer], users_of(scores), LENGTH_ONLY.kind
    )


def score_rows(
    stage: str,
    set_name: str,
    scores: Sequence[PairScore],
    groups: Groups,
    base: Sequence[PairScore] | None = None,
    *,
    min_users: int = 1,
    also_by: str = "",
) -> list[Row]:
    """Return rows of the whole set, then of `BY_GROUP` for each group.

    Groups of fewer than `min_users` people are suppressed. `also_by` names a breakdown beside the
    usual ones (`groups.default_by`), such as `gender,age`.
    """
    whole = score_estimates(scores, base)
    rows = [row(stage, set_name, metric, estimate) for metric, estimate in whole.items()]
    breakdown = _breakdown(stage, set_name, scores, groups, min_users, also_by)
    return rows + group_rows(breakdown, _by_group(score_values(scores, base)))


def score_headlines(
    stage: str,
    set_name: str,
    scores: Sequence[PairScore],
    groups: Groups,
    base: Sequence[PairScore] | None,
    *,
    min_users: int,
    also_by: str = "",
) -> list[Row]:
    """Return worst groups, gaps, design effects, and shares of users better or worse off."""
    breakdown = _breakdown(stage, set_name, scores, groups, min_users, also_by)
    return headline_rows(breakdown, _by_group(score_values(scores, base)))


def ceiling_rows(
    stage: str,
    set_name: str,
    scores: Sequence[PairScore],
    groups: Groups,
    right: Mapping[str, float],
    *,
    min_users: int,
    also_by: str = "",
) -> list[Row]:
    """Return what a model that reaches the value-blind ceiling gets right, of the set and by group.

    `right`: pair id -> its share (`data.ceiling.majority_shares`).
    """
    breakdown = _breakdown(stage, set_name, scores, groups, min_users, also_by)
    shares = np.asarray([right[score.id] for score in scores], dtype=np.float64)
    return exact_rows(breakdown, CEILING.name, shares)


def _by_group(values: Values) -> Values:
    return {metric: values[metric] for metric in BY_GROUP if metric in values}


def _breakdown(
    stage: str,
    set_name: str,
    scores: Sequence[PairScore],
    groups: Groups,
    min_users: int,
    also_by: str,
) -> Breakdown:
    tags = [groups.get(score.id, {}) for score in scores]
    by = dict.fromkeys([*default_by(tags), *([also_by] if also_by else [])])
    return break_down(stage, set_name, users_of(scores), tags, [*by], min_users)


def users_of(scores: Sequence[PairScore]) -> list[str]:
    return [score.user_id for score in scores]
