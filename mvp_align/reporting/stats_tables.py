"""Tables of `mvp-align stats`: the whole set with its uncertainty, then group by group."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

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
from mvp_align.reporting.terminal import WIDTH, bare_table

Index = dict[tuple[str, str, str, str], Row]


def print_statistics(found: Statistics, metric: str, console: Console | None = None) -> None:
    """Print every metric of the whole set, then each breakdown of `metric`.

    Other breakdowns are in metrics.jsonl. Raises UserError if `metric` was not measured.
    """
    if metric not in (
        known := unique(row.metric for row in found.rows if not derivation(row.metric))
    ):
        raise UserError(
            f"--metric {metric}: not measured pair by pair in this run, which has"
            f" {', '.join(known)}."
        )
    console = console or Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    index = {(row.stage, row.metric, row.group_by, row.group): row for row in found.rows}
    for stage in unique(row.stage for row in found.rows):
        console.print(_whole_table(stage, found.rows, index))
    for change in unique(
        family(row.metric) for row in found.rows if row.metric.endswith(BETTER) and not row.group_by
    ):
        console.print(_better_off(change, index))
    console.print()
    wanted = (metric, CEILING.name) if metric == ACC else (metric,)
    for group_by in found.by:
        rows = [
            row
            for row in found.rows
            if row.group_by == group_by and base_metric(row.metric) in wanted
        ]
        if rows:
            _print_breakdown(console, group_by, metric, rows, index)
    for line in [*found.remarks, *_blind_line(found, metric)]:
        console.print(Text(line, style="dim"))


def _blind_line(found: Statistics, metric: str) -> list[str]:
    shown_blind = metric == ACC and any(
        row.metric == CEILING.name and row.group_by for row in found.rows
    )
    return [f"blind: {BLIND}."] if shown_blind else []


def _whole_table(stage: str, rows: Sequence[Row], index: Index) -> Table:
    metrics = unique(
        row.metric
        for row in rows
        if row.stage == stage and not row.group_by and not derivation(row.metric)
    )
    first = index[stage, metrics[0], "", ""]
    table = bare_table(f"{stage}, {first.set}: {first.n} pairs of {first.users} users, [95 %]")
    for name in ("metric", "value", "bootstrap", "SE", "design effect", "p"):
        table.add_column(
            name, justify="left" if name == "metric" else "right", no_wrap=name != "metric"
        )
    for metric in metrics:
        value, boot, se, deff, p = (
            index.get((stage, metric + w, "", "")) for w in ("", BOOTSTRAP, SE, DEFF, P)
        )
        bounds = shown(boot, unit="").partition(" ")[2]
        table.add_row(
            Text(metric),
            shown(value, unit=""),
            bounds,
            shown(se, unit=""),
            shown(deff),
            shown(p) if p else "",
        )
    return table


def _print_breakdown(
    console: Console, group_by: str, metric: str, rows: Sequence[Row], index: Index
) -> None:
    stages = unique(row.stage for row in rows)
    groups = unique(row.group for row in rows if row.metric in (metric, metric + SHRUNK))
    changes = unique(row.metric for row in rows if row.metric.endswith(LIFT))
    title = f"{metric} by {' and '.join(PEOPLE.get(name, name) for name in group_by.split(','))}"
    own = [(stage, stage, metric) for stage in stages]
    own += [("lift", "tuned", change) for change in changes if VERSUS not in change]
    tables = [(title, own)]
    tables += [
        (f"{title}, against {_lift_name(c)}", [("difference", "tuned", c)])
        for c in changes
        if VERSUS in c
    ]
    blind = [row for row in rows if row.metric == CEILING.name]
    if metric == ACC and blind:
        tables[0][1].append(("blind", blind[0].stage, CEILING.name))
    for heading, columns in tables if groups else []:
        console.print(_group_table(heading, group_by, groups, columns, index))
    for line in _remarks(group_by, metric, stages[-1], changes, index):
        console.print(Text(line))
    console.print()


def _group_table(
    title: str,
    group_by: str,
    groups: Sequence[str],
    columns: Sequence[tuple[str, str, str]],
    index: Index,
) -> Table:
    """Return the table of one breakdown.

    `columns` holds heading, stage and metric of each column. A difference adds a column for its p.
    """
    table = bare_table(title)
    table.add_column("group", overflow="fold")
    for name, _, metric in columns:
        for heading in (name, "p (Holm)") if metric.endswith(LIFT) else (name,):
            table.add_column(heading, justify="right", no_wrap=True)
    for name in ("n", "users"):
        table.add_column(name, justify="right", no_wrap=True)
    for group in groups:
        texts, label, counted = [], group, None
        for _, stage, metric in columns:
            shrunk = index.get((stage, metric + SHRUNK, group_by, group))
            row = index.get((stage, metric, group_by, group)) or shrunk
            texts.append(shown(row, unit=""))
            if metric.endswith(LIFT):
                texts.append(shown(index.get((stage, metric + P_HOLM, group_by, group))))
            label = f"{group} (shrunk)" if shrunk else label
            counted = counted if metric == CEILING.name else row or counted
        if counted:
            table.add_row(
                Text(_crossed(group_by, label)), *texts, str(counted.n), str(counted.users)
            )
    return table


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
