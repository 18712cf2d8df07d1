"""`mvp-align stats`: break down every per-pair metric of a finished run, with its uncertainty.

Reads only the run's files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mvp_align.errors import UserError, combined_error
from mvp_align.metrics.certainty import certainty_rows
from mvp_align.metrics.groups import (
    Breakdown,
    Tags,
    Values,
    break_down,
    breakdown_row,
    default_by,
    exact_rows,
    group_rows,
    headline_rows,
    with_region,
)
from mvp_align.metrics.intervals import mean_estimate
from mvp_align.metrics.metric import BOUNDS, LIFT
from mvp_align.metrics.names import VERSUS, base_metric, family, kind_of, measure
from mvp_align.metrics.opa import ACC, CEILING
from mvp_align.metrics.regions import NOT_SAID, iso3, load_regions
from mvp_align.metrics.rows import Row, read_rows, write_rows
from mvp_align.metrics.score_rows import lifts, score_values
from mvp_align.reporting.html import write_report
from mvp_align.runs.pair_files import GroupLine, PairValues, read_blind, read_groups, read_values
from mvp_align.runs.run_folder import RunFolder
from mvp_align.runs.stored_config import read_config
from mvp_align.schema import PairScore

SMALL = ("suppress", "shrink")


@dataclass(frozen=True, slots=True)
class Choices:
    """Options of `mvp-align stats`.

    An empty `by` means everything; `cross` holds pairs of names.
    """

    set_name: str = "in_domain"
    by: tuple[str, ...] = ()
    cross: tuple[str, ...] = ()
    regions: str = ""
    """Empty for the run's own setting."""
    min_users: int | None = None
    """None for the run's own setting."""
    small: str = "suppress"
    draws: int = 2000
    seed: int = 12


@dataclass(frozen=True, slots=True)
class Measured:
    """Metrics [pairs] of one stage on the same pairs. `unscored` counts the set's other pairs."""

    stage: str
    ids: tuple[str, ...]
    users: tuple[str, ...]
    values: Values
    unscored: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """The computed rows, what they are broken down by, and remarks."""

    rows: list[Row]
    by: tuple[str, ...]
    remarks: list[str]


def write_statistics(run: Path, choices: Choices, against: Path | None = None) -> Statistics:
    """Compute the statistics of `run`, update its metrics.jsonl, and rewrite its report.html.

    Replaces rows of the same metrics (with everything derived from them), set and breakdowns,
    whatever groups they have. Other rows, such as baselines and the ceiling, stay, so repeating a
    call gives the same files. Raises UserError if the run lacks scores or groups, a name in `by` or
    `cross` is unknown, or `against` was scored on other pairs.
    """
    found = _statistics(run, choices, against)
    path = RunFolder(run, resumed=False, writes=False).metrics
    families = {(row.stage, family(row.metric)) for row in found.rows}
    kept = [
        row
        for row in read_rows(path)
        if row.set != choices.set_name
        or row.group_by not in ("", *found.by)
        or (row.stage, family(row.metric)) not in families
    ]
    write_rows(path, [*kept, *found.rows])
    write_report(run)
    return found


def _statistics(run: Path, choices: Choices, against: Path | None = None) -> Statistics:
    settings = read_config(run).evals
    regions = load_regions(choices.regions or settings.regions)
    min_users = settings.min_users if choices.min_users is None else choices.min_users
    groups_file = RunFolder(run, resumed=False, writes=False).groups(choices.set_name)
    groups, blind = read_groups(groups_file), read_blind(groups_file)
    tags = dict(
        zip(groups, with_region([line[2] for line in groups.values()], regions), strict=True)
    )
    by = _wanted(choices, list(tags.values()), run)
    rows: list[Row] = []
    made: dict[tuple[str, ...], Breakdown] = {}
    remarks = _unknown_countries(list(tags.values()))
    for measured in _measured_in(run, choices.set_name, groups, against):
        if measured.unscored:
            names = ", ".join(measured.values)
            remarks.append(
                f"{measured.stage}: {measured.unscored} pairs have no {names}, and are left out"
                " of it."
            )
        if measured.ids not in made:  # both stages have the same pairs
            known = [tags[id] for id in measured.ids]
            made[measured.ids] = break_down(
                "", choices.set_name, measured.users, known, by, min_users
            )
        breakdown = replace(made[measured.ids], stage=measured.stage)
        rows += _rows_of(breakdown, measured.values, choices)
        if ACC in measured.values and blind.keys() >= {*measured.ids}:
            shares = np.array([blind[id] for id in measured.ids])
            rows += exact_rows(breakdown, CEILING.name, shares)
    if not rows:
        raise UserError(
            f"{run}: no scores of {choices.set_name}. Has the run ended, and is it among its"
            " evals.sets?"
        )
    return Statistics(rows, tuple(by), remarks)


def _rows_of(breakdown: Breakdown, values: Values, choices: Choices) -> list[Row]:
    """Return all rows of these metrics: whole set, groups, headlines and uncertainty."""
    return [
        *_whole_rows(breakdown, values),
        *group_rows(breakdown, values, choices.small),
        *headline_rows(breakdown, values),
        *certainty_rows(breakdown, values, choices.draws, choices.seed),
    ]


def _whole_rows(breakdown: Breakdown, values: Values) -> list[Row]:
    whole = breakdown.whole
    return [
        breakdown_row(
            breakdown, metric, whole.where, mean_estimate(x, whole.clusters, kind_of(metric))
        )
        for metric, x in values.items()
    ]


