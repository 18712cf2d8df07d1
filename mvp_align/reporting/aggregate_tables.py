"""Tables of runs over seeds: for the terminal, Markdown, CSV, and the paper's row in LaTeX."""

import csv
import io
from collections.abc import Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mvp_align.data.sets import SETS
from mvp_align.metrics.drift import NEUTRAL
from mvp_align.metrics.names import in_percent, is_change
from mvp_align.metrics.opa import ACC, MEAN
from mvp_align.metrics.seeds import Interval
from mvp_align.reporting.aggregate import Group, Summary
from mvp_align.reporting.finished import LIFTED
from mvp_align.reporting.results import label_of, number, unique

FORMATS = ("table", "markdown", "csv", "latex")
WIDTH = 110
HEADS = ("metric", "model", "mean", "sd over seeds", "over people", "over seeds", "over both")
LEGEND = (
    "Shares in %, their lifts in points, margins, shifts and KL in nats a token. sd: between the"
    " seeds' means. 95 % intervals: over people, had others been asked (clustered by user, each"
    " pair averaged over the seeds; - where it was not kept pair by pair, or not of the same"
    " pairs); over seeds, had others been drawn (t over the seeds' means); over both, either."
)
PAPER = f"The paper's row: {MEAN.label} in %, tuned ± sd over seeds"
CSV_HEADS = (
    "configuration", "set", "metric", "model", "mean", "sd", "people_low", "people_high",
    "seeds_low", "seeds_high",
    "both_low", "both_high", "seeds", "by_seed", "pairs", "users",
)  # fmt: skip
LATEX = str.maketrans(
    {char: f"\\{char}" for char in "_%&#${}"}
    | {
        "±": r"$\pm$",
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)


def format_groups(form: str, groups: Sequence[Group]) -> str:
    """Format the groups as one of FORMATS."""
    return {"table": as_table, "markdown": as_markdown, "csv": as_csv, "latex": as_latex}[form](
        groups
    )


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


def as_table(groups: Sequence[Group]) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, highlight=False)
    for title, heads, rows in _blocks(groups):
        table = Table(
            title=Text(title),
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 0, 0, 1),
        )
        for head in heads:
            words = head in ("", HEADS[0])  # numbers never wrap
            side: Literal["left", "right"] = "left" if words or head == HEADS[1] else "right"
            table.add_column(head, justify=side, no_wrap=not words, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
    console.print(Text(LEGEND))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def as_markdown(groups: Sequence[Group]) -> str:
    text = []
    for title, heads, rows in _blocks(groups):
        lines = [list(heads), ["---"] * len(heads), *rows]
        text += [
            f"**{title}**",
            "\n".join(f"| {' | '.join(_plain(cell) for cell in line)} |" for line in lines),
        ]
    return "\n\n".join([*text, LEGEND])


def _plain(cell: str) -> str:
    return cell.replace("|", "\\|")


def as_csv(groups: Sequence[Group]) -> str:
    """Format as CSV: one line per metric, unrounded.

    Shares are 0 to 1, log-probs in nats per token. Missing numbers are empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADS)
    for group in groups:
        for row in group.summaries:
            e = row.estimate
            bounds = [
                bound
                for interval in (e.people, e.training, e.both)
                for bound in interval or ("", "")
            ]
            by_seed = " ".join(map(repr, e.by_seed))
            counted = (" ".join(map(str, group.seeds)), by_seed, e.n, e.users)
            writer.writerow(
                (group.label, row.set, row.metric, row.stage, e.mean, e.sd, *bounds, *counted)
            )
    return text.getvalue().rstrip("\n")


def as_latex(groups: Sequence[Group]) -> str:
    """Format the paper's row of each configuration, for a tabular with its columns."""
    lines = [" & ".join(cell.translate(LATEX) for cell in row) for row in _paper_rows(groups)]
    return "\n".join(
        [
            f"% {PAPER}",
            f"% {' & '.join(('configuration', *_columns(groups)))}",
            *(f"{x} \\\\" for x in lines),
        ]
    )


def _blocks(groups: Sequence[Group]) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """Return title, heads and rows of each table.

    There is one per configuration and set, and then one with the paper's row of each configuration.
    """
    made: list[tuple[str, Sequence[str], list[list[str]]]] = [
        (_heading(group, name), HEADS, _cells(group, name))
        for group in groups
        for name in _sets(group)
    ]
    paper = [(PAPER, ("", *_columns(groups)), _paper_rows(groups))] if _columns(groups) else []
    return [*made, *paper]


def _sets(group: Group) -> list[str]:
    return unique(row.set for row in group.summaries)


def _heading(group: Group, name: str) -> str:
    e = next(row.estimate for row in group.summaries if row.set == name)
    count = len(group.seeds)
    seeds = f"{count} seed{'s' * (count > 1)} ({', '.join(map(str, group.seeds))})"
    counted = f"{e.n} passages" if name == NEUTRAL else f"{e.n} pairs, {e.users} users"
    return f"{group.label}, {name}: {seeds}, {counted}"


def _cells(group: Group, name: str) -> list[list[str]]:
    rows: list[list[str]] = []
    before = ""
    for row in (row for row in group.summaries if row.set == name):
        label = label_of(row.metric).strip()
        rows.append(["" if label == before else label, row.stage, *_numbers(row)])
        before = label
    return rows


def _numbers(row: Summary) -> list[str]:
    e, percent = row.estimate, in_percent(row.metric)
    sign = row.stage == LIFTED or is_change(row.metric)

    def interval(bounds: Interval | None) -> str:
        return (
            f"[{number(bounds[0], percent=percent)}, {number(bounds[1], percent=percent)}]"
            if bounds
            else "-"
        )

    sd = number(e.sd, percent=percent) if e.sd is not None else "-"
    return [
        number(e.mean, percent=percent, sign=sign),
        sd,
        interval(e.people),
        interval(e.training),
        interval(e.both),
    ]


def _columns(groups: Sequence[Group]) -> list[str]:
    """Return the paper's columns, which exclude synthetic sets."""
    names = unique(
        row.set for group in groups for row in group.summaries if row.metric == MEAN.name
    )
    names = [name for name in names if not (name in SETS and SETS[name].synthetic)]
    return [f"{name} {stage}" for name in names for stage in ("base", "tuned")]


def _paper_rows(groups: Sequence[Group]) -> list[list[str]]:
    """Return the paper's row of each configuration with a finished run.

    Cells are like `26.73` and `83.29 ± 0.13`, as in DiverValue-Bench's table.
    """
    rows = []
    for group in (group for group in groups if group.seeds):
        found = {
            f"{row.set} {row.stage}": row.estimate
            for row in group.summaries
            if row.metric == MEAN.name
        }
        values = []
        for column in _columns(groups):
            e = found.get(column)
            spread = (
                f" ± {100 * e.sd:.2f}"
                if e and e.sd is not None and column.endswith("tuned")
                else ""
            )
            values.append(f"{100 * e.mean:.2f}{spread}" if e else "-")
        rows.append([group.label, *values])
    return rows
