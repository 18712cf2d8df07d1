"""The tables at the end of a run."""

import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mvp_align.evaluation.rows import Row
from mvp_align.reporting.results import Line, Results, number, prompt_sets, shown
from mvp_align.reporting.who_asks import HEADING, OVER_SHUFFLED, profile_lines, verdict

WIDTH = 100
"""Columns where the output is no terminal (a log file of a cluster job)."""


def print_results(rows: Sequence[Row], console: Console | None = None, *, data_format: str = "") -> None:
    """Base against tuned for each set, then by dimension, level and user type; shares in percent, 95 % intervals.

    `data_format` is the config's `data.format`: under `ufp4` the in-domain records name no person either.
    """
    console = console or Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    results = Results(rows)
    if not results.rows:
        console.print("No results to show.")
        return
    prompts = prompt_sets(results.sets(), data_format)
    for name in results.sets():
        users = "users*" if name in prompts else "users"
        console.print(summary_table(results, name, users))
        if breakdown := breakdown_table(results, name, users):
            console.print(breakdown)
        if profiles := profile_table(results, name, users):
            console.print(profiles)
            console.print(Text(verdict(results, name)))
    for line in footnotes(results, prompts):
        console.print(Text(line, style="dim"))


def summary_table(results: Results, set_name: str, users: str) -> Table:
    table = new_table(f"{set_name}: shares in %, nats a token, [95 % intervals]", "metric", users)
    for line in results.summary(set_name):
        add(table, line)
    return table


def breakdown_table(results: Results, set_name: str, users: str) -> Table | None:
    table = new_table(f"{set_name}: acc@0 by group, in %", "group", users)
    for _, lines in results.sections(set_name):
        for line in lines:
            add(table, line)
        table.add_section()
    return table if table.row_count else None


def profile_table(results: Results, set_name: str, users: str) -> Table | None:
    table = new_table(f"{set_name}: {HEADING} acc@0 of the same pairs, in %; lifts in points", "profile shown", users)
    for line in profile_lines(results, set_name):
        add(table, line)
    return table if table.row_count else None


def new_table(title: str, first: str, users: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1)
    )
    table.add_column(first, overflow="fold")  # the one column that may wrap: numbers never do
    for name in ("base", "tuned", "lift, points", "n", users):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def add(table: Table, line: Line) -> None:
    counts = line.counts
    table.add_row(
        Text(line.label),  # a group's name may hold [brackets], which rich would take for markup
        Text(shown(line.base, unit="")),
        Text(shown(line.tuned, unit=""), style="bold" if line.metric in ("opa/acc@0", *OVER_SHUFFLED) else ""),
        Text(shown(line.lift, change=True)),
        str(counts.n) if counts else "",
        str(counts.users) if counts else "",
    )


def footnotes(results: Results, prompts: Sequence[str]) -> list[str]:
    notes = []
    for name in results.sets():
        acc = results.line(name, "opa/acc@0")
        if acc.ceiling is None:
            continue
        ceiling, row = acc.ceiling.value, acc.tuned or acc.base
        note = f"{name}: a model that ignores who is asking cannot pass {number(ceiling)} % acc@0"
        if row and 0 < ceiling < 1:
            note += f"; {row.stage} reached {number(row.value / ceiling)} % of that ceiling"
        notes.append(f"{note}.")
    if prompts:
        notes.append(f"* {' and '.join(prompts)}: the records name no person; users counts prompts.")
    return notes
