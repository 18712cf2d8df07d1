"""Bounds that training is to keep (`train.stop_on`), and where it passed them.

Both are about what a growing margin hides: the chosen answers becoming less probable themselves,
and the model losing its language. What is measured of them stands in the trainer's log, which
checkpoints keep, so that a resumed run knows what it passed. Nothing here imports torch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mvp_align.config import Config
from mvp_align.data.sets import IN_DOMAIN
from mvp_align.metrics.drift import NEUTRAL, PERPLEXITY_RATIO
from mvp_align.metrics.opa import CHOSEN_SHIFT
from mvp_align.runtime.recipes import recipe_named
from mvp_align.runtime.watching import StopOn

PASSED = "passed_bounds"
"""Key of notes.json with a list of `Passed`."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A value that a measured metric is to stay on one side of."""

    setting: str
    metric: str
    """Name in a run's own log, without `eval_`."""
    what: str
    wrong_side: Literal["below", "above"]
    limit: float
    unit: str

    @property
    def when(self) -> str:
        """Say when it is passed, for `... where`."""
        return f"{self.what} is {self.wrong_side} {self.limit:g} {self.unit}"

    def is_passed(self, value: float) -> bool:
        return value < self.limit if self.wrong_side == "below" else value > self.limit


@dataclass(frozen=True, slots=True)
class Passed:
    """The first evaluation in training that found a bound passed."""

    setting: str
    metric: str
    step: int
    value: float
    limit: float
    stopped: bool
    sentence: str
    """What was passed, by what, and what came of it."""


def bounds_of(stop_on: StopOn) -> list[Bound]:
    """Return the bounds that are set."""
    found = []
    if stop_on.chosen_shift is not None:
        found.append(
            Bound(
                "train.stop_on.chosen_shift",
                f"{IN_DOMAIN}/{CHOSEN_SHIFT.name}",
                "the mean shift of the validation pairs' chosen answers",
                "below",
                stop_on.chosen_shift,
                "nats a token",
            )
        )
    if stop_on.perplexity is not None:
        found.append(
            Bound(
                "train.stop_on.perplexity",
                f"{NEUTRAL}/{PERPLEXITY_RATIO}",
                "the perplexity of the neutral text",
                "above",
                stop_on.perplexity,
                "times the base model's",
            )
        )
    return found


def passed_bounds(history: Iterable[Mapping[str, Any]], stop_on: StopOn) -> list[Passed]:
    """Return, bound by bound, where a trainer's log first has it passed; none that was kept."""
    entries = list(history)
    found = []
    for bound in bounds_of(stop_on):
        key = f"eval_{bound.metric}"
        first = next((e for e in entries if key in e and bound.is_passed(e[key])), None)
        if first is not None:
            found.append(_passed(bound, int(first["step"]), float(first[key]), stop_on.action))
    return found


def _passed(bound: Bound, step: int, value: float, action: str) -> Passed:
    stopped = action == "stop"
    sentence = (
        f"at step {step} {bound.what} was {value:.3f} {bound.unit}, {bound.wrong_side}"
        f" {bound.setting}={bound.limit:g}: "
    )
    sentence += (
        "training stopped there" if stopped else "training went on (train.stop_on.action=warn)"
    )
    return Passed(bound.setting, bound.metric, step, value, bound.limit, stopped, sentence)


def bound_problems(config: Config) -> list[str]:
    """Return why `train.stop_on` cannot watch this run, with what to do."""
    stop_on = config.train.stop_on
    given = [bound.setting for bound in bounds_of(stop_on)]
    if not given or not recipe_named(config.recipe).trains:
        return []
    problems = []
    if config.evals.every_steps is None:
        problems.append(
            f"{' and '.join(given)}: evaluations in training measure it, and this run has none: set"
            " evals.every_steps."
        )
    if stop_on.chosen_shift is not None and not stop_on.chosen_shift < 0:
        problems.append(
            f"train.stop_on.chosen_shift={stop_on.chosen_shift}: must be below 0, where training"
            " starts; it is in nats a token, as in -1.0."
        )
    if stop_on.perplexity is not None and not stop_on.perplexity > 1:
        problems.append(
            f"train.stop_on.perplexity={stop_on.perplexity}: must be above 1, where training"
            " starts; it is a multiple of the base model's, as in 1.2."
        )
    return problems
