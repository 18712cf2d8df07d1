"""What is derived from a metric, and what its name then says.

A metric of pairs (`opa/acc@0`, a name of `metrics.table`) has a mean for the whole set and for
each group. What is derived from it appends a word: `opa/acc@0_gap`. `_lift` is tuned minus base on
the same pairs, `_vs_RUN_lift` this run minus RUN; both are metrics of pairs themselves, so
`opa/acc@0_lift_gap` is how unlike the lifts of groups are.
"""

from functools import cache
from typing import Any

from mvp_align.metrics.metric import (
    BOOTSTRAP,
    DERIVED,
    GAP,
    LIFT,
    SHRUNK,
    WORST,
    Kind,
    Metric,
    kind_of_lift,
)
from mvp_align.metrics.table import metric_named

VERSUS = "_vs_"

SIGNED = ("", WORST, BOOTSTRAP, SHRUNK)
"""Of a lift these are changes themselves."""


def is_derived(metric: str) -> bool:
    """Whether it is no mean of a set or group: a lift, or what is derived from a metric."""
    return metric.endswith((LIFT, *DERIVED))


def derivation(metric: str) -> str:
    """`_gap` of `opa/acc@0_lift_gap`; empty for a metric of pairs."""
    return next((word for word in DERIVED if metric.endswith(word)), "")


def family(metric: str) -> str:
    """`opa/acc@0` of `opa/acc@0_lift_gap`, and `opa/acc@0_vs_other` of
    `opa/acc@0_vs_other_lift_gap`: the metric, or the comparison, that it is about."""
    return metric.removesuffix(derivation(metric)).removesuffix(LIFT)


def base_metric(metric: str) -> str:
    """`opa/margin` of `opa/margin_vs_other_lift_gap`: what a model is measured by."""
    return family(metric).partition(VERSUS)[0]


@cache
def measure(metric: str) -> Metric[Any]:
    """The metric that a name, derived or not, is about. Raises UserError where there is none."""
    return metric_named(base_metric(metric))


def in_percent(metric: str) -> bool:
    """Whether its means are shown times 100."""
    return measure(metric).unit == "%"


def is_change(metric: str) -> bool:
    """Whether it is a difference, which is shown signed and in points: a lift, a group's lift, or a
    gap."""
    word = derivation(metric)
    return word == GAP or (metric.removesuffix(word).endswith(LIFT) and word in SIGNED)


@cache
def kind_of(metric: str) -> Kind:
    """What the values of a metric of pairs are. Raises UserError where the metric is unknown."""
    kind = measure(metric).kind
    rest = metric
    while rest.endswith(LIFT):
        kind, rest = kind_of_lift(kind), rest.removesuffix(LIFT)
    return kind
