"""List the runs of a folder: their state, what they are of, and what came of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from mvp_align.data.sets import IN_DOMAIN
from mvp_align.errors import UserError
from mvp_align.metrics.rows import Row, read_rows
from mvp_align.reporting.aggregate import run_folders
from mvp_align.reporting.leading import leading_metric, spoken
from mvp_align.reporting.references import readable_config
from mvp_align.reporting.results import Results, unique
from mvp_align.reporting.table import Cell, Column, ResultTable, measured
from mvp_align.runs.lock import refuse_if_locked
from mvp_align.runs.run_folder import RunFolder, read_environment

State = Literal["done", "unfinished", "broken", "locked"]
STATES: tuple[State, ...] = ("done", "unfinished", "broken", "locked")
SETTINGS = {"recipe": "recipe", "model": "model.name", "data": "data.name", "seed": "seed"}
"""What a run is of, with the setting that says so."""


@dataclass(frozen=True, slots=True)
class Headline:
    """What a run found: acc@0, or what else leads, of its first set."""

    set: str
    metric: str
    base: Row | None
    tuned: Row | None
    lift: Row | None


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run folder. `locked`: another process is at work in it. `broken`: its config or, once it is
    done, its results cannot be read."""

    folder: Path
    state: State
    why: str
    """Why it is broken, or who has locked it; else empty."""
    settings: dict[str, str]
    """Of SETTINGS those that are known."""
    date: str
    """When it was finished or, if it is not, begun: UTC, ISO 8601; "" if unknown."""
    headline: Headline | None


SORTS: dict[str, Callable[[ListedRun], Any]] = {
    "name": lambda run: run.folder.name,
    "date": lambda run: run.date,
    "state": lambda run: STATES.index(run.state),
    "tuned": lambda run: _value(run.headline.tuned if run.headline else None),
    "lift": lambda run: _value(run.headline.lift if run.headline else None),
}
HIGHEST_FIRST = ("date", "tuned", "lift")


