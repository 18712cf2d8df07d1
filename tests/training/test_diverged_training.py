"""Training stops at the first NaN or infinity, keeps nothing of that step, and gives remedies."""

import json
import math
from pathlib import Path

import pytest
from transformers import TrainerCallback

from mvp_align.errors import UserError
from mvp_align.runs.checkpoints import latest_valid


def started(made, recipe: str):
    return made.sft() if recipe == "lora_sft" else made.dpo()


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


class Poison(TrainerCallback):
    """Makes gradients NaN from a step on, while its loss is still finite."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step + 1 == self.step:
            parameter = next(p for p in kwargs["model"].parameters() if p.requires_grad)
            parameter.register_hook(lambda gradient: gradient * math.nan)


@pytest.mark.parametrize("recipe", ["lora_dpo", "lora_sft"])
def test_the_first_nan_loss_stops_the_run(bench, recipe: str) -> None:
    """At this learning rate the weights of step 1 are finite, and what the model makes of them is
    not."""
    made = bench(
        f"recipe={recipe}",
        "train.learning_rate=1e30",
        "train.warmup_share=0",
        "train.max_steps=4",
        "train.save_steps=3",
    )
    trainer = started(made, recipe)
    with pytest.raises(UserError) as caught:
        trainer.train()
    message = str(caught.value)
    assert "Training stopped at step 2: the loss is nan" in message
    for remedy in (
        "train.learning_rate (it is 1e+30)",
        "train.max_grad_norm",
        "train.warmup_share",
        "run.name",
    ):
        assert remedy in message
    assert "hardware.precision" not in message  # it is fp32 already
    assert trainer.state.global_step == 2
    assert kept(made.folder) == []
    json.dumps(trainer.state.log_history, allow_nan=False)


@pytest.mark.parametrize("recipe", ["lora_dpo", "lora_sft"])
def test_a_nan_gradient_stops_the_run(bench, recipe: str) -> None:
    """The good checkpoint of step 1 stays what a later command goes on from."""
    made = bench(f"recipe={recipe}", "train.max_steps=4", "train.save_steps=1")
    trainer = started(made, recipe)
    trainer.add_callback(Poison(2))
    with pytest.raises(
        UserError, match=r"Training stopped at step 2: the norm of the gradients is nan"
    ):
        trainer.train()
    assert kept(made.folder) == ["checkpoint-1"]
    checkpoint = latest_valid(made.folder / "checkpoints")
    assert checkpoint is not None

    again = started(made, recipe)
    again.add_callback(Poison(3))
    with pytest.raises(
        UserError, match=r"Training stopped at step 3: the norm of the gradients is nan"
    ):
        again.train(resume_from_checkpoint=str(checkpoint))
    assert kept(made.folder) == ["checkpoint-1", "checkpoint-2"]


def test_nan_weights_are_not_saved_after_a_finite_loss(bench) -> None:
    """The last step's weights have no loss of their own: only looking at them can tell."""
    made = bench("train.learning_rate=1e39", "train.warmup_share=0", "train.max_steps=1")
    trainer = made.dpo()
    with pytest.raises(
        UserError, match=r"Training stopped at step 1: a trained weight is no finite number"
    ):
        trainer.train()
    assert kept(made.folder) == []


def test_a_step_that_fp16_skips_is_no_divergence_unless_it_skips_them_all(
    bench, monkeypatch
) -> None:
    """Its loss scale starts too high on purpose and is halved until gradients are finite."""
    made = bench("train.max_steps=40", "train.save_steps=100")
    trainer = made.dpo()
    trainer.args.fp16 = True
    skipped = {3, 4, 6}
    monkeypatch.setattr(
        type(trainer.accelerator),
        "optimizer_step_was_skipped",
        property(lambda _: trainer.state.global_step in skipped),
    )
    logged: list[dict[str, float]] = []
    for step in range(2, 8):
        trainer.state.global_step = step
        logs = {"loss": 0.5, "grad_norm": math.inf if step in skipped else 1.0}
        trainer.log(logs)
        logged.append(trainer.state.log_history[-1])
    assert ["grad_norm" in entry for entry in logged] == [True, False, False, True, False, True]
    skipped |= set(range(8, 40))
    with pytest.raises(
        UserError, match=r"(?s)the norm of the gradients is inf.*hardware\.precision=bf16"
    ):
        for step in range(8, 40):
            trainer.state.global_step = step
            trainer.log({"loss": 0.5, "grad_norm": math.inf})
    assert 20 < step < 39


def test_a_nan_evaluation_loss_stops_the_run(bench, few_pairs) -> None:
    trainer = bench("train.max_steps=1").dpo()
    with pytest.raises(
        UserError, match=r"stopped at step 0: the loss on the evaluation set \(eval_loss\) is inf"
    ):
        trainer.log({"eval_loss": math.inf, "eval_runtime": 1.0})


def test_other_nan_metrics_are_left_out_of_the_log(bench) -> None:
    """The mean logit of a model that masks a part of its vocabulary is -inf, and nothing is wrong
    with it."""
    trainer = bench("train.max_steps=1").dpo()
    trainer.model.train()
    trainer._metrics["train"]["logits/chosen"] = [-math.inf]
    trainer._metrics["train"]["entropy"] = [2.0]
    trainer.log({"loss": 0.5, "grad_norm": 1.0})
    entry = trainer.state.log_history[-1]
    assert "logits/chosen" not in entry
    assert (entry["loss"], entry["entropy"]) == (0.5, 2.0)
