"""Numbers of one's own in a trainer's evaluations: in what `evaluate()` returns, in its log, and in
its reporters."""

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
    """Measures once at each `evaluate()` of anybody's trainer, also where that goes over several
    sets.

    Its numbers bear the prefix that `evaluate` was asked for (`eval`, unless told otherwise). A
    callback that reads them off the metrics, such as transformers' EarlyStoppingCallback, is to be
    added after this one.
    """

    shown: Sequence[str] = ()
    """How the names of those numbers end that the terminal shows; all where there are none."""
    measured_in: FrameType | None = None

    @abstractmethod
    def measured(self, model: nn.Module, state: TrainerState) -> dict[str, float]:
        """Each number by its name, without the prefix."""

    @override
    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        evaluation = _running_evaluation()
        if evaluation.call is self.measured_in:  # for another set
            return
        self.measured_in = evaluation.call if evaluation.of_several else None
        measured = self.measured(kwargs["model"], state)
        found = {f"{evaluation.prefix}_{name}": value for name, value in measured.items()}
        kwargs["metrics"].update(found)
        evaluation.trainer.log(found.copy())  # `evaluate` called it before this
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
    """`call`: that of `evaluate` from outside, with the `prefix` that it was given. `of_several`:
    it is now at one of several sets."""

    trainer: Trainer
    prefix: str
    call: FrameType
    of_several: bool


def _running_evaluation() -> RunningEvaluation:
    """The evaluation that called the caller. A callback is handed neither the trainer nor the
    prefix, and reporters have had the log by then: the stack alone knows."""
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
