"""Break metrics down by group: means, worst group, gap, and shares of people better or worse off.

Groups with too few people are suppressed or shrunk. A `Breakdown` is made once for a list of pairs
and serves all their metrics, both of scores and of labels: pass it with the values [pairs] of each
metric to `group_rows` and `headline_rows`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mvp_align.metrics.clusters import (
    ZERO,
    Clusters,
    FloatArray,
    IntArray,
    clusters_of,
    design_effect,
)
from mvp_align.metrics.intervals import Estimate, mean_estimate, wilson
from mvp_align.metrics.metric import (
    BETTER,
    BOUNDS,
    DEFF,
    GAP,
    LIFT,
    SHRUNK,
    SUPPRESSED,
    WORSE,
    WORST,
    Kind,
)
from mvp_align.metrics.names import kind_of, measure
from mvp_align.metrics.regions import region_of
from mvp_align.metrics.rows import Row, row
from mvp_align.metrics.shrinkage import shrunk_means
from mvp_align.metrics.variables import CROSSINGS

Tags = Mapping[str, str]
"""The groups of one pair: `{"gender": "Female", ...}`."""

Values = Mapping[str, FloatArray]
"""Metric -> its values [pairs]."""


Where = tuple[str, str]
"""Breakdown and group; ("", "") is the whole set."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One group of one breakdown. `pairs` [n] indexes the list of all pairs.

    The whole set is the cell ("", "").
    """

    group_by: str
    group: str
    pairs: IntArray
    clusters: Clusters

    @property
    def where(self) -> Where:
        return self.group_by, self.group


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The cells of a list of pairs.

    `small` holds the cells with fewer than `min_users` people, whose own means are never shown.
    """

    stage: str
    set: str
    whole: Cell
    cells: list[Cell]
    small: list[Cell]
    min_users: int

    def by(self) -> list[str]:
        return list(dict.fromkeys(cell.group_by for cell in (*self.cells, *self.small)))

    def of(self, group_by: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.group_by == group_by]

    def small_of(self, group_by: str) -> list[Cell]:
        return [cell for cell in self.small if cell.group_by == group_by]


def with_region(tags: Sequence[Tags], regions: Mapping[str, str]) -> list[Tags]:
    """Add the `region` of each pair's birth country, if it has one.

    `regions` comes from `regions.load_regions`; an empty one adds nothing.
    """
    if not regions:
        return list(tags)
    known = {
        name: region_of(name, regions)
        for name in {tag["birth_country"] for tag in tags if "birth_country" in tag}
    }
    return [
        {**tag, "region": known[tag["birth_country"]]} if "birth_country" in tag else tag
        for tag in tags
    ]


def default_by(tags: Sequence[Tags]) -> list[str]:
    """Return all names in the tags, and the CROSSINGS whose names are all present.

    They are crossed because dimension and level mean little without each other.
    """
    names = {name for tag in tags for name in tag}
    return sorted([*names, *(one for one in CROSSINGS if names.issuperset(one.split(",")))])


def break_down(
    stage: str,
    set_name: str,
    users: Sequence[str],
    tags: Sequence[Tags],
    by: Sequence[str],
    min_users: int,
) -> Breakdown:
    """Group pairs by each name in `by`; `gender,age` crosses the two.

    Cells are sorted by name. A pair without a tag is in none of that tag's cells.
    """
    ids = np.unique(np.asarray(users, dtype=object).astype(str), return_inverse=True)[1].astype(
        np.int64
    )
    cells: list[Cell] = []
    for group_by in by:
        parts: dict[str, list[int]] = {}
        columns = [[tag.get(name) for tag in tags] for name in group_by.split(",")]
        for place, groups in enumerate(zip(*columns, strict=True)):
            if None not in groups:
                parts.setdefault(",".join(map(str, groups)), []).append(place)
        for group, places in sorted(parts.items()):
            at = np.asarray(places, dtype=np.int64)
            cells.append(Cell(group_by, group, at, clusters_of(ids[at])))
    whole = Cell("", "", np.arange(len(ids)), clusters_of(ids))
    large = [cell for cell in cells if cell.clusters.users >= min_users]
    small = [cell for cell in cells if cell.clusters.users < min_users]
    return Breakdown(stage, set_name, whole, large, small, min_users)


