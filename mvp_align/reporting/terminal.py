"""Tables printed at the end of a run."""

import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mvp_align.metrics.drift import NEUTRAL
from mvp_align.metrics.opa import ACC
from mvp_align.metrics.rows import Row
from mvp_align.reporting.headline import against_ceiling, no_change_reason
from mvp_align.reporting.leading import spoken
from mvp_align.reporting.profile_ablation import OVER_SHUFFLED, Ablation, ablations
from mvp_align.reporting.results import (
    BLIND,
    GroupGap,
    Line,
    Results,
    counted,
    prompt_sets,
    shown,
)

WIDTH = 100
"""Width in columns if the output is not a terminal (like the log file of a cluster job)."""


def print_results(
    rows: Sequence[Row],
    console: Console | None = None,
    *,
    data_format: str = "",
    noted: Sequence[str] | None = None,
    worst_by: str = "",
) -> None:
    """Print base and tuned for each set, then by dimension, level and user type.

    Shares are in percent, with 95 % intervals. `data_format` and `noted` determine which sets name
    no user (see `prompt_sets`). `worst_by` is what the worst group is one of (`evals.worst_by`).
    """
    console = console or Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    results = Results(rows)
    if not results.rows:
        console.print("No results to show.")
        return
    prompts = prompt_sets(results.sets(), data_format, noted)
    for name in results.sets():
        users = {"people": "users", "prompts": "users*"}.get(unit := counted(name, prompts), unit)
        console.print(_summary_table(results, name, users))
        if breakdown := _breakdown_table(results, name, users):
            console.print(breakdown)
            if not breakdown.show_edge:
                console.print()
        for ablation in ablations(results, name):
            console.print(_ablation_table(ablation, name, users))
            console.print(Text(ablation.verdict))
        if table := _gap_table(results, name):
            console.print(table)
    for line in _footnotes(results, prompts, worst_by):
        console.print(Text(line, style="dim"))


def _summary_table(results: Results, set_name: str, users: str) -> Table:
    what = (
        "text about nobody's values"
        if set_name == NEUTRAL
        else "shares in %, nats a token, [95 % intervals]"
    )
    table = _new_table(f"{set_name}: {what}", "metric", users)
    for line in results.summary(set_name):
        _add(table, line)
    return table


def _breakdown_table(results: Results, set_name: str, users: str) -> Table | None:
    sections = results.sections(set_name)
    blind = any(line.ceiling for _, lines in sections for line in lines)
    lead = spoken(results.lead(set_name))
    table = _new_table(f"{set_name}: {lead} by group, in %", "group", users, blind=blind)
    for _, lines in sections:
        for line in lines:
            _add(table, line, blind=blind)
        table.add_section()
    return table if table.row_count else None


def _ablation_table(ablation: Ablation, set_name: str, users: str) -> Table:
    table = _new_table(
        f"{set_name}: {ablation.heading} acc@0 of the same pairs, in %; lifts in points",
        ablation.shown,
        users,
    )
    for line in ablation.lines:
        _add(table, line)
    return table


def _gap_table(results: Results, set_name: str) -> Table | None:
    lines = results.group_gaps(set_name)
    if not lines:
        return None
    lead = spoken(results.lead(set_name))
    table = bare_table(
        f"{set_name}: who is served worst by the {_stage_of(lines)} model, {lead} in %"
    )
    table.add_column("by", no_wrap=True)
    table.add_column("lowest", overflow="fold")
    for name in (lead.partition(" ")[0], "to the highest, points", "held back"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        held = f"{line.suppressed.value:.0f} of {line.suppressed.users}" if line.suppressed else ""
        worst = line.worst.group if line.worst else ""
        table.add_row(
            line.label, Text(worst), shown(line.worst, unit=""), shown(line.gap, unit=""), held
        )
    return table


def _stage_of(lines: Sequence[GroupGap]) -> str:
    return next(
        (row.stage for line in lines for row in (line.worst, line.suppressed) if row), "base"
    )


def bare_table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 0, 0, 1),
    )


def _new_table(title: str, first: str, users: str, *, blind: bool = False) -> Table:
    table = bare_table(title)
    table.show_edge = not blind  # without it, a dimension's name fits a line of 100
    table.add_column(first, overflow="fold")  # only this column may wrap: numbers never do
    for name in ("base", "tuned", "lift, points", *["blind"] * blind, "n", users):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _add(table: Table, line: Line, *, blind: bool = False) -> None:
    counts = line.counts
    table.add_row(
        Text(line.label),  # a group's name may contain [brackets], which rich would read as markup
        Text(shown(line.base, unit="")),
        Text(
            shown(line.tuned, unit=""),
            style="bold" if line.metric in (ACC, *OVER_SHUFFLED) else "",
        ),
        Text(shown(line.lift, unit="")),
        *[shown(line.ceiling, unit="")] * blind,
        str(counts.n) if counts else "",
        str(counts.users) if counts else "",
    )


def _footnotes(results: Results, prompts: Sequence[str], worst_by: str) -> list[str]:
    notes = []
    for name in results.sets():
        acc = results.line(name, ACC)
        if acc.base and acc.tuned and (nothing := no_change_reason(acc.lift)):
            notes.append(f"{name}: {nothing}{f': {shown(acc.lift)} points' if acc.lift else ''}.")
        if against := against_ceiling(acc):
            notes.append(f"{name}: {against}.")
    for name in results.sets():
        said = [text for text in (results.better_off(name), results.design_effect(name)) if text]
        notes += [f"{name}: {'; '.join(said)}."] if said else []
        notes += [f"{name}: {text}." for text in [results.worst_group(name, worst_by)] if text]
    if any(
        line.ceiling
        for name in results.sets()
        for _, lines in results.sections(name)
        for line in lines
    ):
        notes.append(f"blind: {BLIND}.")
    if any(results.group_gaps(name) for name in results.sets()):
        notes.append(
            "held back: how many groups are of too few people to be shown, and of how many people"
            " they are."
        )
    if prompts:
        notes.append(
            f"* {' and '.join(prompts)}: the records name no person; users counts prompts."
        )
    return notes
