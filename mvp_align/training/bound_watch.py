"""Callbacks of `train.stop_on`: measure the neutral text in training, and keep the bounds."""

from typing import Any

from peft import PeftModel
from torch import nn
from tqdm.auto import tqdm
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from typing_extensions import override

from mvp_align.evaluation.answer_metrics import perplexity
from mvp_align.metrics.drift import NEUTRAL, PERPLEXITY, PERPLEXITY_RATIO
from mvp_align.runtime.processes import broadcast_from_main
from mvp_align.runtime.watching import StopOn
from mvp_align.training.bounds import bounds_of, passed_bounds
from mvp_align.training.evaluations import EvaluationCallback


class PerplexityCallback(EvaluationCallback):
    """Add the perplexity of the neutral text to each evaluation, and its ratio to the base model's:
    `eval_neutral/damage/perplexity` and `eval_neutral/damage/perplexity_ratio`.

    The base model is the adapter, switched off.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
        self.tokenizer, self.batch_size = tokenizer, batch_size
        self.base = 0.0

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model: nn.Module = kwargs["model"]
        inner = getattr(model, "module", model)
        assert isinstance(inner, PeftModel)
        with inner.disable_adapter():
            self.base = self.perplexity("base", model)

    @override
    def measured(self, model: nn.Module, state: TrainerState) -> dict[str, float]:
        found = self.perplexity(f"step {state.global_step}", model)
        return {
            f"{NEUTRAL}/{PERPLEXITY.name}": found,
            f"{NEUTRAL}/{PERPLEXITY_RATIO}": found / self.base,
        }

    def perplexity(self, stage: str, model: nn.Module) -> float:
        return perplexity(stage, model, self.tokenizer, self.batch_size).value


class BoundWatch(TrainerCallback):
    """Say where an evaluation first finds a bound passed and, if `stop_on` says so, end training
    there, in all processes, with a checkpoint.

    A resumed run whose log has such an evaluation takes no step (`ResumeCallback`). Add this
    callback after those that measure.
    """

    def __init__(self, stop_on: StopOn) -> None:
        self.stop_on = stop_on
        self.keys = {f"eval_{bound.metric}" for bound in bounds_of(stop_on)}

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if any(one.stopped for one in passed_bounds(state.log_history, self.stop_on)):
            control.should_training_stop = True

    @override
    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        measured = self.keys & (kwargs.get("logs") or {}).keys()
        if not measured:
            return
        passed = broadcast_from_main(lambda: passed_bounds(state.log_history, self.stop_on))
        for one in passed:
            if one.step != state.global_step or f"eval_{one.metric}" not in measured:
                continue
            if state.is_world_process_zero:
                tqdm.write(f"Bound passed: {one.sentence}.")
            if one.stopped:
                control.should_training_stop = control.should_save = True
