"""Positions of all marks in the report's dot-and-whisker chart.

The template draws them; nothing here knows SVG syntax.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mvp_align.metrics.rows import Row
from mvp_align.reporting.results import Line, Section, shown

LEFT, PLOT, RIGHT = 178.0, 424.0, 148.0
"""Widths of labels, plot and values, in SVG units."""

ROW, HEAD, TOP, FOOT = 34.0, 30.0, 8.0, 38.0
APART = 5.0
"""How far base is above and tuned below the middle of a row, so that whiskers do not overlap."""


@dataclass(frozen=True)
class Dot:
    stage: str
    x: float
    y: float
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True)
class Band:
    """One group: its label, dots, and what the best model that ignores who is asking reaches."""

    label: str
    y: float
    dots: tuple[Dot, ...]
    ceiling: float | None
    ceiling_text: str
    values: str


@dataclass(frozen=True)
class Chart:
    width: float
    height: float
    left: float
    right: float
    bottom: float
    heads: tuple[tuple[str, float], ...]
    bands: tuple[Band, ...]
    ticks: tuple[tuple[int, float], ...]
    has_ceiling: bool


def chart(sections: Sequence[Section]) -> Chart | None:
    """Chart acc@0 of the groups in titled sections, on an axis from 0 to 100 %.

    Returns None if no section has a group.
    """
    heads, bands, y = [], [], TOP
    for title, lines in sections:
        if not lines:
            continue
        heads.append((title, y + HEAD - 9))
        y += HEAD
        for line in lines:
            bands.append(_band(line, y + ROW / 2))
            y += ROW
    if not bands:
        return None
    return Chart(
        width=LEFT + PLOT + RIGHT,
        height=y + FOOT,
        left=LEFT,
        right=LEFT + PLOT,
        bottom=y + 4,
        heads=tuple(heads),
        bands=tuple(bands),
        ticks=tuple((percent, _across(percent / 100)) for percent in (0, 25, 50, 75, 100)),
        has_ceiling=any(band.ceiling is not None for band in bands),
    )


def _band(line: Line, y: float) -> Band:
    both = line.base is not None and line.tuned is not None
    dots = tuple(
        _dot(row, y + shift if both else y)
        for row, shift in ((line.base, -APART), (line.tuned, APART))
        if row
    )
    ceiling = line.ceiling
    of_group = ceiling is not None and ceiling.group_by != ""
    return Band(
        label=line.label,
        y=y,
        dots=dots,
        ceiling=_across(ceiling.value) if ceiling else None,
        ceiling_text=f"{'best value-blind model' if of_group else 'value-blind ceiling'}"
        f" {shown(ceiling)}",
        values=" → ".join(shown(row).partition(" [")[0] for row in (line.base, line.tuned) if row),
    )


def _dot(row: Row, y: float) -> Dot:
    low, high = (
        (_across(row.low), _across(row.high))
        if row.low is not None and row.high is not None
        else (None, None)
    )
    text = f"{row.stage} {shown(row)}, {row.n} pairs, {row.users} users"
    return Dot(row.stage, _across(row.value), y, low, high, text)


def _across(share: float) -> float:
    return round(LEFT + PLOT * min(1.0, max(0.0, share)), 2)
