"""Public forms of preference files: read, trained on, scored, and tokenised as TRL does."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from public_forms import FORMS, SUBJECTS, Ask, PublicForm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer

from mvp_align.config import packaged_prompt
from mvp_align.data.prompts import render_prompts
from mvp_align.data.readers import read_pairs
from mvp_align.scoring.tokens import tokenize_pairs
from mvp_align.training.pair_trainer import PairTrainer

Run = Callable[..., Path]
KEYS = ("prompt_ids", "chosen_ids", "rejected_ids")

ALL = pytest.mark.parametrize("form", FORMS, ids=[form.name for form in FORMS])


@pytest.fixture(scope="module")
def tokenizer(sharp_model: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(sharp_model)
    return loaded


@pytest.fixture(scope="module")
def trls_rows(
    sharp_model: Path, tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[PublicForm, list[Ask]], list[dict[str, list[int]]]]:
    """Token ids of TRL's own DPOTrainer."""
    model = AutoModelForCausalLM.from_pretrained(sharp_model)
    folder = tmp_path_factory.mktemp("trl")

    def rows(form: PublicForm, asked: list[Ask]) -> list[dict[str, list[int]]]:
        trainer = DPOTrainer(
            model=model,
            args=DPOConfig(str(folder), max_length=None, report_to=[], use_cpu=True),
            train_dataset=Dataset.from_list([form.as_trl(ask) for ask in asked]),
            processing_class=tokenizer,
        )
        return [{key: row[key] for key in KEYS} for row in trainer.train_dataset]

    return rows


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The rows that our trainer trains on, while a real run goes on."""
    seen: list[dict[str, Any]] = []
    train = PairTrainer.train

    def watched(self: PairTrainer, *args: Any, **kwargs: Any) -> Any:
        seen.extend({key: row[key] for key in KEYS} for row in self.train_dataset)
        return train(self, *args, **kwargs)

    monkeypatch.setattr(PairTrainer, "train", watched)
    yield seen


@ALL
def test_a_public_form_is_read_trained_on_and_scored(
    form: PublicForm,
    run: Run,
    tmp_path: Path,
    trained_on: list[dict[str, Any]],
    trls_rows: Callable[[PublicForm, list[Ask]], list[dict[str, list[int]]]],
) -> None:
    asked = list(map(Ask, SUBJECTS))
    train, order = form.write_rows(tmp_path, asked[:8])
    (tmp_path / "held").mkdir()
    test, _ = form.write_rows(tmp_path / "held", asked[8:])
    columns = ",".join(f"{ours}:{theirs}" for ours, theirs in form.columns.items())
    folder = run(
        tmp_path / "run",
        "data=files",
        f"data.train={train}",
        f"data.test={test}",
        *[f"data.columns={{{columns}}}"] * bool(columns),
        "evals.ufp4=null",
        "train.max_steps=2",
    )
    assert trained_on == trls_rows(form, order)
    scores = (folder / "scores" / "tuned-in_domain.jsonl").read_text("utf-8").splitlines()
    assert len(scores) == 4 and (folder / "DONE").is_file()
    notes = json.loads((folder / "notes.json").read_text("utf-8"))["notes"]
    told = f"(data.format={form.format})."
    assert any(line.startswith("train: recognised as") and line.endswith(told) for line in notes)


@ALL
def test_scoring_reads_trls_tokens_without_its_eos(
    form: PublicForm,
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerBase,
    trls_rows: Callable[[PublicForm, list[Ask]], list[dict[str, list[int]]]],
) -> None:
    source, order = form.write_rows(tmp_path, list(map(Ask, SUBJECTS[:4])))
    pairs = read_pairs(source, "auto", columns=form.columns).pairs
    texts = render_prompts(pairs, packaged_prompt("paper"), tokenizer)
    # what a chat template writes has an end of turn, and TRL appends none
    eos = [] if texts[0].turns else [tokenizer.eos_token_id]
    for ours, theirs in zip(
        tokenize_pairs(texts, tokenizer).pairs, trls_rows(form, order), strict=True
    ):
        for answer, key in ((ours.chosen, "chosen_ids"), (ours.rejected, "rejected_ids")):
            assert [*answer.ids, *eos] == theirs["prompt_ids"] + theirs[key]
            assert answer.start == len(theirs["prompt_ids"])


@ALL
def test_what_was_recognised_is_said(form: PublicForm, tmp_path: Path) -> None:
    source, order = form.write_rows(tmp_path, list(map(Ask, SUBJECTS[:8])))
    read = read_pairs(source, "auto", columns=form.columns)
    assert (read.format, read.records, read.left_out) == (form.format, 8, {})
    assert form.said in read.form
    for pair, ask in zip(read.pairs, order, strict=True):
        assert ask.question in pair.question
        assert (pair.chosen.strip(), pair.rejected.strip()) == (ask.chosen, ask.rejected)
        assert "user_type" not in pair.groups
    named = read_pairs(source, form.format, columns=form.columns)
    assert (named.pairs, named.form) == (read.pairs, "")
