"""Tables of runs over seeds, and the paper's row."""

from collections.abc import Sequence
from dataclasses import replace

from mvp_align.data.sets import SETS
from mvp_align.metrics.drift import NEUTRAL
from mvp_align.metrics.names import is_change
from mvp_align.metrics.opa import ACC, MEAN
from mvp_align.metrics.seeds import Interval
from mvp_align.reporting.aggregate import Group, Summary
from mvp_align.reporting.finished import LIFTED
from mvp_align.reporting.results import label_of, number, unique
from mvp_align.reporting.table import (
    Bounds,
    Cell,
    Column,
    Number,
    ResultTable,
    Style,
    style_of,
)

COLUMNS = (
    Column("configuration", only="programs"),
    Column("set", only="programs"),
    Column("metric", only="programs"),
    Column("label", "metric", only="people"),
    Column("model"),
    Column("mean", kind="number"),
    Column("sd", "sd over seeds", "number"),
    Column("people", "over people", "interval"),
    Column("seeds", "over seeds", "interval"),
    Column("both", "over both", "interval"),
    Column("seeds", kind="list", only="programs"),
    Column("by_seed", kind="list", only="programs"),
    Column("pairs", kind="count", only="programs"),
    Column("users", kind="count", only="programs"),
)
LEGEND = (
    "Shares in %, their lifts in points, margins, shifts and KL in nats a token. sd: between the"
    " seeds' means. 95 % intervals: over people, had others been asked (clustered by user, each"
    " pair averaged over the seeds; - where it was not kept pair by pair, or not of the same"
    " pairs); over seeds, had others been drawn (t over the seeds' means); over both, either."
)
PAPER = f"The paper's row: {MEAN.label} in %, tuned ± sd over seeds"


def aggregate_result_tables(groups: Sequence[Group]) -> list[ResultTable]:
    """Return a table of each configuration and set, then one with the paper's row of each
    configuration."""
    made = [_table_of(group, name) for group in groups for name in _sets(group)]
    made[-1:] = [replace(table, notes=[LEGEND]) for table in made[-1:]]
    columns = _paper_columns(groups)
    if columns:
        heads = [Column("configuration"), *(Column(name) for name in columns)]
        made.append(ResultTable("paper", PAPER, heads, _paper_rows(groups, columns), restated=True))
    return made


def remarks(groups: Sequence[Group], broken: Sequence[str]) -> list[str]:
    """List lifts within chance, ceilings, configurations with one seed, and excluded runs."""
    lines = []
    for group in groups:
        lines += [
            f"{group.label}, {name}: {words}"
            for name in _sets(group)
            if (words := _not_shown(group, name))
        ]
        for name, ceiling in group.ceilings.items():
            lines.append(
                f"{name}: a model that ignores who is asking cannot pass {number(ceiling)} % acc@0."
            )
        if len(group.seeds) == 1:
            lines.append(
                f"{group.label}: one seed, so no standard deviation, and no interval over seeds or"
                " both."
            )
        lines += [f"{group.label}: {problem}" for problem in group.problems]
    return unique([*lines, *broken])


def _not_shown(group: Group, name: str) -> str:
    """Say that a lift of acc@0 is within chance; empty if it is not, or if there is no lift."""
    found = [
        row.estimate
        for row in group.summaries
        if (row.set, row.metric, row.stage) == (name, ACC, LIFTED)
    ]
    if not found:
        return ""
    interval, over = (
        (found[0].both, "people and seeds") if len(group.seeds) > 1 else (found[0].people, "people")
    )
    lift = number(found[0].mean, sign=True)
    if interval is None:
        return (
            f"no change of acc@0 is shown: {lift} points, and one person's answers give no"
            " interval."
        )
    low, high = interval
    if low > 0 or high < 0:
        return ""
    return (
        f"no change of acc@0 is shown: {lift} [{number(low)}, {number(high)}] points over {over},"
        " which holds 0."
    )


def _sets(group: Group) -> list[str]:
    return unique(row.set for row in group.summaries)


def _table_of(group: Group, name: str) -> ResultTable:
    rows: list[list[Cell]] = []
    before = ""
    for row in (row for row in group.summaries if row.set == name):
        label = label_of(row.metric).strip()
        rows.append(_cells(group, row, "" if label == before else label))
        before = label
    return ResultTable(f"{group.label}, {name}", _heading(group, name), COLUMNS, rows)


def _heading(group: Group, name: str) -> str:
    e = next(row.estimate for row in group.summaries if row.set == name)
    count = len(group.seeds)
    seeds = f"{count} seed{'s' * (count > 1)} ({', '.join(map(str, group.seeds))})"
    counted = f"{e.n} passages" if name == NEUTRAL else f"{e.n} pairs, {e.users} users"
    return f"{group.label}, {name}: {seeds}, {counted}"


def _cells(group: Group, row: Summary, label: str) -> list[Cell]:
    e, style = row.estimate, style_of(row.metric)
    signed = row.stage == LIFTED or is_change(row.metric)
    return [
        group.label,
        row.set,
        row.metric,
        label,
        row.stage,
        Number(e.mean, style=style, signed=signed),
        Number(e.sd, style=style) if e.sd is not None else None,
        *(_bounds(interval, style) for interval in (e.people, e.training, e.both)),
        tuple(group.seeds),
        e.by_seed,
        e.n,
        e.users,
    ]


def _bounds(interval: Interval | None, style: Style) -> Bounds | None:
    return Bounds(*interval, style) if interval else None


def _paper_columns(groups: Sequence[Group]) -> list[str]:
    """Return the paper's columns, which exclude synthetic sets."""
    names = unique(
        row.set for group in groups for row in group.summaries if row.metric == MEAN.name
    )
    names = [name for name in names if not (name in SETS and SETS[name].synthetic)]
    return [f"{name} {stage}" for name in names for stage in ("base", "tuned")]


def _paper_rows(groups: Sequence[Group], columns: Sequence[str]) -> list[list[str | None]]:
    """Return the paper's row of each configuration with a finished run.

    Cells are like `26.73` and `83.29 ± 0.13`, as in DiverValue-Bench's table.
    """
    rows: list[list[str | None]] = []
    for group in (group for group in groups if group.seeds):
        found = {
            f"{row.set} {row.stage}": row.estimate
            for row in group.summaries
            if row.metric == MEAN.name
        }
        values: list[str | None] = []
        for column in columns:
            e = found.get(column)
            spread = (
                f" ± {100 * e.sd:.2f}"
                if e and e.sd is not None and column.endswith("tuned")
                else ""
            )
            values.append(f"{100 * e.mean:.2f}{spread}" if e else None)
        rows.append([group.label, *values])
    return rows
