"""Base class of callbacks that add metrics to a trainer's evaluations.

The metrics appear in the result of `evaluate()`, in the log, and in the reporters.
"""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import nn
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from mvp_align.errors import UserError


class EvaluationCallback(TrainerCallback, ABC):
    """Measure once per `evaluate()` of any trainer, even if that goes over several sets.

    Metric names get the prefix that `evaluate` was called with (by default `eval`). Add callbacks
    that read these metrics, such as transformers' EarlyStoppingCallback, after this one.
    """

    shown: Sequence[str] = ()
    """Endings of the metric names that the terminal shows; empty shows all."""
    measured_in: FrameType | None = None

    @abstractmethod
    def measured(self, model: nn.Module, state: TrainerState) -> dict[str, float]:
        """Each number by its name, without the prefix."""

    @override
    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        evaluation = _running_evaluation()
        if evaluation.call is self.measured_in:  # the same evaluation, on another set
            return
        self.measured_in = evaluation.call if evaluation.of_several else None
        measured = self.measured(kwargs["model"], state)
        found = {f"{evaluation.prefix}_{name}": value for name, value in measured.items()}
        kwargs["metrics"].update(found)
        evaluation.trainer.log(found.copy())  # `evaluate` logged its own before this
        if state.is_world_process_zero:
            shown = {
                name: value
                for name, value in measured.items()
                if name.endswith(tuple(self.shown) or "")
            }
            tqdm.write(
                f"step {state.global_step}: "
                + ", ".join(f"{name} {shown[name]:.3f}" for name in shown)
            )


@dataclass(frozen=True, slots=True)
class RunningEvaluation:
    """An `evaluate` call in progress.

    `call` is the outermost frame of `evaluate`, and `prefix` its argument. `of_several` is true
    while it evaluates one of several sets.
    """

    trainer: Trainer
    prefix: str
    call: FrameType
    of_several: bool


def _running_evaluation() -> RunningEvaluation:
    """Find the running evaluation on the call stack.

    A callback receives neither the trainer nor the prefix, and the reporters already have the log,
    so only the stack knows.
    """
    calls: list[FrameType] = []
    trainer = None
    for frame, _ in traceback.walk_stack(None):
        known = frame.f_locals
        if frame.f_code.co_name != "evaluate" or "metric_key_prefix" not in known:
            continue
        trainer = known["self"] if trainer is None else trainer
        if known["self"] is trainer and isinstance(trainer, Trainer):
            calls.append(frame)
    if not calls:
        raise UserError(
            "OPA and PAA callbacks measure where the `evaluate` of a transformers Trainer calls"
            " them."
        )
    innermost, outermost = (calls[at].f_locals["metric_key_prefix"] for at in (0, -1))
    assert isinstance(trainer, Trainer)
    return RunningEvaluation(trainer, outermost, calls[-1], innermost != outermost)
