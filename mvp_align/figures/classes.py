"""Classes of values for a map, with the colour of each.

A map in few classes can be read against its legend; one in shades that run into each other cannot.
"""

from collections.abc import Sequence
from math import floor

from mvp_align.figures.axis import Unit
from mvp_align.figures.theme import FELL_ROSE, MORE

STEPS = tuple(round(part * 10.0**power, 9) for power in range(-2, 7) for part in (1, 2, 5))
"""Widths that a class may have: of numbers; shares and their changes have whole points."""


def value_classes(values: Sequence[float], unit: Unit) -> tuple[dict[str, str], list[str]]:
    """Cut what the values span into at most six classes of one round width.

    Returns the classes' labels with their colours, from the lowest up, and the label of each value.
    A class holds its lower end; the highest possible one (up to 100 %, or the end of the changes)
    holds its upper end too. Changes (`points`) have three classes below zero and three above.
    """
    scaled = [round(value if unit == "number" else 100 * value, 9) for value in values]
    steps = [step for step in STEPS if unit == "number" or step >= 1]
    if unit == "points":
        step = next(step for step in steps if max(map(abs, scaled)) <= 3 * step)
        low, high, colours = -3, 2, FELL_ROSE
    else:
        step = next(
            step for step in steps if _place(max(scaled), step) - _place(min(scaled), step) < 6
        )
        low, high = _place(min(scaled), step), _place(max(scaled), step)
        if unit == "share":
            high = min(high, round(100 / step) - 1)
            low = min(low, high)
        colours = _spread(high - low + 1)
    labels = [_label(place, step, unit) for place in range(low, high + 1)]
    places = [min(_place(value, step), high) for value in scaled]
    return dict(zip(labels, colours, strict=True)), [labels[place - low] for place in places]


def _place(value: float, step: float) -> int:
    """Which class of this width a value is in; 0.6 is three times 0.2, whatever floats say."""
    return floor(round(value / step, 9))


def _spread(count: int) -> tuple[str, ...]:
    """So many of the colours, as far apart as can be."""
    if count == 1:
        return MORE[3:4]
    return tuple(MORE[round(at * (len(MORE) - 1) / (count - 1))] for at in range(count))


def _label(place: int, step: float, unit: Unit) -> str:
    sign = "+" if unit == "points" else ""
    low, high = (f"{end * step:{sign if end else ''}.6g}" for end in (place, place + 1))
    return f"{low} to {high}" + (" %" if unit == "share" else "")
