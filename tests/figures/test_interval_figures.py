"""Dots, changes and bars: every value is where its axis says, and nothing else is drawn."""

import json

import pytest
from drawn_marks import drawn_marks
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_align.figures.axis import Axis
from mvp_align.figures.figure import Words
from mvp_align.figures.interval_figures import (
    IntervalRow,
    Whisker,
    bar_figure,
    dot_figure,
    lift_figure,
)

WORDS = Words("f", "acc@0 by group", "acc@0", "Dots.")
HOSTILE = "</script><script>alert(1)</script> & שלום 🎉 of a very long name indeed"


def whisker(series: str, value: float, label: str = "") -> Whisker:
    return Whisker(series, value, value - 0.05, value + 0.05, f"{label} {series} {value:.17g}")


def lift(label: str, value: float, half: float) -> IntervalRow:
    return IntervalRow(label, (Whisker("tuned", value, value - half, value + half, label),))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=4, unique=True))
def test_a_dot_stands_where_its_value_is(values: list[float]) -> None:
    rows = [
        IntervalRow(
            f"group {at}", (whisker("base", value, str(at)), whisker("tuned", 0.5, str(at)))
        )
        for at, value in enumerate(values)
    ]
    figure = dot_figure([("Groups", rows)], WORDS, axis=Axis("", "share", (-0.1, 1.1)))
    assert figure is not None
    marks = drawn_marks(figure.svg(width=500))
    assert len(marks) == 2 * len(values)
    low, high = figure.spec["layer"][-1]["encoding"]["x"]["scale"]["domain"]
    halves = {x for label, (x, _) in marks.items() if "tuned" in label}
    assert len(halves) == 1  # all of them are at 0.5
    width = halves.pop() / ((0.5 - low) / (high - low))
    for at, value in enumerate(values):
        x, y = marks[f"{at} base {value:.17g}"]
        assert x == pytest.approx(width * (value - low) / (high - low), abs=0.01)
        assert marks[f"{at} tuned {0.5:.17g}"][1] > y, "base and tuned lie on each other"


def test_a_group_without_a_value_has_no_mark() -> None:
    rows = [IntervalRow("held back", ()), IntervalRow("a", (whisker("base", 0.4),))]
    figure = dot_figure([("", rows)], WORDS)
    assert figure is not None
    assert len(drawn_marks(figure.svg())) == 1
    for draw in (dot_figure, bar_figure):
        assert draw([("", [IntervalRow("held back", ())])], WORDS) is None
    assert lift_figure([IntervalRow("held back", ())], WORDS) is None


def test_a_value_without_interval_has_no_whisker() -> None:
    row = IntervalRow("one person", (Whisker("tuned", 1.0, None, None, "1 of 1"),))
    figure = dot_figure([("", [row])], WORDS)
    assert figure is not None
    assert "mark-rule role-mark" not in figure.svg()
    assert list(drawn_marks(figure.svg())) == ["1 of 1"]


def test_changes_are_sorted_and_told_apart_by_their_intervals() -> None:
    rows = [lift("up", 0.3, 0.1), lift("none", 0.1, 0.2), lift("down", -0.3, 0.1)]
    figure = lift_figure(rows, WORDS)
    assert figure is not None
    marks = drawn_marks(figure.svg())
    assert sorted(marks, key=lambda label: marks[label][1]) == ["down", "none", "up"]
    dots = figure.spec["layer"][-1]["data"]["values"]
    assert {one["says"]: one["series"] for one in dots} == {
        "down": "fell",
        "none": "no change shown",
        "up": "rose",
    }
    with pytest.raises(ValueError, match="one change belongs in a row"):
        lift_figure([IntervalRow("a", (whisker("base", 0.1), whisker("tuned", 0.2)))], WORDS)


def test_ceilings_and_bars_are_drawn() -> None:
    row = IntervalRow("a", (whisker("base", 0.4),), "40.0", 0.7, "ceiling 70 %")
    figure = dot_figure([("", [row])], WORDS)
    assert figure is not None
    assert list(drawn_marks(figure.svg(), "ceiling")) == ["ceiling 70 %"]
    bars = bar_figure([("", [row])], WORDS)
    assert bars is not None
    assert len(drawn_marks(bars.svg())) == 1


def test_the_same_figure_gives_the_same_bytes_and_no_text_is_markup() -> None:
    rows = [IntervalRow(HOSTILE, (whisker("base", 0.4, HOSTILE),))]
    figure = dot_figure([(HOSTILE, rows)], WORDS)
    assert figure is not None
    assert figure.svg() == figure.svg()
    assert "<script" not in figure.svg() and "var(" not in figure.svg()
    assert "</script" not in figure.json()
    assert json.loads(figure.json()) == figure.spec
