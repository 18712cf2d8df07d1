"""Tables of a run: base next to tuned, set by set, by group, and who is served worst."""

from collections.abc import Sequence

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
from mvp_align.reporting.table import Cell, Column, ResultTable, measured

HELD_BACK = (
    "held back: how many groups are of too few people to be shown, and of how many people they are."
)


def run_result_tables(
    rows: Sequence[Row],
    *,
    data_format: str = "",
    noted: Sequence[str] | None = None,
    worst_by: str = "",
) -> list[ResultTable]:
    """Return base and tuned for each set, then by dimension, level and user type.

    `data_format` and `noted` determine which sets name no user (see `prompt_sets`). `worst_by` is
    what the worst group is one of (`evals.worst_by`).
    """
    results = Results(rows)
    prompts = prompt_sets(results.sets(), data_format, noted)
    tables: list[ResultTable] = []
    for name in results.sets():
        users = {"people": "users", "prompts": "users*"}.get(unit := counted(name, prompts), unit)
        starred = (
            [f"* {name}: the records name no person; users counts prompts."]
            if name in prompts
            else []
        )
        tables.append(_summary_table(results, name, users, worst_by, starred))
        tables += _breakdown_table(results, name, users, starred)
        tables += [
            _ablation_table(ablation, name, users, starred) for ablation in ablations(results, name)
        ]
        tables += _gap_table(results, name)
    return tables


def _summary_table(
    results: Results, set_name: str, users: str, worst_by: str, starred: Sequence[str]
) -> ResultTable:
    what = (
        "text about nobody's values"
        if set_name == NEUTRAL
        else "shares in %, nats a token, [95 % intervals]"
    )
    return lines_table(
        f"{set_name}_summary",
        f"{set_name}: {what}",
        "metric",
        users,
        [results.summary(set_name)],
        [*_set_notes(results, set_name, worst_by), *starred],
    )


def _breakdown_table(
    results: Results, set_name: str, users: str, starred: Sequence[str]
) -> list[ResultTable]:
    sections = [lines for _, lines in results.sections(set_name)]
    if not sections:
        return []
    blind = any(line.ceiling for lines in sections for line in lines)
    title = f"{set_name}: {spoken(results.lead(set_name))} by group, in %"
    notes = [f"blind: {BLIND}."] * blind + list(starred)
    name = f"{set_name}_groups"
    return [lines_table(name, title, "group", users, sections, notes, blind=blind)]


def _ablation_table(
    ablation: Ablation, set_name: str, users: str, starred: Sequence[str]
) -> ResultTable:
    title = f"{set_name}: {ablation.heading} acc@0 of the same pairs, in %; lifts in points"
    name = f"{set_name}_{ablation.shown.partition(' ')[0]}"
    notes = [ablation.verdict, *starred] if ablation.verdict else starred
    return lines_table(name, title, ablation.shown, users, [ablation.lines], notes)


def lines_table(
    name: str,
    title: str,
    first: str,
    users: str,
    sections: Sequence[Sequence[Line]],
    notes: Sequence[str],
    *,
    blind: bool = False,
) -> ResultTable:
    """Return a table with a row for each line, and a rule below each section."""
    columns = [
        Column("label", first),
        *(Column(key, only="programs") for key in ("set", "metric", "group_by", "group")),
        *(Column(key, kind="estimate") for key in ("base", "tuned")),
        Column("lift", "lift, points", "estimate"),
        *[Column("value_blind_ceiling", "blind", "number")] * blind,
        Column("n_shown", "n", "count", "people"),
        Column("users_shown", users, "count", "people"),
        *(Column(key, kind="count", only="programs") for key in ("n", "users")),
    ]
    lines = [line for section in sections for line in section]
    ends = [sum(map(len, sections[: place + 1])) - 1 for place in range(len(sections))]
    return ResultTable(
        name,
        title,
        columns,
        [_cells(line, blind=blind) for line in lines],
        notes,
        strong=frozenset(
            place for place, line in enumerate(lines) if line.metric in (ACC, *OVER_SHUFFLED)
        ),
        rules=frozenset(ends[:-1]),
        framed=not blind,  # without edges, a dimension's name fits a line of 100
    )


def _cells(line: Line, *, blind: bool) -> list[Cell]:
    row, counts = line.tuned or line.base, line.counts
    return [
        line.label,
        *((row.set, line.metric, row.group_by, row.group) if row else (None,) * 4),
        *(measured(part) for part in (line.base, line.tuned, line.lift)),
        *[measured(line.ceiling)] * blind,
        *((counts.n, counts.users) if counts else ("", "")),
        *((row.n, row.users) if row else (None, None)),
    ]


def _gap_table(results: Results, set_name: str) -> list[ResultTable]:
    lines = results.group_gaps(set_name)
    if not lines:
        return []
    lead = spoken(results.lead(set_name))
    columns = [
        Column("by"),
        Column("lowest"),
        Column("value", lead.partition(" ")[0], "estimate"),
        Column("gap", "to the highest, points", "estimate"),
        Column("held_groups", "held back", "count"),
        Column("held_people", "people", "count"),
    ]
    title = f"{set_name}: who is served worst by the {_stage_of(lines)} model, {lead} in %"
    rows = [_gap_cells(line) for line in lines]
    return [ResultTable(f"{set_name}_served_worst", title, columns, rows, [HELD_BACK])]


def _gap_cells(line: GroupGap) -> list[Cell]:
    held = line.suppressed
    return [
        line.label,
        line.worst.group if line.worst else "",
        measured(line.worst),
        measured(line.gap),
        *((round(held.value), held.users) if held else ("", "")),
    ]


def _stage_of(lines: Sequence[GroupGap]) -> str:
    return next(
        (row.stage for line in lines for row in (line.worst, line.suppressed) if row), "base"
    )


def _set_notes(results: Results, name: str, worst_by: str) -> list[str]:
    notes = []
    acc = results.line(name, ACC)
    if acc.base and acc.tuned and (nothing := no_change_reason(acc.lift)):
        notes.append(f"{name}: {nothing}{f': {shown(acc.lift)} points' if acc.lift else ''}.")
    if against := against_ceiling(acc):
        notes.append(f"{name}: {against}.")
    said = [text for text in (results.better_off(name), results.design_effect(name)) if text]
    notes += [f"{name}: {'; '.join(said)}."] if said else []
    return notes + [f"{name}: {text}." for text in [results.worst_group(name, worst_by)] if text]
