"""`mvp-align power`: what a study can show, from figures given or from a finished run's files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mvp_align.errors import UserError, combined_error
from mvp_align.metrics.opa import ACC
from mvp_align.metrics.power import MOST_USERS, Study, study_of
from mvp_align.metrics.score_rows import score_values
from mvp_align.reporting.table import PLAIN, SHARE, Cell, Column, Number, ResultTable
from mvp_align.runs.run_folder import RunFolder

COLUMNS = (
    Column("users", kind="count"),
    Column("pairs_per_user", "pairs a user", "number"),
    Column("design_effect", "design effect", "number"),
    Column("lift", "lift of acc@0, points", "number"),
    Column("power", "power, %", "number"),
)
TEST = (
    "The test is that of lifts: paired, t with one degree of freedom less than there are users,"
    " standard errors clustered by user, two-sided."
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What `mvp-align power` was asked: how many `users`, or which `lift` (a share), or both; what
    is given in place of a run's figures is not None."""

    users: Sequence[int] = ()
    lift: float | None = None
    pairs_per_user: float | None = None
    icc: float | None = None
    discordant: float | None = None
    """A share of pairs."""
    power: float = 0.8
    alpha: float = 0.05


def study_before(run: Path | None, set_name: str, asked: Asked) -> Study:
    """Return the study that `run` measured, with what `asked` says in its place.

    Raises UserError if the run has no scores of both stages, says too little, or something is
    neither measured nor given.
    """
    _check(asked)
    given = {
        "pairs_per_user": asked.pairs_per_user,
        "icc": asked.icc,
        "discordant": asked.discordant,
    }
    if run is not None:
        measured = _measured_in(run, set_name)
        known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if "pairs_per_user" in known:
            known["variation"] = 0.0
        return replace(measured, **known)
    missing = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is None]
    missing += [] if asked.users or asked.lift else ["--users or --lift"]
    if missing:
        raise UserError(
            f"{', '.join(missing)}: needed without --run, which measures it in a finished run."
        )
    assert asked.pairs_per_user and asked.icc is not None and asked.discordant is not None
    return Study(
        asked.users[0] if asked.users else MOST_USERS,
        asked.pairs_per_user,
        asked.icc,
        asked.discordant,
    )


def _check(asked: Asked) -> None:
    """Raise UserError with all that is outside its bounds."""
    bounds: list[tuple[str, float | None, float, float, float]] = [
        ("--lift", asked.lift, 0.001, 1, 100),
        ("--pairs-per-user", asked.pairs_per_user, 1, 1e6, 1),
        ("--icc", asked.icc, 0, 1, 1),
        ("--discordant", asked.discordant, 0.01, 1, 100),
        ("--power", asked.power, 0.06, 0.999, 1),
        ("--alpha", asked.alpha, 1e-6, 0.5, 1),
        *(("--users", users, 2, MOST_USERS, 1) for users in asked.users),
    ]
    units = {"--lift": " points", "--discordant": " % of the pairs"}
    problems = [
        f"{name} {value * factor:g}: must be from {low * factor:g} to"
        f" {high * factor:g}{units.get(name, '')}."
        for name, value, low, high, factor in bounds
        if value is not None and not low <= value <= high
    ]
    if asked.power <= asked.alpha:
        problems.append(f"--power {asked.power:g}: must be above --alpha {asked.alpha:g}.")
    if problems:
        raise combined_error(problems, "Such a study cannot be:")


def _measured_in(run: Path, set_name: str) -> Study:
    folder = RunFolder(run, resumed=False, writes=False)
    base, tuned = (folder.read_scores(stage, set_name) for stage in ("base", "tuned"))
    if not base or not tuned:
        raise UserError(
            f"--run {run}: no scores of {set_name} of both models, base and tuned. Has the run"
            " ended, did it train, and is the set among its evals.sets?"
        )
    if [score.id for score in base] != [score.id for score in tuned]:
        raise UserError(
            f"{run}: base and tuned scores of {set_name} are of different pairs. Run it again."
        )
    before, after = (np.asarray(score_values(scores)[ACC]) for scores in (base, tuned))
    try:
        return study_of(after - before, [score.user_id for score in tuned])
    except ValueError as error:
        raise UserError(
            f"--run {run}: {error}, so {set_name} says nothing of a study. Give --pairs-per-user,"
            " --icc and --discordant in its place."
        ) from None


def power_table(study: Study, asked: Asked, source: str) -> ResultTable:
    """Return, for each number of users, the smallest lift or the power for `asked.lift`; without
    users, how many that lift needs. `source` says where the figures are from.

    Raises UserError for a lift above the share of discordant pairs.
    """
    if asked.lift is not None and asked.lift > study.discordant:
        raise UserError(
            f"--lift {100 * asked.lift:g}: acc@0 cannot rise by more points than the"
            f" {100 * study.discordant:.1f} % of pairs that are right under one model alone"
            " (--discordant)."
        )
    notes = [
        f"{source}: {100 * study.discordant:.1f} % of pairs are right under one model alone,"
        f" within-user correlation of the differences {study.icc:.3f}.",
        TEST,
    ]
    if asked.lift is not None and not asked.users:
        title = f"Users who show a lift of {100 * asked.lift:g} points"
        rows = [_row_of_users(study, asked, asked.lift, notes)]
    else:
        title = (
            "The smallest lift that is shown"
            if asked.lift is None
            else f"Power for a lift of {100 * asked.lift:g} points"
        )
        sizes = asked.users or (study.users,)
        rows = [_row_of_lift(replace(study, users=users), asked, notes) for users in sizes]
    title += f", at level {asked.alpha:g}"
    return ResultTable("power", title, COLUMNS, rows, notes)


def _row_of_users(study: Study, asked: Asked, lift: float, notes: list[str]) -> list[Cell]:
    users = study.users_for(lift, asked.power, asked.alpha)
    if users is None:
        notes.append(f"More than {MOST_USERS:,} users would be needed.")
    return _cells(study, users, lift, asked.power)


def _row_of_lift(study: Study, asked: Asked, notes: list[str]) -> list[Cell]:
    if asked.lift is not None:
        return _cells(study, study.users, asked.lift, study.power(asked.lift, asked.alpha))
    lift = study.smallest_lift(asked.power, asked.alpha)
    if lift is None:
        notes.append(
            f"{study.users:,} users: no lift is shown with that power, not even if every pair that"
            " changes becomes right."
        )
    return _cells(study, study.users, lift, asked.power)


def _cells(study: Study, users: int | None, lift: float | None, power: float) -> list[Cell]:
    unknown = users is None or lift is None
    return [
        users,
        Number(study.pairs_per_user, style=PLAIN),
        Number(study.design_effect, style=PLAIN),
        None if lift is None else Number(lift, style=SHARE),
        None if unknown else Number(power, style=SHARE),
    ]
