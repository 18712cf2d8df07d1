"""Curves: no peak is lost, no number that is none is drawn."""

import pytest
from drawn_marks import drawn_marks
from hypothesis import given
from hypothesis import strategies as st

from mvp_align.figures.curve_figure import MOST_POINTS, CurveLine, curve_figure, thinned
from mvp_align.figures.figure import Words

WORDS = Words("loss", "Loss", "The loss.", "Of each step.")


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=3 * MOST_POINTS))
def test_thinned_curves_keep_their_extremes_and_are_of_the_curve(values: list[int]) -> None:
    steps = [2 * at for at in range(len(values))]
    kept = thinned(steps, values)
    assert len(kept) <= MOST_POINTS
    assert set(kept) <= set(zip(steps, values, strict=True))
    assert [step for step, _ in kept] == sorted({step for step, _ in kept})
    assert {min(values), max(values)} <= {value for _, value in kept}
    if len(values) <= MOST_POINTS:
        assert len(kept) == len(values)


def test_evaluations_are_points_on_their_line() -> None:
    lines = [
        CurveLine("train/loss", [1, 2, 3], [0.7, 0.6, 0.5]),
        CurveLine("eval/in_domain", [0, 3], [0.25, 0.75], dots=True),
    ]
    figure = curve_figure(lines, WORDS, unit="share")
    assert figure is not None
    marks = drawn_marks(figure.svg())
    first, last = (marks[f"eval/in_domain, step {step}: {value}"] for step, value in
                   [(0, "25.0 %"), (3, "75.0 %")])  # fmt: skip
    assert len(marks) == 2 and first[0] < last[0] and first[1] > last[1]


def test_what_cannot_be_drawn_is_refused() -> None:
    assert curve_figure([CurveLine("train/loss", [], [])], WORDS) is None
    with pytest.raises(ValueError, match="called alike"):
        curve_figure([CurveLine("a", [1], [1.0]), CurveLine("a", [1], [2.0])], WORDS)
    with pytest.raises(ValueError, match="no finite number"):
        CurveLine("a", [1], [float("nan")])
    with pytest.raises(ValueError, match="1 steps, 2 values"):
        CurveLine("a", [1], [1.0, 2.0])
