"""The breakdowns of a set: every group variable that has rows, its groups, and what is held
back."""

from collections.abc import Sequence
from dataclasses import dataclass

from mvp_align.metrics.metric import SUPPRESSED
from mvp_align.metrics.rows import Row
from mvp_align.metrics.variables import VARIABLES
from mvp_align.reporting.results import Line, Results, suppressed_text, unique

KNOWN_LABELS = {one.name: one.label for one in VARIABLES}


@dataclass(frozen=True, slots=True)
class GroupTable:
    """The groups of one variable, or of several crossed, by the set's leading metric."""

    by: str
    label: str
    lines: list[Line]
    held: str
    """How many groups have too few people, in words; empty without any."""


def group_tables(results: Results, set_name: str) -> list[GroupTable]:
    """Return the breakdowns in the order of `VARIABLES`, then the records' own variables and
    crossings; a set's parts are its user types."""
    lead = results.lead(set_name)
    found = unique(
        row.group_by
        for row in results.rows
        if row.set == set_name and row.group_by and row.metric in (lead, f"{lead}{SUPPRESSED}")
    )
    order = {name: place for place, name in enumerate(KNOWN_LABELS)}
    found.sort(key=lambda by: order.get(by, len(order)))
    tables = [
        GroupTable(
            by,
            variable_label(by),
            results.groups(set_name, by),
            suppressed_text(_held(results, set_name, lead, by)),
        )
        for by in found
    ]
    if parts := results.parts(set_name):
        lines = [results.line(part, lead, label=part.partition("/")[2]) for part in parts]
        tables = [one for one in tables if one.by != "user_type"]
        tables.append(GroupTable("user_type", variable_label("user_type"), lines, ""))
    return tables


def largest_loss_first(tables: Sequence[GroupTable]) -> list[GroupTable]:
    """Put first the breakdown that has the group whose change is shown to be lowest, if it is a
    loss; what a reader should not have to look for."""

    def loss(table: GroupTable) -> float:
        lifts = [line.lift for line in table.lines if line.lift]
        return min((one.value for one in lifts if one.high is not None and one.high < 0), default=0)

    worst = min(tables, key=loss, default=None)
    return sorted(tables, key=lambda table: table is not worst)


def variable_label(by: str) -> str:
    """How a reader meets a variable: `country of birth`, `region of birth and age`."""
    names = (KNOWN_LABELS.get(name, name.replace("_", " ")) for name in by.split(","))
    return KNOWN_LABELS.get(by) or " and ".join(names)


def _held(results: Results, set_name: str, lead: str, by: str) -> Row | None:
    keys = ((stage, set_name, f"{lead}{SUPPRESSED}", by, "") for stage in ("tuned", "base"))
    return next((row for key in keys if (row := results.index.get(key))), None)
