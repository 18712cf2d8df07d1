"""A metric as a value: its name, kind and label, which direction is better, and its formula.

Means, intervals, breakdowns, tables and aggregates read these values. `metrics.table` lists all of
them; `metrics.names` has what is derived from a metric (`_lift`, `_gap` ...).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

T = TypeVar("T")

LIFT = "_lift"
"""After a metric's name: tuned minus base on the same pairs."""

SE, BOOTSTRAP, DEFF, P, P_HOLM = "_se", "_bootstrap", "_deff", "_p", "_p_holm"
WORST, GAP, BETTER, WORSE, SUPPRESSED, SHRUNK = (
    "_worst",
    "_gap",
    "_better_off",
    "_worse_off",
    "_suppressed",
    "_shrunk",
)
DERIVED = (SE, BOOTSTRAP, DEFF, P_HOLM, P, WORST, GAP, BETTER, WORSE, SUPPRESSED, SHRUNK)
"""After a metric's name: what is derived from it (`metrics.names`)."""

Kind = Literal[
    "share",
    "difference",
    "second_difference",
    "nats",
    "divergence",
    "perplexity",
    "ratio",
    "agreement",
    "number",
]
"""What a value is: a share from 0 to 1; a paired difference of two shares; one of two such
differences; nats a token; nats a token from 0 up; a perplexity, from 1 up; a share of something,
which may pass 1; Krippendorff's alpha, up to 1; any number."""

BOUNDS: dict[Kind, tuple[float, float]] = {
    "share": (0.0, 1.0),
    "difference": (-1.0, 1.0),
    "second_difference": (-2.0, 2.0),
    "nats": (-math.inf, math.inf),
    "divergence": (0.0, math.inf),
    "perplexity": (1.0, math.inf),
    "ratio": (0.0, math.inf),
    "agreement": (-math.inf, 1.0),
    "number": (-math.inf, math.inf),
}
"""What a mean of that kind can be at all: intervals are kept inside."""

OF_LIFT: dict[Kind, Kind] = {
    "share": "difference",
    "difference": "second_difference",
    "nats": "nats",
    "divergence": "nats",
}
"""What the difference of two means of that kind is, where it is not just any number."""

UNITS: dict[Kind, str] = {
    "share": "%",
    "difference": "points",
    "second_difference": "points",
    "nats": "nats/token",
    "divergence": "nats/token",
    "ratio": "%",
}
"""How it is shown: shares times 100. Kinds that are not here have no unit."""


@dataclass(frozen=True, slots=True)
class Metric(Generic[T]):
    """`name` may hold places, as `paa/<preset>/loss`: then it is a family, and
    `table.metric_named` gives its members. An empty `label` is the name without `opa/`.

    `higher_is_better` is None where neither end is: such a metric has no worst group, and nobody is
    better off by it. `lifted`: tuned minus base, pair by pair, says what training did.
    """

    name: str
    kind: Kind
    label: str
    higher_is_better: bool | None = None
    lifted: bool = False
    per_pair: Callable[[T], float] | None = None
    """Computes the value of one pair; the metric is the mean of these. None for metrics that are
    not means over pairs. T is the type of its argument, such as `PairScore`."""
    by_group: bool = False
    """Whether runs report it by group. `mvp-align stats` reports every metric by group."""
    headline: bool = False
    """Whether runs report its lift."""
    beside: str = ""
    """The metric to compare it with, below which tables show it."""
    same_for_every_model: bool = False
    """Whether it depends on the pairs only."""

    @property
    def unit(self) -> str:
        return UNITS.get(self.kind, "")

    def of(self, pairs: Iterable[T]) -> list[float]:
        """Return the value of each pair. Raises ValueError if it is not a mean over pairs."""
        if self.per_pair is None:
            raise ValueError(f"{self.name} is no mean over pairs")
        return [self.per_pair(pair) for pair in pairs]


def kind_of_lift(kind: Kind) -> Kind:
    """What the difference of two values of that kind is."""
    return OF_LIFT.get(kind, "number")
