"""A trainer that can be stopped at any time and resumed as if it had never stopped."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from mvp_align.modeling.adapters import ADAPTER
from mvp_align.runs.checkpoints import WRITING, add_checkpoint, is_final, list_checkpoints
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
    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Save a checkpoint of each evaluation that is the best so far."""
        best: bool = super()._determine_best_metric(metrics, trial)
        self.control.should_save |= best
        return best

    def catch_up(self, checkpoint: Path) -> None:
        """Take on the state of a checkpoint after the last step, as `train` does at the end.

        Makes up its evaluation if an interruption prevented that. Where the best evaluation counts,
        callbacks measure again what they measure before training.
        """
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        self.state.is_local_process_zero = self.is_local_process_zero()
        self.state.is_world_process_zero = self.is_world_process_zero()
        if self.args.metric_for_best_model or _lacks_evaluation(self.args, self.state):
            handler = self.callback_handler
            handler.on_train_begin(self.args, self.state, self.control)  # ResumeCallback evaluates
            handler.on_train_end(self.args, self.state, self.control)

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
    def _save_rng_state(self, output_dir: str) -> None:
        # The Trainer's path of the best checkpoint is in the temporary folder by now; it is saved
        # next, and a resumed run would warn that it is gone. We find the best by its step.
        self.state.best_model_checkpoint = None
        super()._save_rng_state(output_dir)

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


class NoStepLeft(Exception):
    """Training had been stopped where it was resumed; the Trainer would take one more step."""


class ResumeCallback(TrainerCallback):
    """Restore what a checkpoint does not hold before a resumed run takes its next step.

    That is TRL's token count, and the evaluation of the last step if an interruption prevented it.
    Raises NoStepLeft if a callback stops training there. Add this callback last, so that all
    evaluation callbacks are ready.
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
        if _lacks_evaluation(args, state):
            metrics = self.trainer._evaluate(None, None)
            self.trainer._determine_best_metric(metrics, None)
        if self.trainer.control.should_training_stop:
            raise NoStepLeft


def _lacks_evaluation(args: TrainingArguments, state: TrainerState) -> bool:
    """Whether the step that was taken last is one to evaluate, and was not.

    Those are every `eval_steps` and the last one (transformers' DefaultFlowCallback).
    """
    step, every = state.global_step, state.eval_steps if args.eval_strategy == "steps" else None
    if not every or step == 0 or (step % every and step < state.max_steps):
        return False
    seen = (key for entry in state.log_history if entry["step"] == step for key in entry)
    return not any(key.startswith("eval_") for key in seen)


def train_from(checkpoint: Path | None, trainer: Trainer, model: PeftModel) -> None:
    """Train `model`, from a checkpoint if there is one.

    Where that is the last step's, no step is taken: amid an epoch, the Trainer would take one more.
    """
    try:
        if checkpoint is None or not is_final(checkpoint):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            return
        model.load_adapter(str(checkpoint), ADAPTER, is_trainable=True)
        if isinstance(trainer, Resumable):
            trainer.catch_up(checkpoint)
    except NoStepLeft:
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)


class StopInEvaluation(TrainerCallback):
    """Honour stop requests between two batches of the Trainer's own evaluation."""

    @override
    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        raise_if_stop_requested()
