"""Do judges say the same? Krippendorff's alpha over all, Cohen's kappa of each two, from a matrix
of their labels.

A matrix is one list of labels a judge, all over the same items; None where that judge gave no
label.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, TypeVar

import krippendorff
import numpy as np

Labels = Sequence[str | None]
T = TypeVar("T")
Scale = Literal["nominal", "ordinal", "interval"]


@dataclass(frozen=True, slots=True)
class Kappa:
    """Cohen's kappa of two judges over the `items` that both labelled; None where chance alone
    explains all agreement."""

    judges: tuple[str, str]
    kappa: float | None
    agreement: float | None
    """The share of items with the same label; None where there is no item."""
    items: int


def label_alpha(labels: Mapping[str, Labels], order: Sequence[str] = ()) -> float | None:
    """Krippendorff's alpha (2004, Content Analysis, chapter 11) of labels: 1 is perfect agreement,
    0 what chance gives.

    With `order` (such as `("L", "TIE", "W")`) they are ordinal, else nominal. None where it is not
    defined: no item with two labels, or one label throughout. Raises ValueError where judges
    labelled different numbers of items, or a label is not in `order`.
    """
    rows = _matrix(labels)
    known = list(order) or sorted({label for row in rows for label in row if label is not None})
    unknown = {label for row in rows for label in row if label is not None} - set(known)
    if unknown:
        raise ValueError(f"labels outside {known}: {sorted(unknown)}")
    places = {label: float(place) for place, label in enumerate(known)}
    numbers = [[np.nan if label is None else places[label] for label in row] for row in rows]
    return _alpha(np.array(numbers), "ordinal" if order else "nominal")


def score_alpha(scores: Mapping[str, Sequence[float | None]]) -> float | None:
    """Krippendorff's alpha of numeric scores (0-100), as an interval scale. None and ValueError as
    in `label_alpha`."""
    rows = _matrix(scores)
    if any(score is not None and not math.isfinite(score) for row in rows for score in row):
        raise ValueError("a score is no finite number; one that is missing is None")
    return _alpha(
        np.array([[np.nan if score is None else float(score) for score in row] for row in rows]),
        "interval",
    )


def _alpha(data: np.ndarray[tuple[int, ...], np.dtype[np.float64]], scale: Scale) -> float | None:
    """`data` [judges, items], nan where missing."""
    paired = data[:, np.isfinite(data).sum(axis=0) > 1] if data.size else data
    if not paired.size or len(np.unique(paired[np.isfinite(paired)])) < 2:
        return None
    return float(krippendorff.alpha(reliability_data=paired, level_of_measurement=scale))


def kappas(labels: Mapping[str, Labels]) -> list[Kappa]:
    """Cohen's kappa (1960, Educational and Psychological Measurement 20) of each two judges, over
    items that both labelled.

    Raises ValueError where judges labelled different numbers of items.
    """
    _matrix(labels)
    found = []
    for one, other in combinations(labels, 2):
        both = [
            (a, b)
            for a, b in zip(labels[one], labels[other], strict=True)
            if a is not None and b is not None
        ]
        if not both:
            found.append(Kappa((one, other), None, None, 0))
            continue
        n = len(both)
        agreed = sum(a == b for a, b in both) / n
        first, second = Counter(a for a, _ in both), Counter(b for _, b in both)
        chance = sum(first[label] * second[label] for label in first) / n**2
        found.append(
            Kappa((one, other), (agreed - chance) / (1 - chance) if chance < 1 else None, agreed, n)
        )
    return found


def _matrix(rows: Mapping[str, Sequence[T]]) -> list[Sequence[T]]:
    if len({len(row) for row in rows.values()}) > 1:
        lengths = {judge: len(row) for judge, row in rows.items()}
        raise ValueError(f"judges of different numbers of items: {lengths}")
    return list(rows.values())
