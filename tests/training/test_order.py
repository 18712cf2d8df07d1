"""Which pairs share a step under `train.order=disagreeing`, resumed or not."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from mvp_align.errors import UserError
from mvp_align.schema import PreferencePair
from mvp_align.training.pair_trainer import PairTrainer

EPOCHS = ("train.max_steps=null", "train.epochs=3", "train.learning_rate=2e-3")
WORDS = ("train.order=disagreeing", *EPOCHS)


@pytest.fixture
def opposed(few_pairs: list[PreferencePair]) -> list[PreferencePair]:
    """Six questions with two answers each; of four, another person prefers the other."""
    pairs = few_pairs[:6]
    return pairs + [
        replace(p, id=f"{p.id}b", user_id="v", chosen=p.rejected, rejected=p.chosen)
        for p in pairs[:4]
    ]


Taken = list[tuple[tuple[int, ...], tuple[int, ...]]]
"""A step's pairs: token ids of the chosen and of the rejected answer."""


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Taken]:
    """The steps that any trainer takes."""
    seen: list[Taken] = []
    plain = PairTrainer.get_batch_samples

    def watched(self: PairTrainer, *args: Any) -> Any:
        batches, items = plain(self, *args)
        step: Taken = []
        for batch in batches:
            rows = zip(batch["input_ids"], batch["completion_mask"], strict=True)
            answers = [tuple(ids[mask.bool()].tolist()) for ids, mask in rows]
            half = len(answers) // 2
            step += zip(answers[:half], answers[half:], strict=True)
        seen.append(step)
        return batches, items

    monkeypatch.setattr(PairTrainer, "get_batch_samples", watched)
    return seen


def together(steps: Sequence[Taken]) -> int:
    """Count the pairs of all steps whose opposite is in the same step."""
    return sum((rejected, chosen) in step for step in steps for chosen, rejected in step)


def test_pairs_that_disagree_share_a_step(bench, opposed, steps) -> None:
    made = bench(*WORDS, "train.micro_batch_size=1", pairs=opposed)
    assert made.plan.disagreements.coupled == 8
    made.dpo().train()
    assert [len(step) for step in steps] == [4, 4, 2] * 3
    assert together(steps) == 3 * 8
    assert len({tuple(map(tuple, steps[n : n + 3])) for n in (0, 3, 6)}) == 3  # epochs differ
    steps.clear()
    bench(*EPOCHS, pairs=opposed).dpo().train()
    assert together(steps) < 3 * 8


@pytest.mark.parametrize("stopped_at", [5, 6])  # amid an epoch, and at its end
def test_a_resumed_run_takes_the_steps_that_were_left(
    bench, losses, opposed, steps, stopped_at: int
) -> None:
    made = bench(*WORDS, f"train.save_steps={stopped_at}", pairs=opposed)
    whole = made.dpo()
    whole.train()
    taken = list(steps)
    steps.clear()
    resumed = made.dpo()
    folder = made.folder / "checkpoints" / f"checkpoint-{stopped_at}"
    resumed.train(resume_from_checkpoint=str(folder))
    assert steps == taken[stopped_at:]
    assert losses(resumed) == losses(whole)
    for (name, found), (_, expected) in zip(
        resumed.model.named_parameters(), whole.model.named_parameters(), strict=True
    ):
        assert torch.equal(found, expected), name


def test_a_run_of_less_than_an_epoch_draws_couples(bench, opposed, steps) -> None:
    made = bench("train.order=disagreeing", "train.max_steps=1", pairs=opposed)
    assert len(made.plan.train) == 4
    made.dpo().train()
    assert together(steps) == made.plan.disagreements.coupled


def test_nobody_to_disagree_with_is_refused(bench, few_pairs) -> None:
    with pytest.raises(UserError, match=r"train\.order=disagreeing: of 16 training pairs no two"):
        bench(*WORDS, pairs=few_pairs)


def test_an_odd_step_is_refused(bench, opposed) -> None:
    with pytest.raises(UserError, match=r"make train\.batch_size=3 even"):
        bench(*WORDS, "train.batch_size=3", "train.micro_batch_size=1", pairs=opposed)
