"""Work done once: the answers to one prompt share a row, so that the prompt runs through the model once for both.

    row         p0 p1 ... pn | c0 c1 ... | r0 r1 ...
    positions    0  1 ...  n | n+1   ... | n+1   ...      each answer continues the prompt
    sees        prompt so far | prompt, c | prompt, r      a 4-D mask keeps the answers apart

c0 and r0 are both predicted at pn. Equal to one row an answer, up to the rounding of another order of sums.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mvp_align.scoring.tokens import Answer

ANSWERS_A_ROW = 2
"""A pair. More would share a prompt further, but rows of unlike length waste more than that saves."""


@dataclass(frozen=True, slots=True)
class Row:
    """Answers (indices into the caller's list, and token ids) to one context."""

    context: tuple[int, ...]
    answers: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def length(self) -> int:
        return len(self.context) + sum(len(ids) for _, ids in self.answers)


@dataclass(frozen=True, slots=True)
class Batch:
    """Model inputs [rows, width], and for every answer token, answer by answer: where it is predicted, its id, its owner."""

    ids: Tensor
    positions: Tensor
    mask: Tensor
    """Additive [rows, 1, width, width] in the model's dtype, or [rows, width] where every row holds one answer."""
    row_at: Tensor
    position_at: Tensor
    targets: Tensor
    owners: Tensor


def can_share(model: PreTrainedModel) -> bool:
    """Whether the attention of `model` takes a 4-D mask that means what it says: SDPA or eager, rotary positions (others
    ignore position ids or build masks of their own), no sliding window."""
    config = model.config.get_text_config()
    rotary = getattr(config, "rope_parameters", None) is not None
    if not rotary or config._attn_implementation not in ("sdpa", "eager"):
        return False
    kinds = getattr(config, "layer_types", None)
    windowed = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    return all(kind == "full_attention" for kind in kinds) if kinds else not windowed


def make_rows(answers: Sequence[Answer], share: bool) -> list[Row]:
    """Rows of all answers, longest first; ties by ids, so that the order is fixed."""
    by_context: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    for index, answer in enumerate(answers):
        by_context.setdefault(answer.ids[: answer.start], []).append((index, answer.ids[answer.start :]))
    size = ANSWERS_A_ROW if share else 1
    rows = [
        Row(context, tuple(group[first : first + size]))
        for context, group in by_context.items()
        for first in range(0, len(group), size)
    ]
    return sorted(rows, key=lambda row: (-row.length, row.context, row.answers))


def collate(rows: Sequence[Row], device: torch.device, dtype: torch.dtype) -> Batch:
    width = max(row.length for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    segments = torch.full((len(rows), width), -1, dtype=torch.long)  # 0 the context, 1 and on the answers, -1 padding
    found: list[tuple[int, int, int, int]] = []
    for number, row in enumerate(rows):
        ids[number, : row.length] = torch.tensor([*row.context, *flat(ids for _, ids in row.answers)])
        start = len(row.context)
        positions[number, :start] = torch.arange(start)
        segments[number, :start] = 0
        for segment, (owner, tokens) in enumerate(row.answers, 1):
            end = start + len(tokens)
            positions[number, start:end] = torch.arange(len(row.context), len(row.context) + len(tokens))
            segments[number, start:end] = segment
            predictors = [len(row.context) - 1, *range(start, end - 1)]
            found += [(owner, number, at, token) for at, token in zip(predictors, tokens, strict=True)]
            start = end
    found.sort(key=lambda entry: entry[0])  # stable: tokens stay in order within an answer
    owners, row_at, position_at, targets = torch.tensor(found).T.to(device)
    shared = any(len(row.answers) > 1 for row in rows)
    mask = apart(segments.to(device), dtype) if shared else (segments >= 0).long().to(device)
    return Batch(ids.to(device), positions.to(device), mask, row_at, position_at, targets, owners)


def flat(parts: Iterable[tuple[int, ...]]) -> list[int]:
    return [token for part in parts for token in part]


def apart(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask [rows, 1, width, width]: a token sees the context and its own answer, up to itself.

    Padding sees itself, so that no row of the softmax is empty.
    """
    width = segments.shape[1]
    earlier = torch.ones(width, width, dtype=torch.bool, device=segments.device).tril()
    query, key = segments[:, :, None], segments[:, None, :]
    allowed = earlier & ((key == 0) | (key == query)) & (key >= 0)
    allowed |= torch.eye(width, dtype=torch.bool, device=segments.device)
    return torch.zeros(allowed.shape, dtype=dtype, device=segments.device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )[:, None]
