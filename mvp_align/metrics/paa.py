"""PAA: the share of wins (W) among a model's labelled answers (N), PAA = W / N.

That is the definition of MVPBench (arXiv 2509.08022) and DiverValue-Bench. Unlabelled answers are
neither wins nor losses, so PAA comes with its coverage and with bounds: all of them lost (`/low`),
or all won (`/high`).
"""

from collections.abc import Sequence

import numpy as np

from mvp_align.metrics.groups import break_down, default_by, group_rows, headline_rows
from mvp_align.metrics.intervals import Estimate, clustered_mean
from mvp_align.metrics.labelled import PAA, PRESET, Labelled
from mvp_align.metrics.metric import Metric, kind_of_lift
from mvp_align.metrics.rows import Row, row
from mvp_align.metrics.score_rows import Groups
from mvp_align.metrics.table import OF_JUDGED, OF_LABELLED


def labelled_mean(metric: Metric[Labelled], answers: Sequence[Labelled]) -> Estimate | None:
    """Return a metric's mean with an interval clustered by user, or None without answers."""
    if not answers:
        return None
    return clustered_mean(metric.of(answers), [one.user_id for one in answers], metric.kind)


def paa_rows(
    stage: str,
    set_name: str,
    metric: str,
    answers: Sequence[Labelled],
    groups: Groups,
    min_users: int,
) -> list[Row]:
    """Return rows of `metric` (such as `paa/dvb_judge`) and its companions, then PAA by group.

    Groups of fewer than `min_users` people are suppressed. The rows include the worst group and the
    gap of each breakdown.
    """
    labelled = [one for one in answers if one.label is not None]
    rows = [
        row(stage, set_name, one.name.replace(PRESET, metric), estimate)
        for metrics, counted in ((OF_LABELLED, labelled), (OF_JUDGED, answers))
        for one in metrics
        if (estimate := labelled_mean(one, counted)) is not None
    ]
    if not labelled:
        return rows
    tags = [groups.get(one.id, {}) for one in labelled]
    breakdown = break_down(
        stage, set_name, [one.user_id for one in labelled], tags, default_by(tags), min_users
    )
    values = {metric: np.array(PAA.of(labelled))}
    return rows + group_rows(breakdown, values) + headline_rows(breakdown, values)


def paa_lift(base: Sequence[Labelled], tuned: Sequence[Labelled]) -> Estimate | None:
    """Return PAA minus the base's PAA over pairs labelled in both, or None if there are none."""
    before = {one.id: one for one in base if one.label is not None}
    both = [one for one in tuned if one.label is not None and one.id in before]
    if not both:
        return None
    then = PAA.of(before[one.id] for one in both)
    lifts = [now - was for now, was in zip(PAA.of(both), then, strict=True)]
    return clustered_mean(lifts, [one.user_id for one in both], kind_of_lift(PAA.kind))
