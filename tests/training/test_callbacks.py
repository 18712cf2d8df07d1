"""The callbacks in other trainers, one line each, and those that monitor ours."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import DPOConfig, DPOTrainer

from mvp_align.data.readers import read_pairs
from mvp_align.data.sets import SETS, UFP4
from mvp_align.errors import UserError
from mvp_align.schema import PairScore, PreferencePair, PromptedPair
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.tokens import TokenizedPair, tokenize_pairs
from mvp_align.training.callbacks import FirstLoss, OODCallback, OPACallback

THRESHOLDS = {"0": 0.0, "0.2": 0.2, "2": 2.0, "4": 4.0, "6": 6.0, "8": 8.0}
QUIET: dict[str, Any] = {
    "use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True, "logging_steps": 1,
    "seed": 3,
    "dataloader_pin_memory": False, "gradient_checkpointing": False,
}  # fmt: skip

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def tokenizer(sharp_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(sharp_model)


@pytest.fixture
def plain_model(sharp_model: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(sharp_model)


@pytest.fixture(scope="module")
def rows(few_pairs: list[PreferencePair]) -> Rows:
    return [{"prompt": p.question, "chosen": p.chosen, "rejected": p.rejected} for p in few_pairs]


@pytest.fixture(scope="module")
def tokens(rows: Rows, tokenizer: PreTrainedTokenizerBase) -> list[TokenizedPair]:
    return tokenize_pairs(
        (PromptedPair(str(n), str(n), **row) for n, row in enumerate(rows)), tokenizer
    ).pairs


def expected(scores: list[PairScore], base: list[PairScore]) -> dict[str, float]:
    margins = torch.tensor(
        [s.chosen_logp / s.chosen_tokens - s.rejected_logp / s.rejected_tokens for s in scores]
    )
    shares = {
        f"eval_opa/acc@{name}": (margins > d).double().mean().item()
        for name, d in THRESHOLDS.items()
    }
    shift = [
        s.chosen_logp / s.chosen_tokens - b.chosen_logp / b.chosen_tokens
        for s, b in zip(scores, base, strict=True)
    ]
    return {
        **shares,
        "eval_opa/mean": sum(shares.values()) / 6,
        "eval_opa/margin": margins.mean().item(),
        "eval_opa/chosen_shift": sum(shift) / len(shift),
    }


def test_opa_in_anybodys_dpo_trainer(
    plain_model, rows: Rows, tokens, tokenizer, tmp_path: Path
) -> None:
    trainer = DPOTrainer(
        model=plain_model,
        args=DPOConfig(str(tmp_path), max_steps=3, learning_rate=1e-2, save_strategy="no", **QUIET),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:4]),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
    )
    trainer.add_callback(OPACallback(rows, tokenizer))
    trainer.train()
    found = trainer.evaluate()
    with trainer.model.disable_adapter():
        base = score_pairs(trainer.model, tokens)
    wanted = expected(score_pairs(trainer.model, tokens), base)
    assert abs(wanted["eval_opa/chosen_shift"]) > 0.01
    assert wanted["eval_opa/acc@0"] > 0
    assert {key: found[key] for key in wanted} == pytest.approx(wanted, abs=1e-6)
    assert "eval_loss" in found  # TRL's own are still there
    logged = [row for row in trainer.state.log_history if "eval_opa/acc@0" in row]
    assert [row["step"] for row in logged] == [3]


def test_opa_in_anybodys_trainer_of_a_language_model(
    plain_model, rows: Rows, tokens, tokenizer, tmp_path: Path
) -> None:
    base = score_pairs(plain_model, tokens)
    text = Dataset.from_list([dict(tokenizer(row["prompt"] + row["chosen"])) for row in rows])
    trainer = Trainer(
        model=plain_model,
        args=TrainingArguments(
            str(tmp_path), max_steps=4, learning_rate=1e-2, save_strategy="no", **QUIET
        ),
        train_dataset=text,
        eval_dataset=text,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    trainer.add_callback(OPACallback(Dataset.from_list(rows), tokenizer, batch_size=3))
    trainer.train()
    found = trainer.evaluate()
    assert trainer.model.training is False  # as evaluate() left it
    wanted = expected(score_pairs(trainer.model, tokens), base)
    assert wanted["eval_opa/chosen_shift"] > 0.1  # it learnt the chosen texts
    assert {key: found[key] for key in wanted} == pytest.approx(wanted, abs=1e-6)


def test_preference_pairs_are_rows_as_well(
    plain_model, rows: Rows, few_pairs, tokenizer, tmp_path: Path
) -> None:
    found = []
    for given in (few_pairs, rows):
        trainer = Trainer(
            plain_model,
            TrainingArguments(str(tmp_path), **QUIET),
            eval_dataset=text_of(rows, tokenizer),
        )
        trainer.data_collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
        trainer.add_callback(OPACallback(given, tokenizer))
        metrics = trainer.evaluate()
        found.append({key: value for key, value in metrics.items() if key.startswith("eval_opa/")})
    assert found[0] == found[1]
    assert set(found[0]) == {
        *(f"eval_opa/acc@{name}" for name in THRESHOLDS),
        "eval_opa/mean",
        "eval_opa/margin",
    }


def text_of(rows: Rows, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    return Dataset.from_list([dict(tokenizer(row["prompt"])) for row in rows[:2]])


def test_ood_is_pooled_and_by_user_type(plain_model, rows: Rows, tokenizer, tmp_path: Path) -> None:
    trainer = Trainer(
        plain_model,
        TrainingArguments(str(tmp_path), **QUIET),
        eval_dataset=text_of(rows, tokenizer),
    )
    trainer.data_collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trainer.add_callback(OODCallback(tokenizer))
    found = trainer.evaluate()

    pairs = read_pairs("sample:ufp4", "ufp4").pairs
    texts = [
        PromptedPair(
            p.id,
            p.user_id,
            (
                f"{p.profile_text.strip()}\n{p.question.strip()}"
                if p.profile_text.strip()
                else p.question.strip()
            ),
            p.chosen,
            p.rejected,
        )
        for p in pairs
    ]
    margins = torch.tensor(
        [score.margin for score in score_pairs(plain_model, tokenize_pairs(texts, tokenizer).pairs)]
    )
    assert found["eval_ufp4_sample/opa/acc@0"] == pytest.approx(
        (margins > 0).double().mean().item()
    )
    assert found["eval_ufp4_sample/opa/margin"] == pytest.approx(margins.mean().item(), abs=1e-6)
    for user_type in SETS[UFP4].user_types:
        part = torch.tensor([pair.groups["user_type"] == user_type for pair in pairs])
        assert part.sum() >= 15
        assert found[f"eval_ufp4_sample/{user_type}/opa/acc@0"] == pytest.approx(
            (margins[part] > 0).double().mean().item()
        )
        assert found[f"eval_ufp4_sample/{user_type}/opa/margin"] == pytest.approx(
            margins[part].mean().item(), abs=1e-6
        )


def test_real_files_and_the_stand_in_go_by_their_names(
    plain_model, tokenizer, tmp_path: Path
) -> None:
    for user_type in SETS[UFP4].user_types:
        (tmp_path / f"{user_type}.json").write_text(
            '[{"prompt": "Why?", "chosen": "So.", "rejected": "No."}]'
        )
    assert OODCallback(tokenizer, source=str(tmp_path)).subject.name == "ufp4"
    assert OODCallback(tokenizer).subject.name == "ufp4_sample"
    with pytest.raises(UserError, match=r"bundled synthetic stand-in"):
        OODCallback(tokenizer, source="sample:ufp4")


def test_a_pair_beyond_the_models_context_is_refused(
    plain_model, rows: Rows, tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_model.config, "max_position_embeddings", 8)
    trainer = Trainer(
        plain_model,
        TrainingArguments(str(tmp_path), **QUIET),
        eval_dataset=text_of(rows, tokenizer),
    )
    trainer.data_collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trainer.add_callback(OPACallback(rows, tokenizer))
    with pytest.raises(
        UserError, match=r"OPACallback: pair \d+ has \d+ tokens, over the 8 that the model can take"
    ):
        trainer.evaluate()


def test_the_best_model_by_opa_is_loaded_at_the_end(
    plain_model, rows: Rows, tokens, tokenizer, tmp_path: Path
) -> None:
    """Trained on the pairs turned round, the model is best when it has learnt least."""
    turned = [
        {"prompt": row["prompt"], "chosen": row["rejected"], "rejected": row["chosen"]}
        for row in rows
    ]
    args = DPOConfig(
        str(tmp_path),
        max_steps=6,
        learning_rate=2e-2,
        per_device_train_batch_size=4,
        load_best_model_at_end=True,
        metric_for_best_model="opa/margin",
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        **QUIET,
    )
    trainer = DPOTrainer(
        model=plain_model,
        args=args,
        train_dataset=Dataset.from_list(turned),
        eval_dataset=Dataset.from_list(rows[:2]),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
    )
    trainer.add_callback(OPACallback(rows, tokenizer))
    trainer.train()
    by_step = {
        r["step"]: r["eval_opa/margin"] for r in trainer.state.log_history if "eval_opa/margin" in r
    }
    assert list(by_step) == [2, 4, 6]
    assert by_step[2] > by_step[6]
    assert trainer.state.best_metric == by_step[2]
    assert Path(trainer.state.best_model_checkpoint).name == "checkpoint-2"
    margins = [score.margin for score in score_pairs(trainer.model, tokens)]
    assert sum(margins) / len(margins) == pytest.approx(by_step[2], abs=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rejected", None),
        ("prompt", ""),
        ("chosen", "  "),
        ("chosen", 7),
        ("rejected", ["a", "list"]),
    ],
)
def test_a_bad_row_is_named_with_its_field(
    rows: Rows, tokenizer, field: str, value: object
) -> None:
    bad: list[dict[str, Any]] = [dict(row) for row in rows[:3]]
    bad[2][field] = value
    if value is None:
        del bad[2][field]
    with pytest.raises(
        UserError, match=rf"OPACallback row 2, field '{field}': a text is needed, not "
    ):
        OPACallback(bad, tokenizer)


def test_no_rows_at_all(tokenizer) -> None:
    with pytest.raises(UserError, match="none of 0 pairs"):
        OPACallback([], tokenizer)


# What watches over our own trainer


def test_a_first_loss_that_is_not_ln_2_stops_with_the_causes(bench) -> None:
    made = bench("train.max_steps=3")
    model = made.model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    trainer = made.dpo(model)
    with pytest.raises(UserError) as caught:
        trainer.train()
    message = str(caught.value)
    assert "not ln 2 = 0.6931" in message
    for cause in (
        "train.disable_dropout=true",
        "train.reference",
        "was not zero at the start",
        "hardware.precision",
    ):
        assert cause in message
    assert trainer.state.global_step == 1
    assert not list((made.folder / "checkpoints").glob("checkpoint-*"))


@pytest.mark.parametrize("weight", [0.001, 0.5])
def test_a_mixture_of_experts_starts_at_ln_2_plus_its_balance(
    bench, weight: float, sharp_model: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(sharp_model)
    shape = MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
        router_aux_loss_coef=weight, max_position_embeddings=2048,
    )  # fmt: skip
    MixtralForCausalLM(shape).save_pretrained(tmp_path / "experts")
    tokenizer.save_pretrained(tmp_path / "experts")
    model_id = f"model.id={tmp_path / 'experts'}"
    trainer = bench("train.max_steps=1", model_id).dpo()
    trainer.train()
    (first, *_) = trainer.state.log_history
    assert abs(first["loss"] - math.log(2) - weight * first["aux_loss"]) < 1e-4
    assert first["loss"] > math.log(2) + weight / 2


def test_other_losses_may_start_anywhere(bench) -> None:
    trainer = bench("train.max_steps=1", "train.loss_type=ipo").dpo()
    trainer.train()
    assert trainer.state.global_step == 1


def test_the_progress_line_has_the_speed(bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench("train.max_steps=2").dpo().train()
    shown = capsys.readouterr().err
    assert "training" in shown
    for words in ("2/2", "ETA 00:00", "loss 0.", "pairs/s, ", "tokens/s"):
        assert words in shown


def test_checkpoints_hold_what_a_resume_needs(bench: Callable[..., Any]) -> None:
    made = bench("train.max_steps=2", "train.save_steps=1")
    made.dpo().train()
    for step in (1, 2):
        folder = made.folder / "checkpoints" / f"checkpoint-{step}"
        assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == step
        names = {path.name for path in folder.iterdir()}
        assert {
            "adapter_model.safetensors",
            "optimizer.pt",
            "scheduler.pt",
            "rng_state.pth",
        } <= names


@pytest.mark.parametrize(
    ("exact", "step", "loss", "stops"),
    [
        (True, 1, 0.6935, False),
        (True, 1, 0.70, True),
        (True, 2, 0.70, False),
        (False, 1, 0.70, False),
        (False, 1, 0.72, True),
    ],
)
def test_a_first_loss_off_ln_2_stops_the_run(
    tmp_path: Path, exact: bool, step: int, loss: float, stops: bool
) -> None:
    arguments = (TrainingArguments(str(tmp_path)), TrainerState(global_step=step), TrainerControl())
    watch = FirstLoss(exact)
    if stops:
        with pytest.raises(
            UserError, match=rf"The first DPO loss is {loss:.4f}, not ln 2 = 0\.6931"
        ):
            watch.on_log(*arguments, logs={"loss": loss})
    else:
        watch.on_log(*arguments, logs={"loss": loss})


def test_the_worst_group_can_choose_the_best_model_of_any_trainer(
    plain_model, rows: Rows, tokens, tokenizer, tmp_path: Path
) -> None:
    """Also: reward accuracy is TRL's own, on the same pairs and against the same reference."""
    regions = ["north", "south", "south", "west"] * 4
    asked = [
        {**row, "region": region, "user_id": f"u{number}"}
        for number, (row, region) in enumerate(zip(rows, regions, strict=True))
    ]
    args = DPOConfig(
        str(tmp_path),
        max_steps=4,
        learning_rate=1e-2,
        load_best_model_at_end=True,
        metric_for_best_model="opa/worst_group",
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        **QUIET,
    )
    trainer = DPOTrainer(
        model=plain_model,
        args=args,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
    )
    trainer.add_callback(OPACallback(asked, tokenizer, worst_by="region", min_users=4))
    trainer.train()
    found = trainer.evaluate()
    right = [score.margin > 0 for score in score_pairs(trainer.model, tokens)]
    shares = [
        sum(x for x, where in zip(right, regions, strict=True) if where == region)
        / regions.count(region)
        for region in ("north", "south", "west")
    ]
    assert found["eval_opa/worst_group"] == min(shares)
    assert found["eval_opa/worst_group_gap"] == pytest.approx(max(shares) - min(shares))
    by_step = [
        row["eval_opa/worst_group"]
        for row in trainer.state.log_history
        if "eval_opa/worst_group" in row
    ]
    assert trainer.state.best_metric == max(by_step[:2])
    assert found["eval_reward_accuracy"] == pytest.approx(found["eval_rewards/accuracies"])


def test_rows_without_two_groups_are_refused(rows: Rows, tokenizer) -> None:
    asked = [{**row, "region": "north"} for row in rows]
    with pytest.raises(
        UserError, match=r"worst_by=region needs two groups of min_users=5 .* these rows have north"
    ):
        OPACallback(asked, tokenizer, worst_by="region")
    with pytest.raises(UserError, match="these rows have none"):
        OPACallback(rows, tokenizer, worst_by="gender")
