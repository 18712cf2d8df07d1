"""The table of all metrics, from which every other list is derived. Unknown names are errors."""

import re
from dataclasses import replace
from typing import Any

from mvp_align.errors import UserError
from mvp_align.metrics import drift, labelled, opa, rewards, spmr
from mvp_align.metrics.labelled import Labelled
from mvp_align.metrics.metric import Metric
from mvp_align.metrics.opa import Change
from mvp_align.metrics.own import own_metrics
from mvp_align.metrics.spmr import AnswerCosines
from mvp_align.schema import PairScore

OWN: tuple[Metric[PairScore], ...] = own_metrics()
"""The user's own, from `./metrics`."""

SCORED: tuple[Metric[PairScore], ...] = (*opa.ACCS, opa.MEAN, opa.MARGIN, *OWN)
"""Computed from a pair's score, for each model."""

CHANGES: tuple[Metric[Change], ...] = (
    opa.CHOSEN_SHIFT,
    opa.REJECTED_SHIFT,
    *rewards.REWARDS,
)
"""Computed from a pair's two scores, by the base model and by the tuned one."""

FORMS: tuple[Metric[AnswerCosines], ...] = (spmr.EMPTY, spmr.CUT)
"""Computed from the form of a generated answer."""

SIMILARITIES: tuple[Metric[AnswerCosines], ...] = (spmr.SPMR, spmr.SPMR_AUTHORS)
"""Computed from a generated answer's similarity to the references. Stored per pair."""

OF_LABELLED: tuple[Metric[Labelled], ...] = (labelled.PAA, labelled.LOSS, labelled.TIE)
"""Computed from a judged answer that has a label."""

OF_JUDGED: tuple[Metric[Labelled], ...] = (labelled.COVERAGE, labelled.LOW, labelled.HIGH)
"""Computed from every judged answer."""

BASELINES: tuple[Metric[PairScore], ...] = (opa.LENGTH_ONLY, opa.PROMPT_FREE)
"""Computed without the prompt, or from lengths alone: what needs no knowledge of the user."""

WITHOUT_PAIRS: tuple[Metric[Any], ...] = (
    opa.CEILING,
    opa.SHARE_OF_CEILING,
    opa.WORST_GROUP,
    labelled.GRID,
    labelled.ALPHA,
    labelled.ALPHA_SCORES,
    drift.KL,
    drift.PERPLEXITY,
    Metric("own/share/<name>", "share", "", lifted=True),
    Metric("own/number/<name>", "number", "", lifted=True),
)
"""Not means over pairs that a run computes. `own/` is for files that users add to `values/`."""

METRICS: tuple[Metric[Any], ...] = (
    *SCORED,
    *CHANGES,
    *BASELINES,
    *opa.UNDER_PROFILE,
    *opa.UNDER_CHOICES,
    *FORMS,
    *SIMILARITIES,
    *labelled.SEMANTIC,
    *OF_LABELLED,
    *OF_JUDGED,
    *WITHOUT_PAIRS,
)
"""Exact names come before families that match them too."""

PLACES = {
    "<preset>": r"[\w.-]+",
    "<kind>": r"[a-z]+(?:_\d+)?",
    "<name>": r"[\w.@/-]+",
}


def metric_named(name: str) -> Metric[Any]:
    """Return the metric of that name with its label. Raises UserError for an unknown name."""
    for metric in METRICS:
        if re.fullmatch(pattern(metric.name), name):
            return replace(metric, name=name, label=metric.label or name.removeprefix("opa/"))
    raise UserError(
        f"{name}: no metric of that name is known, so nobody can say what its numbers are. A metric"
        " of your own is looked for in ./metrics; numbers that you add to a run are own/share/NAME"
        " or own/number/NAME; the others stand in mvp_align/metrics/table.py."
    )


def pattern(name: str) -> str:
    return re.sub("<[a-z]+>", lambda place: f"({PLACES[place[0]]})", re.escape(name))


def _check_own() -> None:
    taken = [metric for metric in METRICS if metric not in OWN]
    for own in OWN:
        if any(re.fullmatch(pattern(metric.name), own.name) for metric in taken):
            raise UserError(f"./metrics: {own.name} is the name of a metric of mvp-align's.")


_check_own()