def group_rows(breakdown: Breakdown, values: Values, small: str = "suppress") -> list[Row]:
    """Return the mean of each metric in each cell.

    Cells with fewer than `min_users` people get no such row. Instead, `<metric>_suppressed` counts
    them, with their pairs and people as `n` and `users`. If `small` is `shrink` and the breakdown
    has enough groups, each gets `<metric>_shrunk` (`shrinkage.shrunk_means`).
    """
    rows = [
        breakdown_row(
            breakdown,
            metric,
            cell.where,
            mean_estimate(x[cell.pairs], cell.clusters, kind_of(metric)),
        )
        for cell in breakdown.cells
        for metric, x in values.items()
    ]
    for group_by in breakdown.by():
        for metric, x in values.items():
            rows += _small_rows(breakdown, group_by, metric, x, small)
    return rows


def _small_rows(
    breakdown: Breakdown, group_by: str, metric: str, x: FloatArray, small: str
) -> Iterator[Row]:
    held = breakdown.small_of(group_by)
    if not held:
        return
    shrunk = None
    if small == "shrink":
        cells = [*held, *breakdown.of(group_by)]
        shrunk = shrunk_means(
            [cell.clusters.means(x[cell.pairs]) for cell in cells], BOUNDS[kind_of(metric)]
        )
    if shrunk is None:
        pairs = np.unique(np.concatenate([cell.pairs for cell in held]))
        people = len(np.unique(breakdown.whole.clusters.user[pairs]))
        counted = Estimate(len(held), None, None, len(pairs), people)
        yield breakdown_row(breakdown, metric + SUPPRESSED, (group_by, ""), counted)
        return
    # `shrunk` goes on with the large cells, which have rows already
    for cell, (value, low, high) in zip(held, shrunk, strict=False):
        estimate = Estimate(value, low, high, cell.clusters.pairs, cell.clusters.users)
        yield breakdown_row(breakdown, metric + SHRUNK, cell.where, estimate)


def headline_rows(breakdown: Breakdown, values: Values) -> list[Row]:
    """Return the worst group and the gap of each breakdown and metric.

    For the whole set, return the design effect, and for each lift the shares of people who are
    better and worse off.
    """
    rows: list[Row] = []
    for metric, x in values.items():
        effect = design_effect(x, breakdown.whole.clusters)
        if effect is not None:
            rows.append(number_row(breakdown, metric + DEFF, breakdown.whole, effect))
        if metric.endswith(LIFT):
            rows += better_off(breakdown, metric, x, breakdown.whole)
    for group_by in breakdown.by():
        cells = breakdown.of(group_by)
        if len(cells) > 1:
            rows += [
                extreme
                for metric, x in values.items()
                for extreme in extremes(breakdown, cells, metric, x)
            ]
    return rows


def better_off(breakdown: Breakdown, metric: str, x: FloatArray, cell: Cell) -> list[Row]:
    """Return the shares of people whose own mean became better, and worse.

    Each person counts once; intervals are Wilson's. Returns no rows if neither direction of the
    metric is better.
    """
    higher = measure(metric).higher_is_better
    if higher is None:
        return []
    gains = (1 if higher else -1) * cell.clusters.sums(x[cell.pairs])
    base, people = metric.removesuffix(LIFT), cell.clusters.users
    rows = []
    for word, count in ((BETTER, int((gains > 1e-9).sum())), (WORSE, int((gains < -1e-9).sum()))):
        low, high = wilson(count / people, people) if people > 1 else (None, None)
        estimate = Estimate(count / people, low, high, cell.clusters.pairs, people)
        rows.append(breakdown_row(breakdown, base + word, cell.where, estimate))
    return rows


