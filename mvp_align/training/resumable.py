"""A trainer that can be stopped at any time and resumed as if it had never stopped."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from mvp_align.runs.checkpoints import WRITING, add_checkpoint, list_checkpoints
from mvp_align.runtime import hub
from mvp_align.runtime.preemption import Preempted, raise_if_stop_requested


class Resumable(Trainer):
    """Mixin for TRL's trainers that honours stop requests between steps and within evaluations.

    It saves a checkpoint of the last finished step and raises Preempted.
    """

    _total_train_tokens: int  # TRL's

    @property
    def checkpoints(self) -> Path:
        assert self.args.output_dir is not None
        return Path(self.args.output_dir)

    @override
    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Prepare training.

        DeepSpeed reads its part of a checkpoint here, with restricted pickling.
        """
        with tensors_only() if self.is_deepspeed_enabled else nullcontext():
            return super()._prepare_for_training(*args, **kwargs)  # type: ignore[no-untyped-call]

    @override
    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._maybe_log_save_evaluate(*args, **kwargs)
            raise_if_stop_requested()
        except Preempted:
            if self.state.global_step not in [
                step for step, _ in list_checkpoints(self.checkpoints)
            ]:
                assert isinstance(self.model, nn.Module)
                self._save_checkpoint(self.model, None)
            raise

    @override
    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        aside = self.checkpoints / WRITING
        try:
            if self.args.should_save:
                shutil.rmtree(aside, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            with hub.without_hub_lookups():
                super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                add_checkpoint(aside / f"checkpoint-{self.state.global_step}", self.checkpoints)
        finally:
            if self.args.should_save:  # if the disk is full, free what a partial checkpoint took
                shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()  # no process goes on before it is complete

    @override
    def _get_output_dir(self, trial: Any) -> str:
        """Return where `Trainer._save_checkpoint` writes its folder."""
        return str(self.checkpoints / WRITING)

    @override
    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate completely, or leave no trace if stopped.

        A stopped evaluation changes neither the random state nor the log history.
        """
        history = self.state.log_history
        begun = len(history)
        try:
            with _training_randomness_kept():
                return super()._evaluate(*args, **kwargs)
        except Preempted:
            del history[begun:]
            raise

    @override
    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: TRL would write one per checkpoint, and the run's report says more."""


@contextmanager
def tensors_only() -> Iterator[None]:
    """Let DeepSpeed unpickle only tensors, plain values, and the three classes that it saves.

    By default DeepSpeed lets torch run any code in a pickled file. Anything else raises
    pickle.UnpicklingError.
    """
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            yield
    finally:
        del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]


@contextmanager
def _training_randomness_kept() -> Iterator[None]:
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        yield


class ResumeCallback(TrainerCallback):
    """Restore what a checkpoint does not hold before a resumed run takes its next step.

    That is TRL's token count, and the evaluation of the last step if an interruption prevented it.
    Add this callback last, so that all evaluation callbacks are ready.
    """

    def __init__(self, trainer: Resumable) -> None:
        self.trainer = trainer

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        counts = [entry["num_tokens"] for entry in state.log_history if "num_tokens" in entry]
        if counts:
            self.trainer._total_train_tokens = int(counts[-1])
        every = state.eval_steps if args.eval_strategy == "steps" else None
        if not every or state.global_step == 0 or state.global_step % every:
            return
        seen = (
            key
            for entry in state.log_history
            if entry["step"] == state.global_step
            for key in entry
        )
        if not any(key.startswith("eval_") for key in seen):
            self.trainer._evaluate(None, None)


class StopInEvaluation(TrainerCallback):
    """Honour stop requests between two batches of the Trainer's own evaluation."""

    @override
    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        raise_if_stop_requested()
