"""A run's curves as figures: what trackers show, in its page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mvp_align.figures.axis import Unit
from mvp_align.figures.curve_figure import CurveLine, curve_figure
from mvp_align.figures.figure import Figure, Words
from mvp_align.runs.curve_points import CurvePoint

NO_CURVES = "This run has no curves.jsonl: a version before curves were kept made it."


@dataclass(frozen=True, slots=True)
class CurvePanel:
    """A figure of the curves whose names match one of the patterns as a whole."""

    title: str
    patterns: tuple[str, ...]
    unit: Unit = "number"
    note: str = ""


PANELS = (
    CurvePanel(
        "Loss",
        ("train/loss", "eval/loss"),
        note="DPO's starts at ln 2 = 0.69, where the adapter has changed nothing.",
    ),
    CurvePanel(
        "Reward margin",
        ("(train|eval)/rewards/margins",),
        note="Chosen minus rejected, of implicit rewards: beta times how far an answer's log-prob"
        " moved against the reference.",
    ),
    CurvePanel(
        "Accuracy",
        ("train/rewards/accuracies", r"eval/[^/]+/opa/acc@0", r"eval/[^/]+/reward_accuracy"),
        "share",
        "Of training pairs, the share whose chosen answer was raised more; of evaluations in"
        " training, acc@0 and the same share on validation pairs.",
    ),
    CurvePanel(
        "Worst group",
        (r"eval/[^/]+/opa/worst_group",),
        "share",
        "acc@0 of the worst served group of validation pairs.",
    ),
    CurvePanel(
        "Margin, nats a token",
        (r"eval/[^/]+/opa/margin",),
        note="How far the fitting answer is ahead on average.",
    ),
    CurvePanel(
        "Implicit rewards, chosen and rejected",
        ("train/rewards/(chosen|rejected)",),
        note="Of training pairs: beta times the change of an answer's log-prob. Both fall where"
        " training pushes answers out of the model, the rejected ones faster.",
    ),
    CurvePanel(
        "Shift of log-probs, nats a token",
        (r"eval/[^/]+/opa/(chosen|rejected)_shift",),
        note="Of validation pairs, against the base model.",
    ),
    CurvePanel("Neutral perplexity", ("eval/neutral/damage/perplexity",)),
    CurvePanel("Learning rate", ("train/learning_rate",)),
    CurvePanel("Gradient norm", ("train/grad_norm",), note="Before clipping."),
)


def curve_panels(points: Sequence[CurvePoint]) -> list[Figure]:
    """A figure for each of `PANELS` that the run logged anything of."""
    names = sorted({name for point in points for name in point.values})
    figures: list[Figure] = []
    for panel in PANELS:
        lines = [
            _line(name, points)
            for pattern in panel.patterns
            for name in names
            if re.fullmatch(pattern, name)
        ]
        words = Words(
            f"curve-{len(figures) + 1}",
            panel.title,
            f"{panel.title} over the steps of training: {', '.join(one.label for one in lines)}.",
            f"{panel.note} Over optimizer steps.".strip(),
        )
        if figure := curve_figure(lines, words, unit=panel.unit):
            figures.append(figure)
    return figures


def _line(name: str, points: Sequence[CurvePoint]) -> CurveLine:
    logged = [(point.step, point.values[name]) for point in points if name in point.values]
    steps, values = zip(*logged, strict=True)
    return CurveLine(name, steps, values, dots=name.startswith("eval/") or len(logged) == 1)
