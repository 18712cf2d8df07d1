"""How long texts are, and whether the preferred answer is the longer one."""

from collections.abc import Callable, Sequence

Length = Callable[[str], int]

LENGTHS: dict[str, Length] = {"characters": len, "words": lambda text: len(text.split())}
PERCENTILES = (1, 5, 25, 50, 75, 95, 99, 100)


def longer_values(answers: Sequence[tuple[str, str]], length: Length) -> list[float]:
    """Return 1.0 for each (preferred, other) answer whose preferred one is longer, 0.5 for a tie,
    else 0.0."""
    sizes = [(length(preferred), length(other)) for preferred, other in answers]
    return [(a > b) + 0.5 * (a == b) for a, b in sizes]


def longer_share(answers: Sequence[tuple[str, str]], length: Length) -> float:
    """Return the share of (preferred, other) answers whose preferred one is longer.

    A tie counts as one half. Chance is 0.5.
    """
    return sum(longer_values(answers, length)) / len(answers)
