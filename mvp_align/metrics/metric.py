"""Every metric as a value: what it is called, what kind of number it is, and which way is better.

Means, intervals, breakdowns, tables and aggregates read these values, and nothing else says what a
name means. A name that is not here is an error. What is derived from a metric (`_lift`, `_gap` ...)
stands in `evaluation.names`.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

from mvp_align.errors import UserError

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
class Metric:
    """`name` may hold places, as `paa/<preset>/loss`: then it is a family, and `metric_named` gives
    its members.

    `higher_is_better` is None where neither end is: such a metric has no worst group, and nobody is
    better off by it. `lifted`: tuned minus base, pair by pair, says what training did.
    """

    name: str
    kind: Kind
    label: str
    higher_is_better: bool | None = None
    lifted: bool = False

    @property
    def unit(self) -> str:
        return UNITS.get(self.kind, "")


ACC = "opa/acc@0"
CEILING = "opa/value_blind_ceiling"
SHARE_OF_CEILING = "opa/share_of_ceiling"

METRICS = (
    Metric("opa/acc@<d>", "share", "", higher_is_better=True, lifted=True),
    Metric("opa/mean", "share", "OPA (mean of acc@d)", higher_is_better=True, lifted=True),
    Metric("opa/margin", "nats", "mean margin, nats", higher_is_better=True, lifted=True),
    Metric("opa/chosen_shift", "nats", "chosen shift, nats"),
    Metric("opa/rejected_shift", "nats", "rejected shift, nats"),
    Metric("opa/prompt_free", "share", "without prompt", lifted=True),
    Metric("opa/length_only", "share", "length alone"),
    Metric(CEILING, "share", "value-blind ceiling"),
    Metric(SHARE_OF_CEILING, "ratio", "share of the ceiling", higher_is_better=True),
    Metric("opa/profile/<kind>", "share", "", lifted=True),
    Metric("opa/profile/<kind>/margin", "nats", "", lifted=True),
    Metric("answers/empty", "share", "answers: empty", higher_is_better=False, lifted=True),
    Metric(
        "answers/cut",
        "share",
        "answers: cut at the token limit",
        higher_is_better=False,
        lifted=True,
    ),
    Metric("spmr@<d>", "share", "SPMR at <d>", higher_is_better=True, lifted=True),
    Metric(
        "spmr_authors@<d>",
        "share",
        "SPMR at <d>, prompt included",
        higher_is_better=True,
        lifted=True,
    ),
    Metric(
        "paa/semantic",
        "share",
        "nearer the fitting text (semantic, no judge)",
        higher_is_better=True,
        lifted=True,
    ),
    Metric("paa/semantic/loss", "share", "nearer the contradicting one", higher_is_better=False),
    Metric("paa/semantic/tie", "share", "neither"),
    Metric("paa/<preset>", "share", "", higher_is_better=True, lifted=True),
    Metric("paa/<preset>/loss", "share", "", higher_is_better=False),
    Metric("paa/<preset>/tie", "share", ""),
    Metric("paa/<preset>/coverage", "share", "", higher_is_better=True),
    Metric("paa/<preset>/low", "share", "", higher_is_better=True),
    Metric("paa/<preset>/high", "share", "", higher_is_better=True),
    Metric("paa/<preset>/grid", "share", "", higher_is_better=True),
    Metric("paa/<preset>/alpha", "agreement", "", higher_is_better=True),
    Metric("paa/<preset>/alpha_scores", "agreement", "", higher_is_better=True),
    Metric("damage/kl", "divergence", "KL to the base, nats", higher_is_better=False),
    Metric("damage/perplexity", "perplexity", "perplexity", higher_is_better=False),
    Metric("own/share/<name>", "share", "", lifted=True),
    Metric("own/number/<name>", "number", "", lifted=True),
)
"""Exact names come before families that match them too. An empty label is the name without `opa/`.
`own/`: metrics of files in `values/` that somebody else put there."""

PLACES = {
    "<d>": r"\d+(?:\.\d+)?",
    "<preset>": r"[\w.-]+",
    "<kind>": r"[a-z]+",
    "<name>": r"[\w.@/-]+",
}


def metric_named(name: str) -> Metric:
    """The metric of that name, places and label filled in. Raises UserError where there is none."""
    for metric in METRICS:
        if found := re.fullmatch(pattern(metric.name), name):
            label = metric.label or name.removeprefix("opa/")
            for place, text in zip(
                re.findall("<[a-z]+>", metric.name), found.groups(), strict=True
            ):
                label = label.replace(place, text)
            return replace(metric, name=name, label=label)
    raise UserError(
        f"{name}: no metric of that name is known, so nobody can say what its numbers are. A share"
        " of your own is own/share/NAME, any other number own/number/NAME; the others stand in"
        " mvp_align/metrics/metric.py."
    )


def pattern(name: str) -> str:
    return re.sub("<[a-z]+>", lambda place: f"({PLACES[place[0]]})", re.escape(name))
