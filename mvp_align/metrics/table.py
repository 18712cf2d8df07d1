"""Every metric, one line each: the list that all others are read from. A name that is not here is
an error."""

import re
from dataclasses import replace
from typing import Any

from mvp_align.errors import UserError
from mvp_align.metrics import drift, labelled, opa, spmr
from mvp_align.metrics.labelled import Labelled
from mvp_align.metrics.metric import Metric
from mvp_align.metrics.opa import Change
from mvp_align.metrics.spmr import AnswerCosines
from mvp_align.schema import PairScore

SCORED: tuple[Metric[PairScore], ...] = (*opa.ACCS, opa.MEAN, opa.MARGIN)
"""Taken of a pair's score, under each model."""

CHANGES: tuple[Metric[Change], ...] = (opa.CHOSEN_SHIFT, opa.REJECTED_SHIFT)
"""Taken of a pair's two scores, under the base model and under the tuned one."""

FORMS: tuple[Metric[AnswerCosines], ...] = (spmr.EMPTY, spmr.CUT)
"""Taken of a generated answer: its form."""

SIMILARITIES: tuple[Metric[AnswerCosines], ...] = (spmr.SPMR, spmr.SPMR_AUTHORS)
"""Taken of a generated answer: how near it is to the references. Kept pair by pair."""

OF_LABELLED: tuple[Metric[Labelled], ...] = (labelled.PAA, labelled.LOSS, labelled.TIE)
"""Taken of a judged answer that has a label."""

OF_JUDGED: tuple[Metric[Labelled], ...] = (labelled.COVERAGE, labelled.LOW, labelled.HIGH)
"""Taken of every judged answer."""

BASELINES: tuple[Metric[PairScore], ...] = (opa.LENGTH_ONLY, opa.PROMPT_FREE)
"""Of pairs without what would tell who asks."""

WITHOUT_PAIRS: tuple[Metric[Any], ...] = (
    opa.CEILING,
    opa.SHARE_OF_CEILING,
    labelled.GRID,
    labelled.ALPHA,
    labelled.ALPHA_SCORES,
    drift.KL,
    drift.PERPLEXITY,
    Metric("own/share/<name>", "share", "", lifted=True),
    Metric("own/number/<name>", "number", "", lifted=True),
)
"""No means over pairs that a run takes itself. `own/`: metrics of files in `values/` that somebody
else put there."""

METRICS: tuple[Metric[Any], ...] = (
    *SCORED,
    *CHANGES,
    *BASELINES,
    *opa.UNDER_PROFILE,
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
    "<kind>": r"[a-z]+",
    "<name>": r"[\w.@/-]+",
}


def metric_named(name: str) -> Metric[Any]:
    """The metric of that name, its label filled in. Raises UserError where there is none."""
    for metric in METRICS:
        if re.fullmatch(pattern(metric.name), name):
            return replace(metric, name=name, label=metric.label or name.removeprefix("opa/"))
    raise UserError(
        f"{name}: no metric of that name is known, so nobody can say what its numbers are. A share"
        " of your own is own/share/NAME, any other number own/number/NAME; the others stand in"
        " mvp_align/metrics/table.py."
    )


def pattern(name: str) -> str:
    return re.sub("<[a-z]+>", lambda place: f"({PLACES[place[0]]})", re.escape(name))
