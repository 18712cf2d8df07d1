"""Micro-batches packed before they reach the GPU.

TRL's collator makes a padded row of each answer. Reading those rows back from the GPU to pack them
would make the processor wait for the GPU, and the GPU then for the packing. So the collator packs
them as well, in the loader's processes where there are some.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from mvp_align.scoring.packing import Batch, pack, pack_answers
from mvp_align.scoring.passes import needs_own_pass
from mvp_align.scoring.tokens import Answer

PACKED = "packed"
"""Key of a micro-batch's `PackedPairs`."""


@dataclass(frozen=True, slots=True)
class AnswersInRows:
    """The answers of TRL's rows, pair by pair, and where its outputs for them belong."""

    answers: tuple[Answer, ...]
    """Chosen and rejected of the first pair, of the second, and so on."""
    places: Tensor
    """[answer tokens], int64. Indices into the flat [2 x pairs, length - 1], answer by answer."""


@dataclass(frozen=True, slots=True)
class PackedPairs:
    batch: Batch
    places: Tensor
    """As in `AnswersInRows`, in the order of the batch's targets."""

    def to(self, device: torch.device, non_blocking: bool = False) -> "PackedPairs":
        places = self.places.to(device, non_blocking=non_blocking)
        return PackedPairs(self.batch.to(device, non_blocking), places)

    def pin_memory(self) -> "PackedPairs":
        return PackedPairs(self.batch.pin_memory(), self.places.pin_memory())


@dataclass(frozen=True, slots=True)
class PackingCollator:
    """TRL's collator, plus the packed micro-batch under the key PACKED.

    A micro-batch with a text so long that it must run alone (LongRoPE) stays unpacked.
    """

    collate: Callable[..., Any]
    """TRL's collator: examples -> micro-batch."""
    config: PreTrainedConfig

    def __call__(self, examples: Sequence[Any]) -> dict[str, Any]:
        batch: dict[str, Any] = self.collate(examples)
        found = read_answers_in_rows(
            batch["input_ids"], batch["attention_mask"], batch["completion_mask"]
        )
        rows = pack_answers(found.answers, share=True)
        if not needs_own_pass(self.config, rows):
            batch[PACKED] = PackedPairs(pack(rows), found.places)
        return batch


def read_answers_in_rows(ids: Tensor, attention: Tensor, in_answer: Tensor) -> AnswersInRows:
    """Read TRL's right-padded rows [2 x pairs, length]: all chosen ones, then all rejected ones.

    `in_answer` is nonzero on the answers' tokens. On a GPU this waits for it.
    """
    pairs, width = len(ids) // 2, ids.shape[1] - 1
    answers, places = [], []
    for row, tokens, length, start in zip(
        range(len(ids)),
        ids.tolist(),
        attention.sum(1).tolist(),
        (in_answer != 0).int().argmax(1).tolist(),
        strict=True,
    ):
        # nothing predicts the first token of a row
        answer = Answer(tuple(tokens[:length]), max(start, 1))
        answers.append(answer)
        places.append(row * width + torch.arange(answer.start - 1, length - 1))
    by_pair = [row for pair in range(pairs) for row in (pair, pairs + pair)]
    return AnswersInRows(
        tuple(answers[row] for row in by_pair), torch.cat([places[row] for row in by_pair])
    )
