"""The group that is served worst, as one number of a whole set: to watch a run, and to choose by.

`<metric>_worst` and `_gap` (`metrics.groups`) search every breakdown after the fact. This is about
one breakdown that is named beforehand (`evals.worst_by`):

    opa/worst_group          the lowest acc@0 of its groups
    opa/worst_group_gap      the highest minus the lowest
    opa/worst_group_shrunk   the lowest of their means after each was drawn towards the others

The lowest of several noisy means is below the truth even if all groups are alike, the further the
smaller and the more the groups are. Shrinking (`metrics.shrinkage`) takes out most of that, but
also hides most of one group that really is served worse; it needs four groups.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mvp_align.metrics.groups import Tags, break_down, extremes
from mvp_align.metrics.intervals import Estimate
from mvp_align.metrics.metric import BOUNDS, GAP, SHRUNK, WORST
from mvp_align.metrics.opa import ACC, WORST_GROUP
from mvp_align.metrics.rows import Row, row
from mvp_align.metrics.score_rows import Groups, users_of
from mvp_align.metrics.shrinkage import shrunk_means
from mvp_align.metrics.table import metric_named
from mvp_align.metrics.variables import crossed_name
from mvp_align.schema import PairScore

_NAMES = {WORST: WORST_GROUP.name, GAP: f"{WORST_GROUP.name}{GAP}"}


def worst_group_rows(
    stage: str, set_name: str, scores: Sequence[PairScore], groups: Groups, by: str, min_users: int
) -> list[Row]:
    """Return rows of the whole set about its worst group; none with fewer than two groups.

    `by` is a group variable, or several joined by `+`. Groups of fewer than `min_users` people are
    left out. The intervals allow for the search (`groups.extremes`); the shrunk one's is Morris's.
    `n` and `users` are those of the group or groups that the number is about.
    """
    name = crossed_name(by)
    tags = [groups.get(score.id, {}) for score in scores]
    breakdown = break_down(stage, set_name, users_of(scores), tags, [name], min_users)
    cells = breakdown.of(name)
    if len(cells) < 2:
        return []
    x = np.asarray(metric_named(ACC).of(scores), dtype=np.float64)
    rows = [
        replace(one, metric=_NAMES[one.metric.removeprefix(ACC)], group_by="", group="")
        for one in extremes(breakdown, cells, ACC, x)
    ]
    shrunk = shrunk_means([cell.clusters.means(x[cell.pairs]) for cell in cells], BOUNDS["share"])
    if shrunk is not None:
        (value, low, high), cell = min(zip(shrunk, cells, strict=True), key=lambda one: one[0][0])
        estimate = Estimate(value, low, high, cell.clusters.pairs, cell.clusters.users)
        rows.append(row(stage, set_name, f"{WORST_GROUP.name}{SHRUNK}", estimate))
    return rows


def compared_groups(
    users: Sequence[str], tags: Sequence[Tags], by: str, min_users: int
) -> list[str]:
    """Return the groups of `by` that the worst one is sought among, by name.

    `users` and `tags` are those of the pairs, in one order.
    """
    name = crossed_name(by)
    return [cell.group for cell in break_down("", "", users, tags, [name], min_users).of(name)]
