"""Tables of `mvp-align stats`: the whole set with its uncertainty, then group by group."""

from collections.abc import Sequence
from dataclasses import replace

from mvp_align.errors import UserError
from mvp_align.metrics.metric import (
    BETTER,
    BOOTSTRAP,
    DEFF,
    GAP,
    LIFT,
    P_HOLM,
    SE,
    SHRUNK,
    SUPPRESSED,
    WORSE,
    WORST,
    P,
)
from mvp_align.metrics.names import VERSUS, base_metric, derivation, family, in_percent, measure
from mvp_align.metrics.opa import ACC, CEILING
from mvp_align.metrics.rows import Row
from mvp_align.reporting.results import BLIND, CROSSED, PEOPLE, shown, suppressed_text, unique
from mvp_align.reporting.stats import Statistics
from mvp_align.reporting.table import Bounds, Cell, Column, ResultTable, measured, style_of

Index = dict[tuple[str, str, str, str], Row]


def statistics_tables(found: Statistics, metric: str) -> list[ResultTable]:
    """Return every metric of the whole set, then each breakdown of `metric`.

    Other breakdowns are in metrics.jsonl. Raises UserError if `metric` was not measured.
    """
    if metric not in (
        known := unique(row.metric for row in found.rows if not derivation(row.metric))
    ):
        raise UserError(
            f"--metric {metric}: not measured pair by pair in this run, which has"
            f" {', '.join(known)}."
        )
    index = {(row.stage, row.metric, row.group_by, row.group): row for row in found.rows}
    stages = unique(row.stage for row in found.rows)
    tables = [_whole_table(stage, found, index) for stage in stages]
    wanted = (metric, CEILING.name) if metric == ACC else (metric,)
    for group_by in found.by:
        rows = [
            row
            for row in found.rows
            if row.group_by == group_by and base_metric(row.metric) in wanted
        ]
        if rows:
            tables += _breakdown_tables(group_by, metric, rows, index)
    return tables


def _whole_table(stage: str, found: Statistics, index: Index) -> ResultTable:
    own = [row for row in found.rows if row.stage == stage and not row.group_by]
    metrics = unique(row.metric for row in own if not derivation(row.metric))
    first = index[stage, metrics[0], "", ""]
    columns = [
        Column("metric"),
        Column("value", kind="estimate"),
        Column("bootstrap", kind="interval"),
        Column("se", "SE", "number"),
        Column("design_effect", "design effect", "number"),
        Column("p", kind="number"),
        *(Column(key, kind="count", only="programs") for key in ("n", "users")),
    ]
    better = unique(family(row.metric) for row in own if row.metric.endswith(BETTER))
    return ResultTable(
        f"{first.set}_{stage}",
        f"{stage}, {first.set}: {first.n} pairs of {first.users} users, [95 %]",
        columns,
        [_whole_cells(stage, metric, index) for metric in metrics],
        [*(_better_off(change, index) for change in better), *found.remarks],
    )


def _whole_cells(stage: str, metric: str, index: Index) -> list[Cell]:
    value, boot, se, deff, p = (
        index.get((stage, metric + word, "", "")) for word in ("", BOOTSTRAP, SE, DEFF, P)
    )
    assert value is not None
    drawn = (
        Bounds(boot.low, boot.high, style_of(metric))
        if boot and boot.low is not None and boot.high is not None
        else ""
    )
    return [
        metric,
        measured(value),
        drawn,
        measured(se),
        measured(deff),
        measured(p) or "",
        value.n,
        value.users,
    ]


def _breakdown_tables(
    group_by: str, metric: str, rows: Sequence[Row], index: Index
) -> list[ResultTable]:
    """Return a table of both stages and the lift, then one against each other run."""
    stages = unique(row.stage for row in rows)
    groups = unique(row.group for row in rows if row.metric in (metric, metric + SHRUNK))
    changes = unique(row.metric for row in rows if row.metric.endswith(LIFT))
    name = f"{rows[0].set}_{metric}_by_{group_by}"
    title = f"{metric} by {' and '.join(PEOPLE.get(name, name) for name in group_by.split(','))}"
    own = [(stage, stage, metric) for stage in stages]
    own += [("lift", "tuned", change) for change in changes if VERSUS not in change]
    blind = [row for row in rows if row.metric == CEILING.name] if metric == ACC else []
    own += [("blind", row.stage, CEILING.name) for row in blind[:1]]
    notes = [f"blind: {BLIND}."] if blind else []
    tables = [_group_table(name, title, group_by, groups, own, index, notes)]
    for change in changes:
        if VERSUS in change:
            other = _lift_name(change)
            columns = [("difference", "tuned", change)]
            against = f"{title}, against {other}"
            tables.append(
                _group_table(f"{name}_vs_{other}", against, group_by, groups, columns, index)
            )
    said = _remarks(group_by, metric, stages[-1], changes, index)
    tables[-1] = replace(tables[-1], notes=[*said, *tables[-1].notes])
    return tables


