"""Curves for watching a run, by the names sent to trackers.

This is the only list. What the terminal shows of an evaluation and the best values that W&B keeps
come from it. `conf/dashboard.yaml` and docs/tracking.md are tested against it and against what a
run really sends.

A run's own log says `eval_in_domain/opa/acc@0` where trackers have `eval/in_domain/opa/acc@0`.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from mvp_align.metrics.drift import NEUTRAL, PERPLEXITY, PERPLEXITY_RATIO
from mvp_align.metrics.metric import GAP
from mvp_align.metrics.opa import WORST_GROUP
from mvp_align.metrics.rewards import REWARD_ACCURACY
from mvp_align.metrics.table import SCORED

EVAL = "eval/<set>/"
"""Prefix of metrics evaluated during training.

`<set>` is the set's name, for UF-P-4 plus the user type.
"""


@dataclass(frozen=True, slots=True)
class Curve:
    name: str
    best: Literal["min", "max"] | None = None
    """Whether the lowest or highest value is the best, if either is."""


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
    Curve(f"{EVAL}{WORST_GROUP.name}", "max"),
    Curve(f"{EVAL}{WORST_GROUP.name}{GAP}", "min"),
    Curve(f"{EVAL}{REWARD_ACCURACY.name}", "max"),
    *(Curve(f"eval/{NEUTRAL}/{name}", "min") for name in (PERPLEXITY.name, PERPLEXITY_RATIO)),
)

HEADLINES = tuple(curve.name.removeprefix(EVAL) for curve in CURVES if curve.name.startswith(EVAL))
"""Metrics such as `opa/acc@0`."""


def curve_of(sent: str) -> Curve | None:
    """Return the curve that a name belongs to, or None."""
    return next(
        (curve for curve in CURVES if fnmatchcase(sent, curve.name.replace("<set>", "*"))), None
    )
