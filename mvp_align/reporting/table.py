"""A table as a value: what it is called, its columns, and rows of texts, counts and numbers.

Numbers keep full precision and their bounds; `reporting.table_formats` renders tables for the
terminal, as CSV, LaTeX, Markdown and JSON.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mvp_align.metrics.metric import BETTER, DEFF, P_HOLM, SUPPRESSED, WORSE, Kind, P
from mvp_align.metrics.names import derivation, in_percent, is_change, kind_of, measure
from mvp_align.metrics.rows import Row


@dataclass(frozen=True, slots=True)
class Style:
    """How numbers are shown: times `factor`, with `digits` after the point.

    `unit` is that of the number itself, before `factor`. What is less than half of `least`, if it
    is given, is shown as `< least`.
    """

    unit: str
    factor: float
    digits: int
    least: float | None = None

    def text(self, value: float, *, signed: bool = False) -> str:
        """Format `value`, as `12.3`, `+1.0` or `< 0.001`."""
        if self.least is not None and value < self.least / 2:
            return f"< {self.least:g}"
        rounded = round(self.factor * value, self.digits) + 0.0  # + 0.0 turns -0.0 into 0.0
        return f"{rounded:+.{self.digits}f}" if signed else f"{rounded:.{self.digits}f}"


SHARE = Style("share", 100, 1)
"""Shares from 0 to 1 and their differences, shown in percent and in points."""
RATIO = Style("ratio", 100, 1)
NATS = Style("nats/token", 1, 2)
PLAIN = Style("", 1, 2)
PROBABILITY = Style("p", 1, 3, least=0.001)

OF_KIND: dict[Kind, Style] = {
    "share": SHARE,
    "difference": SHARE,
    "second_difference": SHARE,
    "ratio": RATIO,
    "nats": NATS,
    "divergence": NATS,
}
"""Kinds that are not here are shown plainly."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number in full precision, with the bounds of its interval where it has one.

    `signed` is for changes: `+3.0`. Raises ValueError for what is not finite.
    """

    value: float
    low: float | None = None
    high: float | None = None
    style: Style = PLAIN
    signed: bool = False

    def __post_init__(self) -> None:
        _refuse_not_finite(self.value, self.low, self.high)

    @property
    def text(self) -> str:
        """The rounded value and its interval: `58.8 [51.2, 66.0]`."""
        value = self.style.text(self.value, signed=self.signed)
        if self.low is None or self.high is None:
            return value
        return f"{value} {Bounds(self.low, self.high, self.style).text}"


@dataclass(frozen=True, slots=True)
class Bounds:
    """An interval whose number stands in another column. Raises ValueError for what is not
    finite."""

    low: float
    high: float
    style: Style = PLAIN

    def __post_init__(self) -> None:
        _refuse_not_finite(self.low, self.high)

    @property
    def text(self) -> str:
        return f"[{self.style.text(self.low)}, {self.style.text(self.high)}]"


def _refuse_not_finite(*parts: float | None) -> None:
    for part in parts:
        if part is not None and not math.isfinite(part):
            raise ValueError(f"{part!r} is no finite number, so no table can show it")


def measured(row: Row | None) -> Number | None:
    """Return the number of a row of metrics.jsonl, shown by what its metric is."""
    if row is None:
        return None
    word = derivation(row.metric)
    if word in (P, P_HOLM):
        return Number(row.value, style=PROBABILITY)
    if word == DEFF:
        return Number(row.value, style=Style("ratio", 1, 2))
    if word == SUPPRESSED:
        return Number(row.value, style=Style("groups", 1, 0))
    if word in (BETTER, WORSE):
        return Number(row.value, row.low, row.high, SHARE)
    return Number(row.value, row.low, row.high, style_of(row.metric), is_change(row.metric))


def style_of(metric: str) -> Style:
    """Return how means of `metric`, derived or not, are shown."""
    if in_percent(metric):
        return RATIO if measure(metric).kind == "ratio" else SHARE
    return OF_KIND.get(kind_of(metric), PLAIN)


Cell = str | int | Number | Bounds | tuple[float, ...] | None
"""What a column holds. In columns of any kind None is what is not known, and an empty text what
the line above says, or what does not apply."""

ColumnKind = Literal["text", "count", "number", "estimate", "interval", "list"]
"""Texts stand left and may wrap, the others right and never do. An estimate is a number with an
interval, where it has one; an interval is that of a number in another column; a list is of numbers,
for programs."""

CELLS: dict[ColumnKind, type] = {
    "text": str,
    "count": int,
    "number": Number,
    "estimate": Number,
    "interval": Bounds,
    "list": tuple,
}


@dataclass(frozen=True, slots=True)
class Column:
    """`key` is its name in CSV and JSON, `heading` what people read (`key` if empty).

    Columns for one of the two alone are `only` so: `people` see a label, `programs` the name that
    it stands for.
    """

    key: str
    heading: str = ""
    kind: ColumnKind = "text"
    only: Literal["people", "programs"] | None = None

    @property
    def title(self) -> str:
        return self.heading or self.key


@dataclass(frozen=True, slots=True)
class ResultTable:
    """`name` is short and is a file's name or a key; `title` is a sentence for people.

    Raises ValueError where a row does not fit the columns.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    """What was left out and why, and what must be known to read it."""
    strong: frozenset[int] = frozenset()
    """Rows to read first."""
    rules: frozenset[int] = frozenset()
    """Rows that a line is drawn below."""
    restated: bool = False
    """Whether other tables have its numbers in full, so that programs need not read it."""
    framed: bool = True
    """Whether the terminal draws empty lines around it."""

    def __post_init__(self) -> None:
        for row in self.rows:
            for column, cell in zip(self.columns, row, strict=True):
                if cell not in (None, "") and not isinstance(cell, CELLS[column.kind]):
                    raise ValueError(f"{self.name}: {cell!r} in {column.key} is no {column.kind}")

    def places(self, reader: Literal["people", "programs"]) -> list[int]:
        """Return the places of the columns that are for `reader`."""
        return [place for place, column in enumerate(self.columns) if column.only in (None, reader)]
