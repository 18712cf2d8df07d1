"""What is said of judged answers: PAA (MVPBench, arXiv 2509.08022, and DiverValue-Bench: W / N) and
what belongs beside it."""

from dataclasses import dataclass, replace

from mvp_align.metrics.metric import Metric


@dataclass(frozen=True, slots=True)
class Labelled:
    """One answer's label: W, L or TIE, or None and why there is none."""

    id: str
    user_id: str
    label: str | None
    unscored: str = ""


def _won(answer: Labelled) -> float:
    return float(answer.label == "W")


def _lost(answer: Labelled) -> float:
    return float(answer.label == "L")


def _tied(answer: Labelled) -> float:
    return float(answer.label == "TIE")


def _has_label(answer: Labelled) -> float:
    return float(answer.label is not None)


def _may_have_won(answer: Labelled) -> float:
    return float(answer.label in ("W", None))


PRESET = "paa/<preset>"
PAA = Metric(PRESET, "share", "", True, lifted=True, per_pair=_won)
LOSS = Metric(f"{PRESET}/loss", "share", "", False, per_pair=_lost)
TIE = Metric(f"{PRESET}/tie", "share", "", per_pair=_tied)
COVERAGE = Metric(f"{PRESET}/coverage", "share", "", True, per_pair=_has_label)
LOW = Metric(f"{PRESET}/low", "share", "", True, per_pair=_won)
"""PAA were all unlabelled answers lost."""
HIGH = Metric(f"{PRESET}/high", "share", "", True, per_pair=_may_have_won)
"""PAA were they all won."""
GRID: Metric[Labelled] = Metric(f"{PRESET}/grid", "share", "", True)
"""PAA under other thresholds of the rule."""
ALPHA: Metric[Labelled] = Metric(f"{PRESET}/alpha", "agreement", "", True)
ALPHA_SCORES: Metric[Labelled] = Metric(f"{PRESET}/alpha_scores", "agreement", "", True)

_SEMANTIC = "paa/semantic"
SEMANTIC = (
    replace(PAA, name=_SEMANTIC, label="nearer the fitting text (semantic, no judge)"),
    *(
        replace(one, name=one.name.replace(PRESET, _SEMANTIC), label=label, beside=_SEMANTIC)
        for one, label in (
            (LOSS, "nearer the contradicting one"),
            (TIE, "neither"),
            (COVERAGE, ""),
            (LOW, ""),
            (HIGH, ""),
        )
    ),
)
"""The same metrics of the preset that no judge stands behind, in words of their own."""
