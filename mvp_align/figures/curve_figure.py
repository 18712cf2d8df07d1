"""Lines over the steps of training: one metric of one run, or of several over each other."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mvp_align.figures.axis import TICKS, Unit
from mvp_align.figures.figure import Figure, Words, new_figure
from mvp_align.figures.theme import DASHES, RUNS

MOST_POINTS = 600
"""Of a line: of each stretch of a longer one, the lowest and the highest value are drawn."""


@dataclass(frozen=True, slots=True)
class CurveLine:
    """`steps` [points] and `values` [points]. `dots`: each point is drawn, as of evaluations, which
    are few."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    dots: bool = False

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.values):
            raise ValueError(f"{self.label}: {len(self.steps)} steps, {len(self.values)} values")
        if not all(map(math.isfinite, (*self.steps, *self.values))):
            raise ValueError(f"{self.label}: a step or value is no finite number")


def curve_figure(
    lines: Sequence[CurveLine], words: Words, *, unit: Unit = "number", height: int = 200
) -> Figure | None:
    """Draw the lines over the steps, each with its own colour and dashes. None without a point.

    Raises ValueError where two lines have one label.
    """
    import altair as alt

    lines = [line for line in lines if line.steps]
    labels = [line.label for line in lines]
    if len(set(labels)) < len(labels):
        raise ValueError(f"two lines are called alike: {labels}")
    if not lines:
        return None
    points = [
        {"line": line.label, "step": step, "value": value, "course": _course(line, unit)}
        | {"says": f"{line.label}, step {step:g}: {_number(value, unit)}", "dots": line.dots}
        for line in lines
        for step, value in thinned(line.steps, line.values)
    ]
    dots = [point for point in points if point["dots"]]
    layers = [_lines(points, labels, unit), _under_pointer(points, labels, unit)]
    layers += [_dots(dots, labels, unit)] * bool(dots)
    return new_figure(alt.layer(*layers).properties(height=height), words)


Points = Sequence[Mapping[str, Any]]


def _lines(points: Points, labels: Sequence[str], unit: Unit) -> Any:
    import altair as alt

    dashes = [list(DASHES[at % len(DASHES)]) for at in range(len(labels))]
    scale = alt.Scale(domain=labels, range=dashes)
    return (
        _chart(points, labels, unit)
        .mark_line(strokeWidth=2, ariaRoleDescription="line")
        .encode(
            strokeDash=alt.StrokeDash("line:N", scale=scale, legend=_legend(labels)),
            description=alt.Description("course:N"),
        )
    )


def _course(line: CurveLine, unit: Unit) -> str:
    """Say where a line begins, ends, and is lowest and highest."""
    ends = [("", 0), ("", len(line.steps) - 1)]
    ends += [("lowest ", line.values.index(min(line.values)))]
    ends += [("highest ", line.values.index(max(line.values)))]
    said = (
        f"{what}{_number(line.values[at], unit)} at step {line.steps[at]:g}" for what, at in ends
    )
    return f"{line.label}: {', '.join(dict.fromkeys(said))}"


def _dots(points: Points, labels: Sequence[str], unit: Unit) -> Any:
    import altair as alt

    return (
        _chart(points, labels, unit)
        .mark_point(
            size=40, strokeWidth=2, opacity=1, fill="var(--card)", ariaRoleDescription="value"
        )
        .encode(description=alt.Description("says:N"), tooltip=alt.Tooltip("says:N"))
    )


def _under_pointer(points: Points, labels: Sequence[str], unit: Unit) -> Any:
    """What a pointer meets: unseen, and larger than the line."""
    import altair as alt

    chart = _chart(points, labels, unit)
    return chart.mark_point(size=120, opacity=0, filled=True, aria=False).encode(
        tooltip=alt.Tooltip("says:N")
    )


def _chart(points: Points, labels: Sequence[str], unit: Unit) -> Any:
    import altair as alt

    colours = [RUNS[at % len(RUNS)] for at in range(len(labels))]
    scale = alt.Scale(domain=labels, range=colours)
    axis = alt.Axis(title="step", grid=False, tickMinStep=1, tickCount=5, labelFlush=True)
    return alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("step:Q", axis=axis),
        y=alt.Y(
            "value:Q",
            scale=alt.Scale(zero=False),
            axis=alt.Axis(title=None, labelExpr=TICKS[unit], tickCount=5),
        ),
        stroke=alt.Stroke("line:N", scale=scale, legend=_legend(labels)),
    )


def _legend(labels: Sequence[str]) -> Any:
    import altair as alt

    return alt.Legend(columns=2, symbolType="stroke") if labels[1:] else None


def thinned(steps: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` of the points: of each stretch of steps the lowest and the highest
    value, so that no peak is lost; all points where they are no more."""
    points = list(zip(steps, values, strict=True))
    if len(points) <= MOST_POINTS:
        return points
    stretches = MOST_POINTS // 2
    kept = set()
    for at in range(stretches):
        start, stop = at * len(points) // stretches, (at + 1) * len(points) // stretches
        kept.add(min(range(start, stop), key=values.__getitem__))
        kept.add(max(range(start, stop), key=values.__getitem__))
    return [points[at] for at in sorted(kept)]


def _number(value: float, unit: Unit) -> str:
    if unit == "number":
        return f"{value:.4g}"
    return f"{100 * value:.1f} %" if unit == "share" else f"{100 * value:+.1f} points"
