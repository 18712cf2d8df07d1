"""Rows of metrics as figures: base against tuned, who gained and who lost, bars by country and
region."""

from collections.abc import Iterable, Mapping, Sequence

from mvp_align.figures.axis import LIFT_POINTS, SHARE, Axis, Unit
from mvp_align.figures.figure import Figure, Words
from mvp_align.figures.interval_figures import (
    IntervalRow,
    Whisker,
    bar_figure,
    dot_figure,
    lift_figure,
)
from mvp_align.metrics.names import in_percent, is_change
from mvp_align.metrics.rows import Row
from mvp_align.reporting.breakdowns import GroupTable
from mvp_align.reporting.profile_ablation import Ablation
from mvp_align.reporting.results import CROSSED, Line, Section, shown

DOTS = "Ring: base model. Dot: tuned model. Whiskers: 95 % intervals."
CEILING_STROKE = (
    " Upright stroke: what the best model that ignores who is asking gets right, of everyone its"
    " ceiling."
)
CHANGES = (
    "Lowest first. Whiskers: 95 % intervals of each group alone. A ring: the interval holds 0, so"
    " no change is shown. Among many groups one in twenty leaves 0 out by chance."
)
BARS = "Bars from 0. Whiskers: 95 % intervals."
CROSSED_IN_PAPER = ("age", "gender", "education", "marital_status")
"""With the region, in MVPBench's figures."""
PAPER_VARIABLES = ("birth_country", "region", *CROSSED_IN_PAPER)


def unit_of(metric: str) -> Unit:
    """How the values of a metric are shown."""
    if not in_percent(metric):
        return "number"
    return "points" if is_change(metric) else "share"


def group_figure(
    sections: Sequence[Section], name: str, title: str, sentence: str, unit: str | Mapping[str, str]
) -> Figure | None:
    """Base and tuned, and the ceiling, of each line. `unit` is what `users` counts, where that
    differs by the line's label."""

    def rows_of(lines: Iterable[Line]) -> list[IntervalRow]:
        return [
            _stages(line, unit if isinstance(unit, str) else unit[line.label]) for line in lines
        ]

    parts = [(heading, rows_of(lines)) for heading, lines in sections]
    ceilings = any(line.ceiling for _, lines in sections for line in lines)
    caption = DOTS + CEILING_STROKE * ceilings
    return dot_figure(parts, Words(name, title, sentence, caption), axis=_share_axis(sections))


def gain_figure(table: GroupTable, name: str, unit: str) -> Figure | None:
    """The lifts of the groups, the lowest first; where nothing was lifted, their values."""
    title = f"By {table.label}"
    caption = f"{CHANGES} {table.held}".strip()
    rows = [
        IntervalRow(line.label, (_whisker(line, line.lift, unit),), _value(line.lift))
        for line in table.lines
        if line.lift
    ]
    if rows:
        text = f"What training changed for each group by {table.label}, the lowest change first."
        axis = LIFT_POINTS if _unit(table.lines) == "points" else Axis("", "number", (0.0, 0.0))
        return lift_figure(rows, Words(name, title, text, caption), axis=axis)
    lines = sorted(
        (line for line in table.lines if line.tuned or line.base),
        key=lambda line: row.value if (row := line.tuned or line.base) else 0.0,
    )
    text = f"Each group by {table.label}, the lowest value first."
    caption = f"Lowest first. {DOTS} {table.held}".strip()
    sections = [("", [_stages(line, unit, ceiling=False) for line in lines])]
    return dot_figure(sections, Words(name, title, text, caption), axis=_share_axis([("", lines)]))


def paper_figures(tables: Iterable[GroupTable], name: str, unit: str) -> list[Figure]:
    """Bars by country, region and what else the paper shows, and by region crossed with those; none
    where nobody's region or country is known."""
    tables = [table for table in tables if table.lines]
    if not any({"region", "birth_country"} & {*table.by.split(",")} for table in tables):
        return []
    figures: list[Figure] = []
    for table in tables:
        variables = table.by.split(",")
        crossed = len(variables) == 2 and "region" in variables
        if not set(variables) <= set(PAPER_VARIABLES) or not (crossed or len(variables) == 1):
            continue
        sections = (
            _by_region(table, variables.index("region"))
            if crossed
            else [("", sorted(table.lines, key=_height, reverse=True))]
        )
        parts = [
            (heading, [_stages(line, unit, ceiling=False) for line in lines])
            for heading, lines in sections
        ]
        words = Words(
            f"{name}-{len(figures) + 1}",
            f"By {table.label}",
            f"Each group by {table.label}, as bars.",
            f"{BARS} {table.held}".strip(),
        )
        if figure := bar_figure(parts, words, axis=_share_axis(sections)):
            figures.append(figure)
    return figures


def ablation_figure(ablation: Ablation, name: str, unit: str) -> Figure | None:
    """acc@0 under each prompt; contrasts stand in the table."""
    lines = [line for line in ablation.lines if unit_of(line.metric) == "share"]
    rows = [_stages(line, unit) for line in lines]
    words = Words(name, ablation.heading, f"{ablation.caption}. {ablation.verdict}", DOTS)
    return dot_figure([("", rows)], words)


def _by_region(table: GroupTable, region: int) -> list[Section]:
    found: dict[str, list[Line]] = {}
    for line in table.lines:
        row = line.tuned or line.base
        if row is not None:
            groups = CROSSED.split(row.group)
            other = ", ".join(group for at, group in enumerate(groups) if at != region)
            found.setdefault(groups[region], []).append(
                Line(other, line.metric, line.base, line.tuned, line.lift)
            )
    return sorted(found.items())


def _height(line: Line) -> float:
    row = line.tuned or line.base
    return row.value if row else 0.0


def _stages(line: Line, unit: str, *, ceiling: bool = True) -> IntervalRow:
    rows = [row for row in (line.base, line.tuned) if row]
    limit = line.ceiling if ceiling else None
    of_group = limit is not None and limit.group_by != ""
    kind = "best value-blind model" if of_group else "value-blind ceiling"
    return IntervalRow(
        line.label,
        tuple(_whisker(line, row, unit) for row in rows),
        " → ".join(map(_value, rows)),
        limit.value if limit else None,
        f"{line.label}: {kind} {shown(limit)}" if limit else "",
    )


def _whisker(line: Line, row: Row, unit: str) -> Whisker:
    change = is_change(row.metric)
    what = f"{shown(row)} points" if unit_of(row.metric) == "points" else shown(row)
    return Whisker(
        row.stage,
        row.value,
        row.low,
        row.high,
        f"{line.label}: {'change' if change else row.stage} {what},"
        f" {row.n} pairs, {row.users} {unit}",
    )


def _value(row: Row | None) -> str:
    return shown(row).partition(" [")[0]


def _unit(lines: Sequence[Line]) -> Unit:
    return next((unit_of(line.lift.metric) for line in lines if line.lift), "number")


def _share_axis(sections: Sequence[tuple[str, Sequence[Line]]]) -> Axis:
    metrics = {line.metric for _, lines in sections for line in lines}
    return SHARE if all(unit_of(metric) == "share" for metric in metrics) else Axis("", "number")


def drawn(figures: Iterable[Figure | None]) -> list[Figure]:
    """Those that have something to show."""
    return [figure for figure in figures if figure is not None]
