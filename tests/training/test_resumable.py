"""Where trainers respond to a stop request, and safe loading of DeepSpeed checkpoints."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from mvp_align.runtime import preemption
from mvp_align.runtime.preemption import Preempted, StopRequest
from mvp_align.training.resumable import tensors_only


class Command:
    """Creates the folder `target` when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_a_checkpoint_with_code_is_refused(tmp_path: Path) -> None:
    file, target = tmp_path / "optim_states.pt", tmp_path / "made"
    torch.save({"exp_avg": torch.ones(2), "step": Command(target)}, file)
    with tensors_only(), pytest.raises(pickle.UnpicklingError, match="mkdir"):
        torch.load(file, weights_only=False)  # as DeepSpeed does
    assert not target.exists()
    torch.load(file, weights_only=False)
    assert target.exists()  # it would have been obeyed


def test_tensors_and_what_deepspeed_saves_beside_them_are_read(tmp_path: Path) -> None:
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum

    file = tmp_path / "optim_states.pt"
    torch.save(
        {"exp_avg": torch.ones(2), "scaler": LossScaler(1.0), "stage": ZeroStageEnum.gradients},
        file,
    )
    with tensors_only():
        found = torch.load(file, weights_only=False)
    assert found["exp_avg"].tolist() == [1, 1] and found["scaler"].cur_scale == 1.0
    assert found["stage"] is ZeroStageEnum.gradients


def test_a_trainer_that_resumes_under_deepspeed_refuses_it(
    bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the Trainer calls the method in which DeepSpeed reads its files."""
    file, target = tmp_path / "optim_states.pt", tmp_path / "made"
    torch.save({"step": Command(target)}, file)
    trainer = bench("train.max_steps=1").dpo()
    trainer.is_deepspeed_enabled = True

    def reads(*_: object, **__: object) -> None:
        torch.load(file, weights_only=False)

    # where the Trainer hands over to DeepSpeed
    monkeypatch.setattr("transformers.trainer.deepspeed_init", reads)
    with pytest.raises(pickle.UnpicklingError, match="mkdir"):
        trainer.train()
    assert not target.exists()


# Requests to stop


class Asks(TrainerCallback):
    """Requests a stop at one moment, and counts evaluated batches."""

    def __init__(self, moment: str, step: int) -> None:
        self.moment, self.step, self.batches = moment, step, 0

    def ask(self, moment: str, step: int) -> None:
        if (moment, step) == (self.moment, self.step):
            preemption.request.reason = "asked"

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.ask("step", state.global_step)

    def on_prediction_step(self, args, state, control, **kwargs) -> None:
        self.batches += 1
        self.ask("evaluation", state.global_step)


@pytest.fixture
def evaluating(bench, monkeypatch: pytest.MonkeyPatch):
    """`evaluating(recipe)`: a recipe's trainer that evaluates six batches after each step."""
    monkeypatch.setattr(preemption, "request", StopRequest())
    preemption.request.listening = True

    def made(recipe: str):
        ready = bench(f"recipe={recipe}", "train.max_steps=3")
        trainer = ready.sft() if recipe == "lora_sft" else ready.dpo()
        trainer.eval_dataset = trainer.train_dataset.select(range(6))
        trainer.args.per_device_eval_batch_size = 1
        trainer.args.eval_strategy, trainer.args.eval_steps = "steps", 1
        return trainer, ready.folder / "checkpoints"

    return made


@pytest.mark.parametrize("recipe", ["lora_dpo", "lora_sft"])
def test_a_stop_request_in_an_evaluation_stops_it_at_the_next_batch(
    evaluating, recipe: str
) -> None:
    trainer, checkpoints = evaluating(recipe)
    asks = Asks("evaluation", 2)
    trainer.callback_handler.callbacks.insert(0, asks)
    with pytest.raises(Preempted, match="asked"):
        trainer.train()
    assert trainer.state.global_step == 2
    assert asks.batches == 6 + 1
    assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-2"]
    assert not any("eval_loss" in row for row in trainer.state.log_history if row["step"] == 2)


@pytest.mark.parametrize("recipe", ["lora_dpo", "lora_sft"])
def test_a_request_amid_a_step_saves_that_step(evaluating, recipe: str) -> None:
    trainer, checkpoints = evaluating(recipe)
    trainer.args.eval_strategy = "no"
    trainer.add_callback(Asks("step", 2))
    with pytest.raises(Preempted, match="asked"):
        trainer.train()
    assert trainer.state.global_step == 2
    assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-2"]