def _wanted(choices: Choices, tags: Sequence[Tags], run: Path) -> list[str]:
    """Return what to break down by.

    Raises UserError naming attributes that no pair of the run has.
    """
    known = default_by(tags)
    by = list(dict.fromkeys([*(choices.by or known), *choices.cross]))
    names = {name for tag in tags for name in tag}
    problems = [
        f"{name}: unknown. {run.name} has {', '.join(sorted(names))}."
        for group_by in by
        for name in group_by.split(",")
        if name not in names
    ]
    problems += [
        f"--cross {cross}: two names with a comma between them belong there."
        for cross in choices.cross
        if len(set(cross.split(","))) != 2
    ]
    if problems:
        raise combined_error(problems, "This run cannot be broken down so:")
    return by


def _unknown_countries(tags: Sequence[Tags]) -> list[str]:
    names = {tag["birth_country"] for tag in tags if "birth_country" in tag}
    strange = sorted(
        name for name in names if iso3(name) is None and name.strip().casefold() not in NOT_SAID
    )
    return (
        [f"Region Other holds names that are no country's: {', '.join(strange)}."]
        if strange
        else []
    )


def _measured_in(
    run: Path, set_name: str, groups: Mapping[str, GroupLine], against: Path | None
) -> list[Measured]:
    """Of both stages, the metrics of scores and of `values/`, with what sets the tuned one apart
    from the base and `against`."""
    folder = RunFolder(run, resumed=False, writes=False)
    other = RunFolder(against.resolve(), resumed=False, writes=False) if against else None
    base = folder.read_scores("base", set_name)
    tuned = folder.read_scores("tuned", set_name)
    found = []
    if base:
        found.append(_of_scores("base", base, score_values(base)))
    if tuned:
        if base and _ids_of(base) != _ids_of(tuned):
            raise UserError(
                f"{run}: base and tuned scores of {set_name} are of different pairs. Run it again."
            )
        values = dict(score_values(tuned, base or None))
        if other:
            values |= _versus(
                tuned, other.read_scores("tuned", set_name), run, other.path, set_name
            )
        found.append(_of_scores("tuned", tuned, values))
    compared = {"base": {}, "tuned": {LIFT: folder.values("base", set_name)}}
    if other:
        compared["tuned"][f"{VERSUS}{other.path.name}{LIFT}"] = other.values("tuned", set_name)
    for stage, others in compared.items():
        found += _other_metrics(stage, folder.values(stage, set_name), others)
    for measured in found:
        strangers = [id for id in measured.ids if id not in groups]
        if strangers:
            raise UserError(
                f"{folder.groups(set_name)} lacks {len(strangers)} of {len(measured.ids)} pairs"
                f" that were measured, {strangers[0]} among them: files of two runs. Run it again."
            )
    return found


def _of_scores(stage: str, scores: Sequence[PairScore], values: Values) -> Measured:
    return Measured(stage, _ids_of(scores), tuple(score.user_id for score in scores), values, 0)


def _ids_of(scores: Sequence[PairScore]) -> tuple[str, ...]:
    return tuple(score.id for score in scores)


def _versus(
    scores: Sequence[PairScore],
    others: Sequence[PairScore] | None,
    run: Path,
    other: Path,
    set_name: str,
) -> Values:
    if not others or _ids_of(others) != _ids_of(scores):
        raise UserError(
            f"{run} and {other} have no tuned scores of the same pairs of {set_name}, so they"
            " cannot be compared."
        )
    return lifts(score_values(scores), score_values(others), f"{VERSUS}{other.name}{LIFT}")


def _other_metrics(stage: str, path: Path, others: Mapping[str, Path]) -> list[Measured]:
    """Return the metrics of a `values/` file and their differences.

    Each metric is on the pairs that have it. Differences are to each file of `others`, on the pairs
    that have both. Raises UserError for an unknown metric or an impossible value.
    """
    lines = read_values(path)
    users = {one.id: one.user_id for one in lines}
    own = _by_metric(lines)
    for metric in own:
        _refuse_unknown(path, metric)
    found = dict(own)
    for suffix, file in others.items():
        before = _by_metric(read_values(file))
        for metric in sorted(own.keys() & before.keys()):
            if not measure(metric).lifted:
                continue
            both = {
                id: x - before[metric][id] for id, x in own[metric].items() if id in before[metric]
            }
            found |= {f"{metric}{suffix}": both} if both else {}
    for metric, values in found.items():
        lowest, highest = BOUNDS[kind_of(metric)]
        wrong = next((id for id, x in values.items() if not lowest <= x <= highest), None)
        if wrong is not None:
            raise UserError(
                f"{path}, pair {wrong}: {metric} is {values[wrong]:g}, and must lie from {lowest}"
                f" to {highest}."
            )
    return [
        Measured(
            stage,
            tuple(values),
            tuple(users[id] for id in values),
            {metric: np.array(list(values.values()))},
            len(lines) - len(values),
        )
        for metric, values in sorted(found.items())
    ]


def _refuse_unknown(path: Path, metric: str) -> None:
    try:
        measure(metric)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if base_metric(metric) != metric:
        raise UserError(
            f"{path}: {metric} ends as what is worked out from {base_metric(metric)}: give it"
            " another name."
        )


def _by_metric(lines: Sequence[PairValues]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for line in lines:
        for metric, value in line.values.items():
            found.setdefault(metric, {})[line.id] = value
    return found
