"""Tables of runs that were compared: for the terminal, files and the page."""

from collections.abc import Sequence
from pathlib import Path

from mvp_align.errors import UserError
from mvp_align.metrics.intervals import Estimate
from mvp_align.metrics.metric import LIFT
from mvp_align.metrics.names import measure
from mvp_align.metrics.opa import ACC, MARGIN
from mvp_align.reporting.aggregate import differing_settings, settings_of_run
from mvp_align.reporting.breakdowns import variable_label
from mvp_align.reporting.comparison import (
    ALPHA,
    ComparedMetric,
    Flip,
    Flips,
    GroupMove,
    GroupMoves,
    Measurement,
)
from mvp_align.reporting.results import CROSSED, unique
from mvp_align.reporting.shared_pairs import SharedPairs, run_names
from mvp_align.reporting.table import PROBABILITY, Cell, Column, Number, ResultTable, style_of

FLIP_COLUMNS = (
    Column("id", "pair"),
    Column("dimension"),
    Column("level"),
    Column("now", "here"),
    Column("first_margin", "margin of the first", "number"),
    Column("margin", "margin here", "number"),
)


def settings_table(folders: Sequence[Path]) -> ResultTable:
    """List the settings that affect numbers and differ between the runs: each value with the runs
    that have it."""
    known, notes = {}, []
    for name, folder in zip(run_names(folders), folders, strict=True):
        try:
            known[name] = settings_of_run(folder)
        except UserError as error:
            notes.append(f"{name}: its settings are unknown. {error}")
    rows: list[list[Cell]] = []
    for key in differing_settings(list(known.values())):
        values = {name: _setting_text(config.get(key)) for name, config in known.items()}
        for value in unique(values.values()):
            who = [name for name, found in values.items() if found == value]
            rows.append([key, value, ", ".join(who)])
    if not rows and len(known) > 1:
        notes.append("No setting that affects numbers differs between these runs.")
    columns = [Column("setting"), Column("value"), Column("runs")]
    return ResultTable("settings", "Settings that differ", columns, rows, notes)


def _setting_text(value: object) -> str:
    return "not set" if value is None else str(value)


def side_by_side(
    shared: SharedPairs, found: Sequence[ComparedMetric], metrics: Sequence[str]
) -> ResultTable:
    """One line a run: those of `metrics` that all have, and how far each is from the first's."""
    by_name = {one.metric: one for one in found}
    shown = [by_name[name] for name in metrics if name in by_name]
    stages = unique(run.stage for run in shared.runs)
    columns = [Column("run"), *([Column("model")] if stages[1:] else [])]
    for one in shown:
        label = _label(one.metric)
        columns.append(Column(one.metric, label, "estimate"))
        if not one.metric.endswith(LIFT):  # of one base, it is the difference of acc@0 again
            columns.append(Column(f"{one.metric}/difference", "against the first", "estimate"))
        if one.metric == ACC:
            columns.append(Column(f"{one.metric}/p_holm", "p (Holm)", "number"))
    rows: list[list[Cell]] = []
    for place, run in enumerate(shared.runs):
        row: list[Cell] = [run.name, *([run.stage] if stages[1:] else [])]
        for one in shown:
            line = one.lines[place]
            row.append(_value(one.metric, line))
            if not one.metric.endswith(LIFT):
                row.append(_difference(one.metric, line))
            if one.metric == ACC:
                row.append(_p(line.p_holm))
        rows.append(row)
    counted = f"{len(shared.ids)} pairs of {len(set(shared.users))} users"
    models = "" if stages[1:] else f"{stages[0]} models, "
    title = f"{shared.set}: {models}{counted}, 95 % intervals clustered by user"
    return ResultTable("side_by_side", title, columns, rows, restated=True)


def metrics_table(shared: SharedPairs, found: Sequence[ComparedMetric]) -> ResultTable:
    """Every metric of every run: value, difference to the first run, and its test."""
    pairs, users = len(shared.ids), len(set(shared.users))
    columns = [
        Column("set"),
        Column("metric", only="programs"),
        Column("label", "metric", only="people"),
        Column("run"),
        Column("model"),
        Column("value", kind="estimate"),
        Column("difference", "against the first", "estimate"),
        Column("p", kind="number"),
        Column("p_holm", "p (Holm)", "number"),
        Column("pairs", kind="count"),
        Column("users", kind="count"),
    ]
    rows: list[list[Cell]] = [
        [
            shared.set,
            one.metric,
            _label(one.metric),
            run.name,
            run.stage,
            _value(one.metric, line),
            _difference(one.metric, line),
            _p(line.p),
            _p(line.p_holm),
            pairs,
            users,
        ]
        for one in found
        for run, line in zip(shared.runs, one.lines, strict=True)
    ]
    title = f"{shared.set}: all metrics, paired differences to {shared.runs[0].name}"
    return ResultTable("metrics", title, columns, rows, shared.left_out())


