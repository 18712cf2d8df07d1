"""PAA: the share of a model's answers that judges label a win (W), over those that have a label.

What no judge could label is neither a win nor a loss, so PAA is printed with its coverage and with
its bounds: all unlabelled answers lost (`/low`), all won (`/high`). MVPBench (arXiv 2509.08022) and
DiverValue-Bench: PAA = W / N.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mvp_align.metrics.groups import break_down, default_by, group_rows, headline_rows
from mvp_align.metrics.intervals import Estimate, clustered_mean
from mvp_align.metrics.opa import Groups, row
from mvp_align.metrics.rows import Row


@dataclass(frozen=True, slots=True)
class Labelled:
    """One answer's label: W, L or TIE, or None and why there is none."""

    id: str
    user_id: str
    label: str | None
    unscored: str = ""


def _paa(answers: Sequence[Labelled]) -> Estimate | None:
    """Share of W among the labelled answers, its interval clustered by user; None where none is
    labelled."""
    return share("W", [one for one in answers if one.label is not None])


def share(label: str, answers: Sequence[Labelled]) -> Estimate | None:
    if not answers:
        return None
    return clustered_mean(
        [float(one.label == label) for one in answers], [one.user_id for one in answers], "share"
    )


def _bounds(answers: Sequence[Labelled]) -> dict[str, Estimate]:
    """`coverage`: share that has a label; `low` and `high`: PAA were all others lost, or won. Each
    over all answers."""
    users = [one.user_id for one in answers]
    values = {
        "coverage": [float(one.label is not None) for one in answers],
        "low": [float(one.label == "W") for one in answers],
        "high": [float(one.label in ("W", None)) for one in answers],
    }
    return {name: clustered_mean(value, users, "share") for name, value in values.items()}


def paa_rows(
    stage: str,
    set_name: str,
    metric: str,
    answers: Sequence[Labelled],
    groups: Groups,
    min_users: int,
) -> list[Row]:
    """Rows of `metric` (`paa/dvb_judge`) for the whole set, with what belongs beside it; PAA by
    each group of `min_users` people and more, the lowest of them and the gaps."""
    labelled = [one for one in answers if one.label is not None]
    whole: Mapping[str, Estimate | None] = {
        metric: _paa(answers),
        f"{metric}/loss": share("L", labelled),
        f"{metric}/tie": share("TIE", labelled),
        **{f"{metric}/{name}": estimate for name, estimate in _bounds(answers).items()},
    }
    rows = [
        row(stage, set_name, name, estimate)
        for name, estimate in whole.items()
        if estimate is not None
    ]
    if not labelled:
        return rows
    tags = [groups.get(one.id, {}) for one in labelled]
    breakdown = break_down(
        stage, set_name, [one.user_id for one in labelled], tags, default_by(tags), min_users
    )
    values = {metric: np.array([float(one.label == "W") for one in labelled])}
    return rows + group_rows(breakdown, values) + headline_rows(breakdown, values)


def paa_lift(base: Sequence[Labelled], tuned: Sequence[Labelled]) -> Estimate | None:
    """PAA minus the base's over the pairs that have a label in both; None where there are none."""
    before = {one.id: one.label for one in base if one.label is not None}
    both = [one for one in tuned if one.label is not None and one.id in before]
    if not both:
        return None
    lifts = [float(one.label == "W") - float(before[one.id] == "W") for one in both]
    return clustered_mean(lifts, [one.user_id for one in both], "difference")