def listed_runs(folder: Path) -> list[ListedRun]:
    """Read every run in `folder`, by name, whatever state it is in.

    Raises UserError if there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. `mvp-align runs ls FOLDER` lists another one.")
    found = [path for path in run_folders([str(folder)]) if (path / "config.yaml").exists()]
    if not found:
        raise UserError(f"{folder} holds no run: a run folder has a config.yaml.")
    return [listed_run(path) for path in found]


def listed_run(folder: Path) -> ListedRun:
    """Read what there is to tell of one run folder, in whatever state it is."""
    files = RunFolder(folder, resumed=False, writes=False)
    try:
        config = readable_config(folder)
    except UserError as error:
        return ListedRun(folder, "broken", str(error), {}, _date(files), None)
    found = {name: OmegaConf.select(config, key) for name, key in SETTINGS.items()}
    settings = {name: str(value) for name, value in found.items() if value is not None}
    state, why = _state(files)
    headline = None
    if files.done.is_file():
        try:
            headline = _headline(read_rows(files.metrics))
        except (UserError, OSError) as error:
            state, why = "broken", str(error)
    return ListedRun(folder, state, why, settings, _date(files), headline)


def _state(files: RunFolder) -> tuple[State, str]:
    try:
        refuse_if_locked(files.path)
    except UserError as error:
        return "locked", str(error).partition(": wait")[0]
    return ("done" if files.done.is_file() else "unfinished"), ""


def _date(files: RunFolder) -> str:
    try:
        return files.done.read_text(encoding="utf-8").split()[0]
    except (OSError, ValueError, IndexError):
        return str(read_environment(files.environment_json).get("time") or "")


def _headline(rows: Sequence[Row]) -> Headline | None:
    results = Results(rows)
    sets = [name for name in results.sets() if any(r.set == name and not r.group_by for r in rows)]
    if not sets:
        return None
    name = IN_DOMAIN if IN_DOMAIN in sets else sets[0]
    metric = leading_metric(rows, name)
    line = results.line(name, metric)
    return Headline(name, metric, line.base, line.tuned, line.lift)


def chosen_runs(
    runs: Sequence[ListedRun], states: Sequence[str], where: Sequence[str], sort: str
) -> list[ListedRun]:
    """Return the runs in one of `states` (any, if empty) that have all of `where`, as in
    `recipe=lora_dpo`, sorted by a name of SORTS; what is unknown comes last.

    Raises UserError for an unknown state, setting or order.
    """
    problems = [
        f"--state {state}: must be one of {', '.join(STATES)}."
        for state in states
        if state not in STATES
    ]
    wanted = [word.partition("=") for word in where]
    problems += [
        f"--where {name}{equals}{value}: NAME=VALUE belongs there, with a name of"
        f" {', '.join(SETTINGS)}."
        for name, equals, value in wanted
        if not equals or name not in SETTINGS
    ]
    if sort not in SORTS:
        problems.append(f"--sort {sort}: must be one of {', '.join(SORTS)}.")
    if problems:
        raise UserError("\n".join(problems))
    kept = [
        run
        for run in runs
        if (not states or run.state in states)
        and all(run.settings.get(name) == value for name, _, value in wanted)
    ]
    known = [run for run in kept if SORTS[sort](run) not in (None, "")]
    unknown = [run for run in kept if SORTS[sort](run) in (None, "")]
    known.sort(key=SORTS[sort], reverse=sort in HIGHEST_FIRST)
    return [*known, *unknown]


def _value(row: Row | None) -> float | None:
    return row.value if row else None


def runs_table(
    folder: Path, runs: Sequence[ListedRun], among: int, names: Sequence[str] = ()
) -> ResultTable:
    """One line a run, called by `names` or else by their folders'. `among` is how many runs
    `folder` holds."""
    called = names or [run.folder.name for run in runs]
    found = unique(_of(run.headline) for run in runs if run.headline)
    columns = [
        Column("run"),
        Column("state"),
        Column("base", kind="estimate", only="programs"),
        Column("tuned", kind="estimate", only="programs"),
        Column("before", "base", "number", only="people"),
        Column("after", "tuned", "number", only="people"),
        Column("lift", "lift, points", "estimate"),
        *([Column("of", only="people")] if found[1:] else []),
        Column("set", only="programs"),
        Column("metric", only="programs"),
        *(Column(name) for name in SETTINGS),
        Column("date", "date, UTC", only="people"),
        Column("time", only="programs"),
        Column("folder", only="programs"),
        Column("why", only="programs"),
    ]
    of_runs = [*zip(called, runs, strict=True)]
    rows = [_row(name, run, mixed=len(found) > 1) for name, run in of_runs]
    notes = [f"{name}: {run.why}" for name, run in of_runs if run.why]
    if len(runs) < among:
        notes.append(f"{among - len(runs)} other runs are not shown.")
    title = f"{folder}: {found[0]}" if len(found) == 1 else str(folder)
    return ResultTable("runs", title, columns, rows, notes)


def _of(headline: Headline) -> str:
    return f"{spoken(headline.metric)} of {headline.set}"


def _row(name: str, run: ListedRun, *, mixed: bool) -> list[Cell]:
    found = run.headline
    base, tuned, lift = (
        [measured(row) for row in (found.base, found.tuned, found.lift)] if found else [None] * 3
    )
    return [
        name,
        run.state,
        base,
        tuned,
        replace(base, low=None, high=None) if base else None,
        replace(tuned, low=None, high=None) if tuned else None,
        lift,
        *([_of(found) if found else None] if mixed else []),
        found.set if found else None,
        found.metric if found else None,
        *(run.settings.get(setting) for setting in SETTINGS),
        run.date[:16].replace("T", " ") or None,
        run.date or None,
        str(run.folder),
        run.why or None,
    ]