def _group_table(
    name: str,
    title: str,
    group_by: str,
    groups: Sequence[str],
    wanted: Sequence[tuple[str, str, str]],
    index: Index,
    notes: Sequence[str] = (),
) -> ResultTable:
    """Return the table of one breakdown.

    `wanted` holds heading, stage and metric of each column. A difference adds a column for its p.
    """
    columns = [Column("label", "group", only="people"), Column("group", only="programs")]
    columns.append(Column("mean_of", only="programs"))
    for key, _, metric in wanted:
        columns.append(Column(key, kind="number" if metric == CEILING.name else "estimate"))
        if metric.endswith(LIFT):
            columns.append(Column(f"{key}_p_holm", "p (Holm)", "number"))
    columns += [Column("n", kind="count"), Column("users", kind="count")]
    rows = [_group_cells(group_by, group, wanted, index) for group in groups]
    return ResultTable(name, title, columns, [row for row in rows if row], notes)


def _group_cells(
    group_by: str, group: str, wanted: Sequence[tuple[str, str, str]], index: Index
) -> list[Cell]:
    """Return the cells of one group, or none if nothing was measured of it."""
    cells: list[Cell] = []
    counted, was_shrunk = None, False
    for _, stage, metric in wanted:
        shrunk = index.get((stage, metric + SHRUNK, group_by, group))
        row = index.get((stage, metric, group_by, group)) or shrunk
        cells.append(measured(row))
        if metric.endswith(LIFT):
            cells.append(measured(index.get((stage, metric + P_HOLM, group_by, group))))
        was_shrunk = was_shrunk or shrunk is not None
        counted = counted if metric == CEILING.name else row or counted
    if counted is None:
        return []
    label = _crossed(group_by, f"{group} (shrunk)" if was_shrunk else group)
    means = "all groups, by shrinkage" if was_shrunk else "the group"
    return [label, group, means, *cells, counted.n, counted.users]


def _remarks(
    group_by: str, metric: str, stage: str, changes: Sequence[str], index: Index
) -> list[str]:
    """Describe worst group and gap, of the metric and its changes, and suppressed groups."""
    lines = []
    higher = measure(metric).higher_is_better
    near, far = ("Highest", "lowest") if higher is False else ("Lowest", "highest")
    for name in (metric, *changes):
        worst = next(
            (row for key, row in index.items() if key[:3] == (stage, name + WORST, group_by)), None
        )
        gap = index.get((stage, name + GAP, group_by, ""))
        what = _lift_name(name) if name in changes else stage
        what = f"difference to {what}" if VERSUS in name else what
        if gap is None:
            continue
        apart = f"{shown(gap)} {'points' if in_percent(metric) else measure(metric).unit}".rstrip()
        if worst:
            group = _crossed(group_by, worst.group)
            lines.append(f"{near} {what}: {group}, {shown(worst)}; {apart} to the {far}.")
        else:
            lines.append(f"From the lowest to the highest {what}: {apart}.")
    held = index.get((stage, metric + SUPPRESSED, group_by, ""))
    return [*lines, suppressed_text(held)] if held else lines


def _crossed(group_by: str, group: str) -> str:
    """Format a crossed group: `Western,Female` as `Western, Female`."""
    return ", ".join(CROSSED.split(group)) if "," in group_by else group


def _lift_name(change: str) -> str:
    """Return `lift`, or the other run's name."""
    return family(change).partition(VERSUS)[2] or "lift"


def _better_off(change: str, index: Index) -> str:
    better, worse = (index.get(("tuned", f"{change}{word}", "", "")) for word in (BETTER, WORSE))
    return f"{change}: better off {shown(better)} of the users, worse off {shown(worse)}."