def extremes(breakdown: Breakdown, cells: Sequence[Cell], metric: str, x: FloatArray) -> list[Row]:
    """Return `_worst`, for the group with the worst mean, and `_gap`, highest minus lowest mean.

    There is no `_worst` if neither direction of the metric is better. The data themselves select
    the extreme groups, so ordinary intervals would be too narrow, and the gap is above 0 even if
    all groups are alike. Intervals are therefore Bonferroni's: over all groups for the worst, over
    all pairs of groups for the gap. If the gap's interval includes 0, no two groups are shown to
    differ.
    """
    kind = kind_of(metric)
    means = [float(x[cell.pairs].mean()) for cell in cells]
    lowest, highest = cells[int(np.argmin(means))], cells[int(np.argmax(means))]
    gap = _gap_estimate(
        breakdown, lowest, highest, x, kind, level=1 - 0.05 / math.comb(len(cells), 2)
    )
    gap_row = breakdown_row(breakdown, metric + GAP, (lowest.group_by, ""), gap)
    higher = measure(metric).higher_is_better
    if higher is None:
        return [gap_row]
    worst = lowest if higher else highest
    estimate = mean_estimate(x[worst.pairs], worst.clusters, kind, level=1 - 0.05 / len(cells))
    return [breakdown_row(breakdown, metric + WORST, worst.where, estimate), gap_row]


def _gap_estimate(
    breakdown: Breakdown, lowest: Cell, highest: Cell, x: FloatArray, kind: Kind, level: float
) -> Estimate:
    """Return highest minus lowest, with an interval that combines those of both means.

    The method is MOVER (Zou & Donner 2008, Statistics in Medicine 27, 1693-1702). The means are
    correlated if people are in both groups, as with dimensions.
    """
    everyone = breakdown.whole.clusters
    residuals = np.zeros((2, everyone.users))
    users = np.zeros(everyone.users, dtype=bool)
    for number, cell in enumerate((highest, lowest)):
        user = everyone.user[cell.pairs]
        residuals[number] = np.bincount(user, x[cell.pairs] - x[cell.pairs].mean(), everyone.users)
        users[user] = True
    size = float(np.linalg.norm(residuals[0]) * np.linalg.norm(residuals[1]))
    alike = float(residuals[0] @ residuals[1]) / size if size > ZERO else 0.0
    one, other = (
        mean_estimate(x[cell.pairs], cell.clusters, kind, level) for cell in (highest, lowest)
    )
    gap, low, high = one.value - other.value, None, None
    if (
        one.low is not None
        and one.high is not None
        and other.low is not None
        and other.high is not None
    ):
        low = gap - _combined(one.value - one.low, other.high - other.value, alike)
        high = gap + _combined(one.high - one.value, other.value - other.low, alike)
    return Estimate(gap, low, high, one.n + other.n, int(users.sum()))


def _combined(one: float, other: float, alike: float) -> float:
    return math.sqrt(max(0.0, one**2 + other**2 - 2 * alike * one * other))


def exact_rows(breakdown: Breakdown, metric: str, x: FloatArray) -> list[Row]:
    """Return means over the whole set and each cell without intervals: of what is a fact about
    these pairs, whatever model is asked. Cells with fewer than `min_users` people get none."""
    return [
        number_row(breakdown, metric, cell, float(x[cell.pairs].mean()))
        for cell in (breakdown.whole, *breakdown.cells)
    ]


def number_row(breakdown: Breakdown, metric: str, cell: Cell, value: float) -> Row:
    return breakdown_row(
        breakdown,
        metric,
        cell.where,
        Estimate(value, None, None, cell.clusters.pairs, cell.clusters.users),
    )


def breakdown_row(breakdown: Breakdown, metric: str, where: Where, estimate: Estimate) -> Row:
    return row(breakdown.stage, breakdown.set, metric, estimate, *where)
