"""Micro-batches arrive packed, and training on them is training on TRL's rows."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import LlamaConfig, Phi3Config
from trl.trainer.dpo_trainer import DataCollatorForPreference

from mvp_align.scoring.packing import Batch, PackedSequence, pack, pack_answers
from mvp_align.training import collator, forward
from mvp_align.training.collator import PACKED, PackedPairs, PackingCollator, read_answers_in_rows

IDS = st.lists(st.integers(1, 90), min_size=1, max_size=9)
EXAMPLE = st.fixed_dictionaries({"prompt_ids": IDS, "chosen_ids": IDS, "rejected_ids": IDS})
COLLATE = DataCollatorForPreference(pad_token_id=0)


@given(st.lists(EXAMPLE, min_size=1, max_size=6))
def test_each_answer_token_is_read_and_has_its_place(examples: list[dict]) -> None:
    rows = COLLATE(examples)
    found = read_answers_in_rows(rows["input_ids"], rows["attention_mask"], rows["completion_mask"])
    expected = [
        (tuple(example["prompt_ids"] + example[kind]), len(example["prompt_ids"]))
        for example in examples
        for kind in ("chosen_ids", "rejected_ids")
    ]
    assert [(answer.ids, answer.start) for answer in found.answers] == expected
    tokens = [token for answer in found.answers for token in answer.ids[answer.start :]]
    predicted = rows["input_ids"][:, 1:].flatten()
    assert predicted[found.places].tolist() == tokens
    assert torch.equal(
        found.places.sort().values, rows["completion_mask"][:, 1:].flatten().nonzero().squeeze(1)
    )


def test_a_micro_batch_travels_through_a_loader_as_it_was_packed() -> None:
    examples = [
        {"prompt_ids": [number, 5, 6], "chosen_ids": [7, 8], "rejected_ids": [9]}
        for number in range(4)
    ]
    collate = PackingCollator(COLLATE, LlamaConfig())
    for workers in (0, 1):
        loader = DataLoader(examples, batch_size=2, collate_fn=collate, num_workers=workers)
        for batch, first in zip(loader, (0, 2), strict=True):
            packed = batch[PACKED].to(torch.device("cpu"), non_blocking=True)
            assert isinstance(packed, PackedPairs)
            rows = COLLATE(examples[first : first + 2])
            found = read_answers_in_rows(
                rows["input_ids"], rows["attention_mask"], rows["completion_mask"]
            )
            expected = pack(pack_answers(found.answers, share=True))
            assert torch.equal(packed.places, found.places)
            assert torch.equal(packed.batch.ids, expected.ids)
            assert torch.equal(packed.batch.targets, expected.targets)
            assert torch.equal(packed.batch.copies, expected.copies)
            assert packed.batch.layout.segments == expected.layout.segments
            assert torch.equal(packed.batch.layout.varlen.keys, expected.layout.varlen.keys)


def test_a_text_that_must_run_alone_stays_unpacked() -> None:
    config = Phi3Config(
        original_max_position_embeddings=8,
        max_position_embeddings=64,
        hidden_size=8,
        num_attention_heads=2,
        pad_token_id=0,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": [1.0, 1.0],
            "long_factor": [2.0, 2.0],
            "original_max_position_embeddings": 8,
        },
    )
    collate = PackingCollator(COLLATE, config)
    short = {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4]}
    long = {"prompt_ids": [*range(1, 9)], "chosen_ids": [3], "rejected_ids": [4]}
    assert PACKED in collate([short])
    assert PACKED not in collate([short, long])


def test_a_run_reads_nothing_back_from_its_rows(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer's forward pass gets packed pairs, also where a loader's process makes them."""
    packed_here: list[int] = []

    def refuse(*_: object) -> None:
        raise AssertionError("the forward pass read its rows")

    def noted(rows: Sequence[PackedSequence]) -> Batch:
        packed_here.append(len(rows))  # a loader's process has a list of its own
        return pack(rows)

    monkeypatch.setattr(forward, "read_answers_in_rows", refuse)
    monkeypatch.setattr(collator, "pack", noted)
    weights = []
    for workers in (0, 1):
        made = bench("train.max_steps=3", f"hardware.loader_workers={workers}")
        trainer = made.dpo()
        packed_here.clear()
        trainer.train()
        assert bool(packed_here) == (workers == 0)
        weights.append(
            {n: p.detach().clone() for n, p in trainer.model.named_parameters() if "lora_" in n}
        )
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
