"""PAA: the share of a model's answers that judges label a win (W), over those that have a label.

What no judge could label is neither a win nor a loss, so PAA is printed with its coverage and with
its bounds: all unlabelled answers lost (`/low`), all won (`/high`). MVPBench (arXiv 2509.08022) and
DiverValue-Bench: PAA = W / N.
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
    """Rows of `metric` (`paa/dvb_judge`) for the whole set, with what belongs beside it; PAA by
    each group of `min_users` people and more, the lowest of them and the gaps."""
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
    """PAA minus the base's over the pairs that have a label in both; None where there are none."""
    before = {one.id: one for one in base if one.label is not None}
    both = [one for one in tuned if one.label is not None and one.id in before]
    if not both:
        return None
    then = PAA.of(before[one.id] for one in both)
    lifts = [now - was for now, was in zip(PAA.of(both), then, strict=True)]
    return clustered_mean(lifts, [one.user_id for one in both], kind_of_lift(PAA.kind))
