"""The curves by which a run is watched, under the names that a tracker is sent. One list: what the
terminal shows of an evaluation, what W&B keeps the best of, and what `conf/dashboard.yaml` and
docs/tracking.md show come from it or are tested against it and against what a run really sends.

A run's own log says `eval_in_domain/opa/acc@0` where trackers have `eval/in_domain/opa/acc@0`.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from mvp_align.metrics.table import SCORED

EVAL = "eval/<set>/"
"""Before a metric of an evaluation on the way; `<set>` is its set's name, for UF-P-4 its user
type's as well."""


@dataclass(frozen=True, slots=True)
class Curve:
    name: str
    best: Literal["min", "max"] | None = None
    """Which of its values is the best, where one is."""


CURVES = (
    Curve("train/loss", "min"),
    Curve("train/rewards/margins"),
    Curve("train/rewards/accuracies", "max"),
    Curve("train/grad_norm"),
    Curve("train/learning_rate"),
    *(
        Curve(f"{EVAL}{metric.name}", "max" if metric.headline else None)
        for metric in SCORED
        if metric.by_group
    ),
)

HEADLINES = tuple(curve.name.removeprefix(EVAL) for curve in CURVES if curve.name.startswith(EVAL))
"""Metrics: `opa/acc@0` and so on."""


def curve_of(sent: str) -> Curve | None:
    """The curve that a name belongs to; None for one that is watched by nobody."""
    return next(
        (curve for curve in CURVES if fnmatchcase(sent, curve.name.replace("<set>", "*"))), None
    )
