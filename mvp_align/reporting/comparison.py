"""Runs compared on the pairs that they share: metrics, groups that moved, pairs that flipped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from omegaconf import DictConfig, OmegaConf

from mvp_align.config import Evals
from mvp_align.metrics.certainty import holm
from mvp_align.metrics.clusters import Clusters, FloatArray, clusters_of
from mvp_align.metrics.groups import (
    Breakdown,
    Cell,
    Tags,
    Values,
    break_down,
    default_by,
    group_rows,
    with_region,
)
from mvp_align.metrics.intervals import Estimate, difference_p, mean_estimate
from mvp_align.metrics.metric import LIFT, SUPPRESSED, kind_of_lift
from mvp_align.metrics.names import kind_of
from mvp_align.metrics.opa import ACC
from mvp_align.metrics.regions import load_regions
from mvp_align.metrics.score_rows import score_values
from mvp_align.reporting.references import config_of
from mvp_align.reporting.results import suppressed_text
from mvp_align.reporting.shared_pairs import (
    ScoredRun,
    SharedPairs,
    shared_pairs,
    texts_of_shared,
)
from mvp_align.runs.pair_files import PairTexts, read_groups
from mvp_align.runs.run_folder import RunFolder

ALPHA = 0.05
"""Level of all tests of a comparison."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A metric of one run on the shared pairs, and how far it is from the first run's.

    `difference` is None for the first run. `p` is two-sided, `p_holm` corrected over the runs that
    are compared (Holm 1979); both are None where there is no test, as of one user.
    """

    run: str
    value: Estimate
    difference: Estimate | None
    p: float | None
    p_holm: float | None

    @property
    def direction(self) -> Literal["higher", "lower", "none"]:
        """What is shown of the run's metric against the first run's, by `p_holm`."""
        if self.difference is None or self.p_holm is None or self.p_holm >= ALPHA:
            return "none"
        return "higher" if self.difference.value > 0 else "lower"


@dataclass(frozen=True, slots=True)
class ComparedMetric:
    metric: str
    lines: tuple[Measurement, ...]
    """One a run, in the order of the runs."""


@dataclass(frozen=True, slots=True)
class GroupMove:
    """acc@0 of one group in a run minus that in the first run.

    The interval is Bonferroni's over all groups, breakdowns and runs that were looked at.
    """

    run: str
    group_by: str
    group: str
    first: float
    value: float
    difference: Estimate

    @property
    def shown(self) -> bool:
        """Whether the widened interval leaves 0 out."""
        low, high = self.difference.low, self.difference.high
        return low is not None and high is not None and (low > 0 or high < 0)


@dataclass(frozen=True, slots=True)
class GroupMoves:
    """`looks` is how many intervals share the 5 %. `held_back` counts groups of too few people."""

    moves: tuple[GroupMove, ...]
    looks: int
    min_users: int
    held_back: tuple[tuple[str, str], ...]
    """(breakdown, sentence on its groups with fewer than `min_users` people)."""
    unknown: str = ""
    """Why nothing is known of groups; empty if it is."""


@dataclass(frozen=True, slots=True)
class Flip:
    """A pair that one of two runs has right (its margin is above 0) and the other wrong."""

    id: str
    tags: Tags
    first_margin: float
    margin: float
    texts: PairTexts | None

    @property
    def gained(self) -> bool:
        return self.margin > 0

    @property
    def change(self) -> float:
        """Nats a token."""
        return self.margin - self.first_margin


@dataclass(frozen=True, slots=True)
class Flips:
    """What a run has right that the first has wrong, and the other way, of `pairs`."""

    run: str
    gained: tuple[Flip, ...]
    lost: tuple[Flip, ...]
    pairs: int

    @property
    def largest(self) -> list[Flip]:
        """Both, with the largest change of margin first."""
        return sorted((*self.gained, *self.lost), key=lambda flip: (-abs(flip.change), flip.id))


def compared_metrics(shared: SharedPairs) -> list[ComparedMetric]:
    """Compare every metric of scores that all runs have, and the lifts of those with a base.

    Intervals are 95 % ones, clustered by user; the tests are `intervals.difference_p`.
    """
    clusters = clusters_of(shared.users)
    values = [_values(run, shared) for run in shared.runs]
    return [
        _compared(metric, shared, [of[metric] for of in values], clusters)
        for metric in values[0]
        if all(metric in of for of in values)
    ]


def _values(run: ScoredRun, shared: SharedPairs) -> Values:
    """Metrics [pairs] of a run's model, and of what its training changed if all pairs have a
    base."""
    scores = [run.scores[id] for id in shared.ids]
    if not all(id in run.base for id in shared.ids):
        return score_values(scores)
    return score_values(scores, [run.base[id] for id in shared.ids])


def _compared(
    metric: str, shared: SharedPairs, values: Sequence[FloatArray], clusters: Clusters
) -> ComparedMetric:
    kind = kind_of(metric)
    means = [mean_estimate(x, clusters, kind) for x in values]
    lines = [Measurement(shared.runs[0].name, means[0], None, None, None)]
    change = kind_of_lift(kind)
    differing = [x - values[0] for x in values[1:]]
    ps = [difference_p(x, clusters, change) for x in differing]
    corrected = iter(holm([p for p in ps if p is not None]))
    for run, mean, x, p in zip(shared.runs[1:], means[1:], differing, ps, strict=True):
        difference = mean_estimate(x, clusters, change)
        p_holm = None if p is None else next(corrected)
        lines.append(Measurement(run.name, mean, difference, p, p_holm))
    return ComparedMetric(metric, tuple(lines))


def group_moves(shared: SharedPairs) -> GroupMoves:
    """Compare acc@0 of each group with the first run's, by every group variable and the usual
    crossings, worst change first.

    Groups of fewer people than `evals.min_users` of any of the runs are held back and counted.
    Groups are those that the first run's folder has.
    """
    first = shared.runs[0]
    if len(shared.runs) == 1:
        return GroupMoves((), 0, 0, (), "One run alone: no group is compared.")
    groups_file = RunFolder(first.folder, resumed=False, writes=False).groups(shared.set)
    if not groups_file.is_file():
        return GroupMoves((), 0, 0, (), f"{groups_file} is not there: nobody knows who asked what.")
    min_users = max(int(_eval_setting(run, "min_users")) for run in shared.runs)
    lines = read_groups(groups_file)
    known = [lines[id][2] if id in lines else {} for id in shared.ids]
    tags = with_region(known, load_regions(str(_eval_setting(first, "regions"))))
    breakdown = break_down(first.stage, shared.set, shared.users, tags, default_by(tags), min_users)
    right = [
        np.array([float(run.scores[id].margin > 0) for id in shared.ids]) for run in shared.runs
    ]
    looks = len(breakdown.cells) * (len(shared.runs) - 1)
    moves = [
        _move(run.name, cell, right[0], x, looks)
        for run, x in zip(shared.runs[1:], right[1:], strict=True)
        for cell in breakdown.cells
    ]
    moves.sort(key=lambda move: move.difference.value)
    return GroupMoves(tuple(moves), looks, min_users, tuple(_held_back(breakdown)))


def _eval_setting(run: ScoredRun, name: str) -> Any:
    """Return a setting of `evals` as the run has it, or its default where its version had none."""
    config = config_of(run.folder)
    found = OmegaConf.select(config, f"evals.{name}") if isinstance(config, DictConfig) else None
    return getattr(Evals(), name) if found is None else found


def _move(run: str, cell: Cell, first: FloatArray, x: FloatArray, looks: int) -> GroupMove:
    before, now = first[cell.pairs], x[cell.pairs]
    kind = kind_of(f"{ACC}{LIFT}")
    difference = mean_estimate(now - before, cell.clusters, kind, level=1 - ALPHA / looks)
    return GroupMove(
        run, cell.group_by, cell.group, float(before.mean()), float(now.mean()), difference
    )


def _held_back(breakdown: Breakdown) -> list[tuple[str, str]]:
    rows = group_rows(breakdown, {ACC: np.zeros(breakdown.whole.clusters.pairs)})
    return [(row.group_by, suppressed_text(row)) for row in rows if row.metric == ACC + SUPPRESSED]


def flips(shared: SharedPairs) -> list[Flips]:
    """Return, of each run but the first, the pairs that it has right and the first wrong, and the
    other way."""
    first = shared.runs[0]
    tags, texts = _tags(first, shared.set), texts_of_shared(shared)
    found = []
    for run in shared.runs[1:]:
        flipped = [
            Flip(
                id,
                tags.get(id, {}),
                first.scores[id].margin,
                run.scores[id].margin,
                texts.get(id),
            )
            for id in shared.ids
            if (first.scores[id].margin > 0) != (run.scores[id].margin > 0)
        ]
        gained = tuple(flip for flip in flipped if flip.gained)
        lost = tuple(flip for flip in flipped if not flip.gained)
        found.append(Flips(run.name, gained, lost, len(shared.ids)))
    return found


def _tags(run: ScoredRun, set_name: str) -> Mapping[str, Tags]:
    path = RunFolder(run.folder, resumed=False, writes=False).groups(set_name)
    return {id: tags for id, _, tags in read_groups(path).values()} if path.is_file() else {}


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that is compared of one set."""

    shared: SharedPairs
    metrics: tuple[ComparedMetric, ...]
    moves: GroupMoves
    flips: tuple[Flips, ...]


def compare_set(folders: Sequence[Path], set_name: str) -> Comparison:
    """Compare all runs with the first one, on the pairs of a set that all of them scored.

    Raises UserError as `shared_pairs` does, and if a file of a run is damaged.
    """
    shared = shared_pairs(folders, set_name)
    return Comparison(
        shared, tuple(compared_metrics(shared)), group_moves(shared), tuple(flips(shared))
    )
