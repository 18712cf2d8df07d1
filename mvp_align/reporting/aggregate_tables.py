"""Runs over seeds as a reader meets them: tables for the terminal, markdown, CSV, and the paper's row in LaTeX."""

import csv
import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mvp_align.data.sets import SETS
from mvp_align.evaluation.names import is_number
from mvp_align.evaluation.seeds import Interval
from mvp_align.reporting.aggregate import Group, Summary
from mvp_align.reporting.results import LABELS, number, unique

FORMATS = ("table", "markdown", "csv", "latex")
WIDTH = 110
HEADS = ("metric", "model", "mean", "sd over seeds", "over people", "over seeds", "over both")
LEGEND = (
    "Shares in %, lifts in points, margins and shifts in nats a token. sd: between the seeds' means. 95 % intervals: over "
    "people, had others been asked (clustered by user, each pair averaged over the seeds); over seeds, had others been "
    "drawn (t over the seeds' means); over both, either."
)
PAPER = "The paper's row: OPA (mean of acc@d) in %, tuned ± sd over seeds"
CSV_HEADS = (
    "configuration", "set", "metric", "model", "mean", "sd", "people_low", "people_high", "seeds_low", "seeds_high",
    "both_low", "both_high", "seeds", "by_seed", "pairs", "users",
)  # fmt: skip
LATEX = str.maketrans(
    {char: f"\\{char}" for char in "_%&#${}"}
    | {"±": r"$\pm$", "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def shown_as(form: str, groups: Sequence[Group]) -> str:
    """The groups in one of FORMATS."""
    return {"table": as_table, "markdown": as_markdown, "csv": as_csv, "latex": as_latex}[form](groups)


def remarks(groups: Sequence[Group], broken: Sequence[str]) -> list[str]:
    """Ceilings, where one seed stands alone, and every run that is not among the numbers."""
    lines = []
    for group in groups:
        for name, ceiling in group.ceilings.items():
            lines.append(f"{name}: a model that ignores who is asking cannot pass {number(ceiling)} % acc@0.")
        if len(group.seeds) == 1:
            lines.append(f"{group.label}: one seed, so no standard deviation, and no interval over seeds or both.")
        lines += [f"{group.label}: {problem}" for problem in group.problems]
    return unique([*lines, *broken])


def as_table(groups: Sequence[Group]) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, highlight=False)
    for title, heads, rows in blocks(groups):
        table = Table(
            title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False,
            padding=(0, 0, 0, 1),
        )  # fmt: skip
        for head in heads:
            table.add_column(head, justify="left" if head in ("", *HEADS[:2]) else "right", no_wrap=head != "")
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
    console.print(Text(LEGEND))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def as_markdown(groups: Sequence[Group]) -> str:
    text = []
    for title, heads, rows in blocks(groups):
        lines = [list(heads), ["---"] * len(heads), *rows]
        text += [f"**{title}**", "\n".join(f"| {' | '.join(plain(cell) for cell in line)} |" for line in lines)]
    return "\n\n".join([*text, LEGEND])


def plain(cell: str) -> str:
    return cell.replace("|", "\\|")


def as_csv(groups: Sequence[Group]) -> str:
    """A line a metric, unrounded: shares from 0 to 1, nats a token; empty where there is no such number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADS)
    for group in groups:
        for row in group.summaries:
            e = row.estimate
            bounds = [bound for interval in (e.people, e.training, e.both) for bound in interval or ("", "")]
            by_seed = " ".join(map(repr, e.by_seed))
            counted = (" ".join(map(str, group.seeds)), by_seed, e.n, e.users)
            writer.writerow((group.label, row.set, row.metric, row.stage, e.mean, e.sd, *bounds, *counted))
    return text.getvalue().rstrip("\n")


def as_latex(groups: Sequence[Group]) -> str:
    """The paper's row of each configuration, for a tabular of its columns."""
    lines = [" & ".join(cell.translate(LATEX) for cell in row) for row in paper_rows(groups)]
    return "\n".join(
        [f"% {PAPER}", f"% {' & '.join(('configuration', *columns(groups)))}", *(f"{x} \\\\" for x in lines)]
    )


def blocks(groups: Sequence[Group]) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """Title, heads and rows: one block a configuration and set, then the paper's row of each configuration."""
    made: list[tuple[str, Sequence[str], list[list[str]]]] = [
        (heading(group, name), HEADS, cells(group, name)) for group in groups for name in sets(group)
    ]
    paper = [(PAPER, ("", *columns(groups)), paper_rows(groups))] if columns(groups) else []
    return [*made, *paper]


def sets(group: Group) -> list[str]:
    return unique(row.set for row in group.summaries)


def heading(group: Group, name: str) -> str:
    e = next(row.estimate for row in group.summaries if row.set == name)
    count = len(group.seeds)
    seeds = f"{count} seed{'s' * (count > 1)} ({', '.join(map(str, group.seeds))})"
    return f"{group.label}, {name}: {seeds}, {e.n} pairs, {e.users} users"


def cells(group: Group, name: str) -> list[list[str]]:
    rows: list[list[str]] = []
    before = ""
    for row in (row for row in group.summaries if row.set == name):
        label = LABELS.get(row.metric, row.metric.removeprefix("opa/")).strip()
        rows.append(["" if label == before else label, row.stage, *numbers(row)])
        before = label
    return rows


def numbers(row: Summary) -> list[str]:
    e, nats, sign = row.estimate, is_number(row.metric), row.stage == "lift"

    def interval(bounds: Interval | None) -> str:
        return f"[{number(bounds[0], nats=nats)}, {number(bounds[1], nats=nats)}]" if bounds else "-"

    sd = number(e.sd, nats=nats) if e.sd is not None else "-"
    return [number(e.mean, nats=nats, sign=sign), sd, interval(e.people), interval(e.training), interval(e.both)]


def columns(groups: Sequence[Group]) -> list[str]:
    """The paper has no column for a synthetic stand-in."""
    names = unique(name for group in groups for name in sets(group) if not (name in SETS and SETS[name].synthetic))
    return [f"{name} {stage}" for name in names for stage in ("base", "tuned")]


def paper_rows(groups: Sequence[Group]) -> list[list[str]]:
    """`26.73` and `83.29 ± 0.13`, as DiverValue-Bench's table has them, of each configuration with a finished run."""
    rows = []
    for group in (group for group in groups if group.seeds):
        found = {f"{row.set} {row.stage}": row.estimate for row in group.summaries if row.metric == "opa/mean"}
        values = []
        for column in columns(groups):
            e = found.get(column)
            spread = f" ± {100 * e.sd:.2f}" if e and e.sd is not None and column.endswith("tuned") else ""
            values.append(f"{100 * e.mean:.2f}{spread}" if e else "-")
        rows.append([group.label, *values])
    return rows
