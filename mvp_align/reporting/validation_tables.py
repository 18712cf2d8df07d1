"""What `mvp-align data validate` found: a table in the terminal, and a page."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mvp_align.data.checks import DataCheck
from mvp_align.data.part_figures import GroupFigures, PartFigures, percentile_names
from mvp_align.data.validation import Validation
from mvp_align.metrics.variables import VARIABLES
from mvp_align.reporting.pages import page_template
from mvp_align.reporting.table_formats import WIDTH, bare_table
from mvp_align.runtime.atomic import write_text

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
LABEL_OF = {one.name: one.label for one in VARIABLES}
ALWAYS = tuple(one.name for one in VARIABLES if one.section)
FEW = 12
"""Groups that a variable of the user's own may have to be shown in the terminal."""


def print_validation(found: Validation, console: Console | None = None) -> None:
    """Print every check, then sizes, lengths and groups of each part."""
    console = console or Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    console.print(_check_table(found.checks))
    for figures in found.figures:
        console.print(_length_table(figures))
        console.print(_group_table(figures))
        for line in held_back_lines(figures):
            console.print(Text(line, style="dim"))
    console.print(Text(validation_verdict(found), style="bold"))


def validation_verdict(found: Validation) -> str:
    """Say pass or fail, and how many checks failed or are worth a look."""
    failed, warned = (
        sum(check.outcome == outcome for check in found.checks) for outcome in ("fail", "warn")
    )
    return (
        f"{'Passed' if found.passed else 'Failed'}: {failed} of {len(found.checks)} checks failed,"
        f" {warned} are worth a look."
    )


def _check_table(checks: Sequence[DataCheck]) -> Table:
    table = bare_table("Checks")
    for name in ("part", "check", ""):
        table.add_column(name, no_wrap=True)
    table.add_column("found", overflow="fold")
    for part, own in groupby(checks, key=lambda check: check.part):
        for check in own:
            table.add_row(
                part,
                check.check,
                Text(check.outcome, style=STYLES[check.outcome]),
                Text("\n".join(told(check))),
            )
        table.add_section()
    return table


def told(check: DataCheck) -> list[str]:
    """Return a check's lines: what was found, examples, and what helps."""
    return [
        check.found,
        *([f"such as {', '.join(check.examples)}"] if check.examples else []),
        *([f"-> {check.remedy}"] if check.remedy else []),
    ]


def _length_table(figures: PartFigures) -> Table:
    table = bare_table(
        f"{escape(figures.part)}: {figures.pairs:,} pairs, {figures.users:,} people,"
        f" {figures.questions:,} questions; percentiles of lengths"
    )
    table.add_column("text")
    for name in ("unit", *percentile_names()):
        table.add_column(name, justify="right")
    for row in figures.lengths:
        table.add_row(row.text, row.unit, *(f"{n:,}" for n in row.percentiles.values()))
    return table


def _group_table(figures: PartFigures) -> Table:
    table = bare_table(f"{escape(figures.part)}: by group, shares in % [95 % intervals]")
    table.add_column("group", overflow="fold")
    for name in ("pairs", "people", "longer wins", "value-blind"):
        table.add_column(name, justify="right", no_wrap=True)
    for variable, groups in by_variable(figures.groups):
        if variable and variable not in ALWAYS and (variable in LABEL_OF or len(groups) > FEW):
            continue
        for one in groups:
            table.add_row(
                Text(group_name(one)), f"{one.pairs:,}", f"{one.users:,}", longer(one),
                f"{100 * one.ceiling:.1f}",
            )  # fmt: skip
        table.add_section()
    return table


def by_variable(groups: Iterable[GroupFigures]) -> list[tuple[str, list[GroupFigures]]]:
    """Return the groups by variable: all pairs, the usual variables in their order, then others."""
    found: dict[str, list[GroupFigures]] = defaultdict(list)
    for one in groups:
        found[one.group_by].append(one)
    order = ["", *LABEL_OF]
    return sorted(
        found.items(),
        key=lambda item: (order.index(item[0]) if item[0] in order else len(order), item[0]),
    )


def group_name(one: GroupFigures) -> str:
    return f"{one.group_by} {one.group}" if one.group_by else "all pairs"


def longer(one: GroupFigures) -> str:
    """Format the share of pairs whose longer answer wins, as `48.7 [45.9, 51.5]`."""
    text = f"{100 * one.longer:.1f}"
    if one.longer_low is None or one.longer_high is None:
        return text
    return f"{text} [{100 * one.longer_low:.1f}, {100 * one.longer_high:.1f}]"


def held_back_lines(figures: PartFigures) -> list[str]:
    """Say which variables have groups of too few people to be shown."""
    return [
        f"{figures.part}, {variable}: {groups} group{'s' * (groups > 1)} of fewer than five people"
        f" not shown ({people} {'person' if people == 1 else 'people'}, {pairs}"
        f" pair{'s' * (pairs > 1)})."
        for variable, (groups, people, pairs) in figures.held_back.items()
    ]


def write_page(found: Validation, path: Path) -> None:
    """Write what was found as one HTML file. Raises UserError if it cannot be written."""
    page = page_template("validation.html.j2").render(
        verdict=validation_verdict(found),
        passed=found.passed,
        checks=[(check, told(check)) for check in found.checks],
        parts=[
            (
                figures,
                percentile_names(),
                [
                    [(group_name(one), one, longer(one)) for one in groups]
                    for _, groups in by_variable(figures.groups)
                ],
                held_back_lines(figures),
            )
            for figures in found.figures
        ],
    )
    write_text(path, page)
