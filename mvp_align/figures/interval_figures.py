"""Values with their intervals, a row for each group: dots that are compared, changes that are
sorted, bars.

The label of a row stands above it and not beside it, so that a narrow screen shows all of both.
"""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mvp_align.figures.axis import LIFT_POINTS, SHARE, Axis
from mvp_align.figures.figure import Figure, Words, new_figure

HEAD, TEXT, GAP, LINE, FOOT = 30, 15, 4, 11, 9
"""Heights in pixels: of a section's heading, of a line of a row's label, between it and the marks,
of each mark in a row, below it."""
LETTERS = 32
"""Of a line of a label: as many as fit a phone beside the numbers. Longer labels are wrapped."""

STAGES = {"base": "base model", "tuned": "tuned model"}


@dataclass(frozen=True, slots=True)
class Whisker:
    """A value and its interval, where there is one. `says` is how it reads in words."""

    series: str
    value: float
    low: float | None
    high: float | None
    says: str


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """One group: what is known of it, its numbers in words, and what it cannot pass."""

    label: str
    whiskers: tuple[Whisker, ...]
    values: str = ""
    ceiling: float | None = None
    ceiling_says: str = ""


Sections = Sequence[tuple[str, Sequence[IntervalRow]]]
"""Headings, which may be empty, with the rows under each."""


def dot_figure(sections: Sections, words: Words, *, axis: Axis = SHARE) -> Figure | None:
    """Draw a dot with a whisker for each value, the base model's as a ring, and ceilings as upright
    strokes. None where no row has a value."""
    layout = _laid_out(sections)
    if not layout.marks:
        return None
    x = axis.along_x(layout.values())
    layers = [*_frame(layout), *_whiskers(layout, x), *_ceilings(layout, x), _dots(layout, x)]
    return _layered(layers, layout, words)


def lift_figure(
    rows: Sequence[IntervalRow], words: Words, *, axis: Axis = LIFT_POINTS
) -> Figure | None:
    """Draw one change a row, the lowest first, coloured by whether its interval leaves zero out.

    Rows of equal change keep their order. None where no row has a value. Raises ValueError where a
    row has several.
    """
    if several := [row.label for row in rows if len(row.whiskers) > 1]:
        raise ValueError(f"{several[0]}: one change belongs in a row")
    drawn = sorted((row for row in rows if row.whiskers), key=lambda row: row.whiskers[0].value)
    layout = _laid_out([("", drawn)], series=_direction)
    if not layout.marks:
        return None
    x = axis.along_x(layout.values())
    layers = [*_frame(layout), _zero(layout, x), *_whiskers(layout, x), _dots(layout, x)]
    return _layered(layers, layout, words)