def groups_table(shared: SharedPairs, found: GroupMoves, run: str | None = None) -> ResultTable:
    """acc@0 of groups against the first run: those that moved in any run, or all of one run."""
    moves = [move for move in found.moves if (move.run == run if run else move.shown)]
    title = (
        f"all groups of {run} against {shared.runs[0].name}"
        if run
        else f"groups whose acc@0 is shown to have moved against {shared.runs[0].name}"
    )
    return _moves_table("groups", title, shared, moves, _looks(found))


def all_groups(shared: SharedPairs, found: GroupMoves) -> ResultTable:
    """acc@0 of every group that was looked at, in every run, against the first run."""
    title = f"all groups against {shared.runs[0].name}"
    return _moves_table("all_groups", title, shared, found.moves, _looks(found))


def _moves_table(
    name: str, title: str, shared: SharedPairs, moves: Sequence[GroupMove], notes: Sequence[str]
) -> ResultTable:
    columns = [
        Column("set", only="programs"),
        Column("run"),
        Column("group_by", "by"),
        Column("group"),
        Column("first", "acc@0 of the first", "number"),
        Column("value", "acc@0", "number"),
        Column("difference", "difference, points", "estimate"),
        Column("pairs", kind="count"),
        Column("users", kind="count"),
    ]
    rows = [_group_row(shared.set, move) for move in moves]
    return ResultTable(name, f"{shared.set}: {title}", columns, rows, notes)


def _looks(found: GroupMoves) -> list[str]:
    if found.unknown:
        return [found.unknown]
    held_back = [f"By {variable_label(by)}: {sentence}" for by, sentence in found.held_back]
    if found.looks:
        first = (
            f"Each interval is at {100 * (1 - ALPHA / found.looks):.3f} %, so that all"
            f" {found.looks} together are wrong in at most {100 * ALPHA:g} % of studies"
            " (Bonferroni)."
        )
    elif held_back:
        first = "No group has enough people to be compared."
    else:
        first = "The pairs are in no group."
    return [first, *held_back]


def _group_row(set_name: str, move: GroupMove) -> list[Cell]:
    style, e = style_of(ACC), move.difference
    return [
        set_name,
        move.run,
        variable_label(move.group_by),
        group_label(move),
        Number(move.first, style=style),
        Number(move.value, style=style),
        Number(e.value, e.low, e.high, style, signed=True),
        e.n,
        e.users,
    ]


def group_label(move: GroupMove) -> str:
    """Return a group as readers meet it: `safety Low` where two variables are crossed."""
    return " ".join(CROSSED.split(move.group)) if "," in move.group_by else move.group


def flip_counts(shared: SharedPairs, found: Sequence[Flips]) -> ResultTable:
    """How many pairs each run turned right and wrong against the first."""
    columns = [
        Column("set", only="programs"),
        Column("run"),
        Column("gained", "right here alone", "count"),
        Column("lost", "right there alone", "count"),
        Column("pairs", "of pairs", "count"),
    ]
    rows: list[list[Cell]] = [
        [shared.set, one.run, len(one.gained), len(one.lost), one.pairs] for one in found
    ]
    title = f"{shared.set}: pairs that flipped against {shared.runs[0].name}"
    return ResultTable("flips", title, columns, rows)


def flips_table(shared: SharedPairs, one: Flips, limit: int) -> ResultTable:
    """The pairs that flipped in one run, by the largest change of margin, at most `limit`."""
    flipped = one.largest
    notes = [
        f"{len(flipped) - limit} more pairs flipped, by smaller changes of margin; --format json"
        " prints all."
    ]
    rows = [_flip_row(flip) for flip in flipped[:limit]]
    title = f"{one.run} against {shared.runs[0].name}: {len(flipped)} of {one.pairs} pairs flipped"
    return ResultTable("flipped", title, FLIP_COLUMNS, rows, notes * (len(flipped) > limit))


def flipped_pairs(shared: SharedPairs, found: Sequence[Flips]) -> ResultTable:
    """All pairs that flipped in any run, by the largest change of margin."""
    rows = [[shared.set, one.run, *_flip_row(flip)] for one in found for flip in one.largest]
    title = f"{shared.set}: all pairs that flipped against {shared.runs[0].name}"
    columns = [Column("set"), Column("run"), *FLIP_COLUMNS]
    return ResultTable("flipped_pairs", title, columns, rows)


def _flip_row(flip: Flip) -> list[Cell]:
    style = style_of(MARGIN.name)
    return [
        flip.id,
        flip.tags.get("dimension"),
        flip.tags.get("level"),
        "right" if flip.gained else "wrong",
        Number(flip.first_margin, style=style),
        Number(flip.margin, style=style),
    ]


def _label(metric: str) -> str:
    return measure(metric).label + " lift" * metric.endswith(LIFT)


def _value(metric: str, line: Measurement) -> Number:
    return _number(metric, line.value, signed=metric.endswith(LIFT))


def _difference(metric: str, line: Measurement) -> Number | None:
    return _number(metric, line.difference, signed=True) if line.difference else None


def _number(metric: str, estimate: Estimate, *, signed: bool) -> Number:
    return Number(estimate.value, estimate.low, estimate.high, style_of(metric), signed)


def _p(p: float | None) -> Number | None:
    return None if p is None else Number(p, style=PROBABILITY)
