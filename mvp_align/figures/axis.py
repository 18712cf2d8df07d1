"""The axis of values that a figure draws against: its unit, and how far it reaches."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Unit = Literal["share", "points", "number"]
"""A share, shown times 100 with %; a difference of shares, times 100 with its sign; any number."""

TICKS: dict[Unit, str] = {
    "share": "format(datum.value * 100, '.3~r') + ' %'",
    "points": "datum.value ? format(datum.value * 100, '+.3~r') : '0'",
    "number": "format(datum.value, '.3~r')",
}


@dataclass(frozen=True, slots=True)
class Axis:
    title: str
    unit: Unit
    at_least: tuple[float, float] | None = None
    """What is shown whatever the values are, such as all of 0 to 1."""

    def domain(self, values: Iterable[float | None]) -> list[float]:
        """From the lowest value to the highest, with what is shown in any case."""
        found = [value for value in values if value is not None] + list(self.at_least or ())
        low, high = min(found), max(found)
        return [low, high] if low < high else [low - 0.5, high + 0.5]

    def along_x(self, values: Iterable[float | None]) -> Any:
        """The horizontal position of `value`."""
        import altair as alt

        return alt.X(
            "value:Q",
            scale=alt.Scale(domain=self.domain(values), zero=False, nice=False),
            axis=alt.Axis(
                title=self.title or None, labelExpr=TICKS[self.unit], tickCount=5, labelFlush=True
            ),
        )


SHARE = Axis("", "share", (0.0, 1.0))
LIFT_POINTS = Axis("percentage points", "points", (0.0, 0.0))