def bar_figure(sections: Sections, words: Words, *, axis: Axis = SHARE) -> Figure | None:
    """Draw a bar from zero for each value, with its whisker. None where no row has a value."""
    layout = _laid_out(sections)
    if not layout.marks:
        return None
    x = axis.along_x([0.0, *layout.values()])
    layers = [*_frame(layout), _bars(layout, x), *_whiskers(layout, x, over=True)]
    return _layered(layers, layout, words)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Every mark with its height `y` in pixels from the top."""

    heads: list[dict[str, Any]]
    labels: list[dict[str, Any]]
    marks: list[dict[str, Any]]
    ceilings: list[dict[str, Any]]
    height: int

    def values(self) -> list[float | None]:
        return [mark[key] for mark in self.marks for key in ("value", "low", "high")] + [
            mark["value"] for mark in self.ceilings
        ]

    def series(self) -> list[str]:
        found = {mark["series"] for mark in self.marks}
        return [name for name in COLOURS if name in found]


COLOURS: Mapping[str, str] = {
    "base model": "var(--base)",
    "tuned model": "var(--tuned)",
    "fell": "var(--ceiling)",
    "no change shown": "var(--base)",
    "rose": "var(--tuned)",
}
"""What a dot is called in the legend, and its colour."""
HOLLOW = dict.fromkeys(("base model", "no change shown"), "var(--card)")
"""These are rings."""


def _stage(whisker: Whisker) -> str:
    return STAGES[whisker.series]


def _direction(whisker: Whisker) -> str:
    if whisker.low is not None and whisker.low > 0:
        return "rose"
    return "fell" if whisker.high is not None and whisker.high < 0 else "no change shown"


def _laid_out(sections: Sections, series: Callable[[Whisker], str] = _stage) -> _Layout:
    heads, labels, marks, ceilings = [], [], [], []
    y = 0
    for heading, rows in sections:
        if heading and rows:
            lines = textwrap.wrap(heading, LETTERS)
            heads.append({"text": lines, "y": y + HEAD - 10})
            y += HEAD + (len(lines) - 1) * TEXT
        for row in rows:
            lines = textwrap.wrap(row.label, LETTERS) or [""]
            labels.append({"label": lines, "values": row.values, "y": y + TEXT - 3})
            top = y + len(lines) * TEXT + GAP
            y = top + max(1, len(row.whiskers)) * LINE + FOOT
            if row.ceiling is not None:
                ceilings.append(
                    {"value": row.ceiling, "y": top, "y2": y - FOOT + 1}
                    | {"says": row.ceiling_says}
                )
            marks += [
                {
                    "value": one.value, "low": one.low, "high": one.high, "series": series(one),
                    "says": one.says, "y": top + at * LINE + LINE / 2,
                }
                for at, one in enumerate(row.whiskers)
            ]  # fmt: skip
    return _Layout(heads, labels, marks, ceilings, y)


def _layered(layers: Iterable[Any], layout: _Layout, words: Words) -> Figure:
    import altair as alt

    chart = alt.layer(*layers).properties(height=layout.height)
    return new_figure(chart, words)


def _y(layout: _Layout, field: str = "y") -> Any:
    import altair as alt

    scale = alt.Scale(domain=[0, layout.height], range=[0, layout.height], nice=False)
    return alt.Y(f"{field}:Q", scale=scale, axis=None)


def _frame(layout: _Layout) -> list[Any]:
    """Headings, labels on the left, numbers on the right."""
    import altair as alt

    def texts(values: list[dict[str, Any]], field: str, x: Any, **style: Any) -> Any:
        chart = alt.Chart(alt.Data(values=values))
        return chart.mark_text(aria=False, baseline="alphabetic", lineHeight=TEXT, **style).encode(
            x=alt.value(x), y=_y(layout), text=f"{field}:N"
        )

    return [
        texts(layout.heads, "text", 0, align="left", fontWeight=600),
        texts(layout.labels, "label", 0, align="left"),
        texts(layout.labels, "values", "width", align="right", fill="var(--quiet)", fontSize=12),
    ]


def _coloured(layout: _Layout, channel: Any, colours: Mapping[str, str]) -> Any:
    """The colours of the series, with one legend where there are several."""
    import altair as alt

    names = layout.series()
    scale = alt.Scale(domain=names, range=[colours[name] for name in names])
    return channel("series:N", scale=scale, legend=alt.Legend() if names[1:] else None)


def _chart(values: list[dict[str, Any]]) -> Any:
    import altair as alt

    return alt.Chart(alt.Data(values=values))


def _whiskers(layout: _Layout, x: Any, *, over: bool = False) -> list[Any]:
    """`over`: on bars, in the colour of the text."""
    import altair as alt

    bounded = [mark for mark in layout.marks if mark["low"] is not None]
    style = {"stroke": "var(--ink)", "strokeWidth": 1.5} if over else {"strokeWidth": 2}
    colour = {} if over else {"stroke": _coloured(layout, alt.Stroke, COLOURS)}
    ends = {"x": _at(x, "low"), "x2": "high:Q", "y": _y(layout)}
    return [
        _chart(bounded).mark_rule(aria=False, tooltip=None, **style).encode(**ends, **colour)
    ] * bool(bounded)


def _at(x: Any, field: str) -> Any:
    """The position `x`, of another field."""
    found = x.copy()
    found.shorthand = f"{field}:Q"
    return found


def _says() -> dict[str, Any]:
    import altair as alt

    return {"description": alt.Description("says:N"), "tooltip": alt.Tooltip("says:N")}


def _dots(layout: _Layout, x: Any) -> Any:
    import altair as alt

    return (
        _chart(layout.marks)
        .mark_point(size=72, strokeWidth=2, opacity=1, ariaRoleDescription="value")
        .encode(
            x=x,
            y=_y(layout),
            stroke=_coloured(layout, alt.Stroke, COLOURS),
            fill=_coloured(layout, alt.Fill, {**COLOURS, **HOLLOW}),
            **_says(),
        )
    )


def _bars(layout: _Layout, x: Any) -> Any:
    import altair as alt

    return (
        _chart([{**mark, "zero": 0.0} for mark in layout.marks])
        .mark_bar(height=LINE - 3, ariaRoleDescription="value")
        .encode(
            x=_at(x, "zero"),
            x2="value:Q",
            y=_y(layout),
            fill=_coloured(layout, alt.Fill, COLOURS),
            **_says(),
        )
    )


def _ceilings(layout: _Layout, x: Any) -> list[Any]:
    style = {"stroke": "var(--ceiling)", "strokeWidth": 2.5, "ariaRoleDescription": "ceiling"}
    return [
        _chart(layout.ceilings).mark_rule(**style).encode(x=x, y=_y(layout), y2="y2:Q", **_says())
    ] * bool(layout.ceilings)


def _zero(layout: _Layout, x: Any) -> Any:
    line = [{"value": 0.0, "y": 0, "y2": layout.height}]
    return (
        _chart(line)
        .mark_rule(aria=False, stroke="var(--quiet)", strokeDash=[3, 3])
        .encode(x=x, y=_y(layout), y2="y2:Q")
    )
