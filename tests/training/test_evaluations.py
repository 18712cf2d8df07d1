"""OPA and PAA in evaluations of other trainers: return values of `evaluate`, and reports."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)
from trl import DPOConfig, DPOTrainer

from mvp_align.config import Generation
from mvp_align.errors import UserError
from mvp_align.schema import PreferencePair
from mvp_align.scoring.logps import score_pairs
from mvp_align.training import callbacks
from mvp_align.training.answer_callback import PAACallback
from mvp_align.training.callbacks import OPACallback

QUIET: dict[str, Any] = {
    "use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True, "logging_steps": 1,
    "seed": 3,
    "dataloader_pin_memory": False, "gradient_checkpointing": False,
}  # fmt: skip

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def tokenizer(sharp_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(sharp_model)


@pytest.fixture(scope="module")
def rows(few_pairs: list[PreferencePair]) -> Rows:
    return [
        {"prompt": p.question, "chosen": p.chosen, "rejected": p.rejected} for p in few_pairs[:4]
    ]


@pytest.fixture
def plain(sharp_model: Path, rows: Rows, tokenizer, tmp_path: Path):
    """`plain(eval_dataset=...)`: full fine-tuning in transformers' own Trainer."""

    def made(eval_dataset=None, **args: Any) -> Trainer:
        text = Dataset.from_list([dict(tokenizer(row["prompt"] + row["chosen"])) for row in rows])
        return Trainer(
            model=AutoModelForCausalLM.from_pretrained(sharp_model),
            args=TrainingArguments(
                str(tmp_path), max_steps=2, learning_rate=1e-2, **{**QUIET, **args}
            ),
            train_dataset=text,
            eval_dataset=text if eval_dataset is None else eval_dataset,
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        )

    return made


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of all scoring calls."""
    labels: list[str] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        labels.append(kwargs["label"])
        return score_pairs(*args, **kwargs)

    monkeypatch.setattr(callbacks, "score_pairs", counted)
    return labels


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    (file,) = folder.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file.parent)).Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def test_a_trl_trainers_own_tensorboard_has_the_metrics(
    sharp_model, rows, tokenizer, tmp_path: Path
) -> None:
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(sharp_model),
        args=DPOConfig(
            str(tmp_path), max_steps=2, learning_rate=1e-2, save_strategy="no",
            eval_strategy="steps", eval_steps=1,
            **{**QUIET, "report_to": "tensorboard"},
        ),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:2]),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
    )  # fmt: skip
    trainer.add_callback(OPACallback(rows, tokenizer))
    answers = Generation(max_new_tokens=2, temperature=0.7, batch_size=4)
    trainer.add_callback(
        PAACallback(
            rows,
            tokenizer,
            generation=answers,
            judge=lambda pairs, _: ["W"] * len(pairs),
            name="all",
        )
    )
    trainer.train()
    sent = curves(tmp_path)
    history = [row for row in trainer.state.log_history if "eval_opa/acc@0" in row]
    assert [row["step"] for row in history] == [1, 2]
    for name in ("opa/acc@0", "opa/margin", "opa/chosen_shift"):
        assert sent[f"eval/{name}"] == [
            (row["step"], pytest.approx(row[f"eval_{name}"], abs=1e-6)) for row in history
        ]
    assert sent["eval/paa/all"] == [(1, 1.0), (2, 1.0)]
    assert [step for step, _ in sent["eval/loss"]] == [1, 2]


def test_a_plain_trainers_own_tensorboard_has_them_too(
    plain, rows, tokenizer, tmp_path: Path
) -> None:
    trainer = plain(
        report_to="tensorboard", eval_strategy="steps", eval_steps=1, save_strategy="no"
    )
    trainer.add_callback(OPACallback(rows, tokenizer))
    trainer.train()
    sent = curves(tmp_path)
    assert (
        [step for step, _ in sent["eval/opa/margin"]]
        == [step for step, _ in sent["eval/loss"]]
        == [1, 2]
    )


def test_the_prefix_that_is_asked_for_is_the_one_that_is_given(plain, rows, tokenizer) -> None:
    trainer = plain()
    trainer.add_callback(OPACallback(rows, tokenizer))
    found = trainer.evaluate(metric_key_prefix="test")
    assert {"test_loss", "test_opa/acc@0", "test_opa/margin"} <= set(found)
    assert not [key for key in found if key.startswith("eval_")]
    assert "test_opa/acc@0" in trainer.state.log_history[-1]


@pytest.mark.parametrize("given", ["to the trainer", "to evaluate"])
def test_several_sets_are_one_evaluation(
    plain, rows, tokenizer, scored: list[str], given: str
) -> None:
    text = Dataset.from_list([dict(tokenizer(row["prompt"])) for row in rows])
    sets = {"a": text.select([0]), "b": text.select([1, 2])}
    trainer = plain(eval_dataset=sets if given == "to the trainer" else None)
    trainer.add_callback(OPACallback(rows, tokenizer))
    asked = {} if given == "to the trainer" else {"eval_dataset": sets}
    found = trainer.evaluate(**asked)
    assert {"eval_a_loss", "eval_b_loss", "eval_opa/acc@0"} <= set(found)
    assert len(scored) == 1
    before = found["eval_opa/margin"]
    with torch.no_grad():
        trainer.model.get_output_embeddings().weight.mul_(0.5)
    # another evaluation is measured anew
    assert trainer.evaluate(**asked)["eval_opa/margin"] != before
    assert len(scored) == 2


def test_several_sets_given_to_trls_evaluate_are_one(
    sharp_model, rows, tokenizer, scored, tmp_path: Path
) -> None:
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(sharp_model),
        args=DPOConfig(str(tmp_path), **QUIET),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
    )
    trainer.add_callback(OPACallback(rows, tokenizer))
    sets = {name: Dataset.from_list(rows[:2]) for name in "ab"}
    found = trainer.evaluate(sets, metric_key_prefix="test")
    assert {"test_a_loss", "test_b_loss", "test_opa/acc@0"} <= set(found)
    assert len(scored) == 1


def test_a_resumed_full_fine_tuning_knows_the_weights_that_it_started_from(
    plain, rows, tokenizer, tmp_path
) -> None:
    """`opa/chosen_shift` is against them; without it, transformers raises a KeyError for the best
    model's metric."""
    choosing = {
        "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1,
        "load_best_model_at_end": True, "metric_for_best_model": "opa/chosen_shift",
    }  # fmt: skip

    def shifts(trainer: Trainer) -> dict[int, float]:
        history = trainer.state.log_history
        return {
            row["step"]: row["eval_opa/chosen_shift"]
            for row in history
            if "eval_opa/chosen_shift" in row
        }

    whole = plain(**choosing)
    whole.add_callback(OPACallback(rows, tokenizer))
    whole.train()
    assert list(shifts(whole)) == [1, 2]

    resumed = plain(**choosing)
    resumed.add_callback(OPACallback(rows, tokenizer))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert shifts(resumed) == pytest.approx(shifts(whole), abs=1e-6)

    other = plain(**choosing)
    other.add_callback(
        OPACallback([{**row, "chosen": f"{row['chosen']} Yes."} for row in rows], tokenizer)
    )
    with pytest.raises(
        UserError, match=r"metric_for_best_model=opa/chosen_shift: .*before training, is not there"
    ):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    other.args.metric_for_best_model = "opa/acc@0"
    other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert 2 not in shifts(other)


def test_a_call_that_no_trainer_made_is_refused(plain, rows, tokenizer) -> None:
    trainer = plain()
    callback = OPACallback(rows, tokenizer)
    with pytest.raises(
        UserError, match="where the `evaluate` of a transformers Trainer calls them"
    ):
        callback.on_evaluate(
            trainer.args, trainer.state, trainer.control, model=trainer.model, metrics={}
        )
