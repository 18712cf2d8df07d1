"""Keep a run's curves in its folder while it trains."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import rewrite_logs
from typing_extensions import override

from mvp_align.runs.curve_points import CurvePoint
from mvp_align.runs.run_folder import RunFolder

BY_THE_CLOCK = (
    "_runtime",
    "_samples_per_second",
    "_steps_per_second",
    "_model_preparation_time",
)
END = "train_runtime"
"""In the summary that the Trainer logs after the last step, of the steps since the last resume."""


class CurveFile(TrainerCallback):
    """Write `curves.jsonl` from the trainer's log, which a checkpoint keeps.

    A resumed run begins with what its checkpoint knows, so that no step is there twice. A step is
    written when the next one begins, because evaluations log after it; `RunFolder.write_curves`
    completes the file once training is over.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.written = -1

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # the last step's evaluation may be made up now (`ResumeCallback`)
        known = [p for p in curve_points(state.log_history) if p.step < state.global_step]
        self.folder.write_curves(known)
        self.written = known[-1].step if known else -1

    @override
    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        new = _since(self.written, state.log_history)
        if new:
            self.folder.add_to_curves(curve_points(new))
            self.written = state.global_step


def _since(step: int, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the end of a log, of later steps than `step`."""
    start = len(history)
    while start and history[start - 1]["step"] > step:
        start -= 1
    return history[start:]


def curve_points(history: Iterable[Mapping[str, Any]]) -> list[CurvePoint]:
    """Return a trainer's log as a point a step, under the names that trackers get.

    Left out are times, which no two runs share, and values that are not finite.
    """
    found: dict[int, dict[str, float]] = {}
    for entry in history:
        if END in entry:
            continue
        values = {
            name: float(value)
            for name, value in rewrite_logs(_without_clock(entry)).items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        if values:
            found.setdefault(entry["step"], {}).update(values)
    return [CurvePoint(step, found[step]) for step in sorted(found)]


def _without_clock(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in entry.items()
        if name != "step" and not name.endswith(BY_THE_CLOCK)
    }
