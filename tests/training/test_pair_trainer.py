"""Regrouping keeps all pairs, in micro-batches of similar length."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.dpo_trainer import DataCollatorForPreference

from mvp_align.scoring.methods import scoring_method
from mvp_align.training.pair_trainer import regroup_by_length

IDS = st.lists(st.integers(1, 90), min_size=1, max_size=9)
EXAMPLE = st.fixed_dictionaries({"prompt_ids": IDS, "chosen_ids": IDS, "rejected_ids": IDS})
COLLATE = DataCollatorForPreference(pad_token_id=0)


def collated(examples: list[dict], micro: int) -> list[dict[str, torch.Tensor]]:
    for number, example in enumerate(examples):
        example |= {"ref_chosen_logps": -float(number), "ref_rejected_logps": number + 0.5}
    return [COLLATE(examples[first : first + micro]) for first in range(0, len(examples), micro)]


def pairs_in(batches: list[dict[str, torch.Tensor]]) -> list[tuple]:
    found = []
    for batch in batches:
        half = len(batch["input_ids"]) // 2
        for pair in range(half):
            rows = []
            for row in (pair, half + pair):
                kept = batch["attention_mask"][row].bool()
                rows.append(
                    (
                        batch["input_ids"][row][kept].tolist(),
                        batch["completion_mask"][row][kept].tolist(),
                    )
                )
            found.append(
                (
                    *rows,
                    batch["ref_chosen_logps"][pair].item(),
                    batch["ref_rejected_logps"][pair].item(),
                )
            )
    return found


@given(st.lists(EXAMPLE, min_size=2, max_size=12), st.sampled_from([1, 2, 3]))
def test_the_same_pairs_longest_first_and_no_wider_than_needed(
    examples: list[dict], micro: int
) -> None:
    examples = examples[: len(examples) // micro * micro]
    before = collated(examples, micro)
    after = regroup_by_length(before)
    assert sorted(pairs_in(after), key=str) == sorted(pairs_in(before), key=str)
    assert [len(batch["input_ids"]) for batch in after] == [2 * micro] * len(before)
    longest = [int(batch["attention_mask"].sum(1).max()) for batch in after]
    assert longest == sorted(longest, reverse=True)
    if len(after) > 1:
        assert [batch["input_ids"].shape[1] for batch in after] == longest
    padding = [
        sum(int((batch["attention_mask"] == 0).sum()) for batch in batches)
        for batches in (after, before)
    ]
    assert padding[0] <= padding[1]


@given(st.lists(EXAMPLE, min_size=3, max_size=7).filter(lambda examples: len(examples) % 2))
def test_a_short_last_micro_batch_leaves_everything_in_place(examples: list[dict]) -> None:
    before = collated(examples, 2)
    assert regroup_by_length(before) is before


@pytest.mark.parametrize(
    ("loss", "regroups"),
    [("sigmoid", True), ("ipo", True), ("aot", False), ("bco_pair", False), ("sigmoid+sft", False)],
)
def test_only_padded_rows_of_single_pairs_losses_are_regrouped(
    bench, loss: str, regroups: bool
) -> None:
    packed = bench(f"train.loss_type={loss}", "train.max_steps=1")
    assert not packed.dpo().regroups  # there is no padding to save
    padded = replace(packed, placement=replace(packed.placement, attention="eager"))
    assert padded.dpo().regroups is regroups


def test_a_second_seed_computes_no_reference(bench) -> None:
    columns = []
    for seed in (1, 2):
        made = bench(f"seed={seed}", "train.max_steps=null", "train.epochs=1")
        model = made.model()
        passes: list[int] = []
        scoring_method(model.get_base_model())
        model.get_base_model().model.register_forward_hook(
            lambda *_, passes=passes: passes.append(1)
        )
        trainer = made.dpo(model)
        assert bool(passes) is (seed == 1)
        columns.append(
            sorted(
                zip(
                    trainer.train_dataset["ref_chosen_logps"],
                    trainer.train_dataset["prompt"],
                    strict=True,
                )
            )
        )
        trainer.train()
    assert columns[0] == columns[1]
