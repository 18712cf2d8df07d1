"""Work done once: answers to one prompt share a row, and so do the prompts of one person, which begin with one profile.

    row         p0 p1 ... pn | q0 ... | c0 c1 ... | r0 ... | q'0 ... | c'0 ... | r'0 ...
    positions    0  1 ...  n | n+1 .. | m+1   ... | m+1 .. | n+1 ... | m'+1 .. | m'+1 ..
    sees        prefix so far| prefix | prefix, q | prefix, q | prefix  | prefix, q' | prefix, q'

A row is a prefix and its branches; a branch is the rest of one prompt, q, and the answers to it, c and r. A 4-D mask keeps
branches, and the answers of a branch, apart. c0 and r0 are both predicted at the last token of q (of the prefix, where q
is empty). Equal to one row an answer, up to the rounding of another order of sums.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mvp_align.scoring.tokens import Answer

ROW_TOKENS = 640
"""Rows grow to this length by sharing a prefix. Attention is computed over a whole row, branches that cannot see each other
included: beyond this that costs more than sharing saves (measured: docs/speed.md)."""

WORTH_SHARING = 16
"""Tokens that a prefix must save for a branch to join a row."""


@dataclass(frozen=True, slots=True)
class Branch:
    """The rest of one context, and the answers to it: indices into the caller's list, and token ids."""

    context: tuple[int, ...]
    answers: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def length(self) -> int:
        return len(self.context) + sum(len(ids) for _, ids in self.answers)


@dataclass(frozen=True, slots=True)
class Row:
    prefix: tuple[int, ...]
    branches: tuple[Branch, ...]

    @property
    def length(self) -> int:
        return len(self.prefix) + sum(branch.length for branch in self.branches)

    @property
    def answers(self) -> int:
        return sum(len(branch.answers) for branch in self.branches)


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


@cache
def say_alone(kind: str) -> None:
    """Once for each class of models that cannot share."""
    print(f"{kind}: its attention takes no 4-D mask here, so each answer carries its own prompt")


def make_rows(answers: Sequence[Answer], share: bool, row_tokens: int = ROW_TOKENS) -> list[Row]:
    """Rows of all answers, longest first; ties by ids, so that the order is fixed."""
    if share:
        rows = grown(pairs_of(answers), row_tokens)
    else:
        rows = [
            Row((), (Branch(answer.ids[: answer.start], ((index, answer.ids[answer.start :]),)),))
            for index, answer in enumerate(answers)
        ]
    return sorted(rows, key=lambda row: (-row.length, row.prefix, row.branches[0].context, row.branches[0].answers))


def pairs_of(answers: Sequence[Answer]) -> list[Branch]:
    """Whole contexts with up to two answers each, in the order of their ids: equal beginnings are neighbours."""
    by_context: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    for index, answer in enumerate(answers):
        by_context.setdefault(answer.ids[: answer.start], []).append((index, answer.ids[answer.start :]))
    return [
        Branch(context, tuple(group[first : first + 2]))
        for context, group in sorted(by_context.items())
        for first in range(0, len(group), 2)
    ]


def grown(branches: Sequence[Branch], row_tokens: int) -> list[Row]:
    """Each branch joins the row before it where their common beginning saves enough and the row stays short enough."""
    rows: list[Row] = []
    for branch in branches:
        joined = join(rows[-1], branch) if rows else None
        apart = rows[-1].length + branch.length if rows else 0
        if joined and joined.length <= min(row_tokens, apart - WORTH_SHARING):
            rows[-1] = joined
        else:
            rows.append(Row(branch.context, (Branch((), branch.answers),)))
    return rows


def join(row: Row, branch: Branch) -> Row:
    """`row` with one more branch, its prefix cut to what all of them begin with."""
    equal = takewhile(lambda tokens: tokens[0] == tokens[1], zip(row.prefix, branch.context, strict=False))
    prefix = tuple(token for token, _ in equal)
    rest = row.prefix[len(prefix) :]
    moved = tuple(Branch(rest + old.context, old.answers) for old in row.branches)
    return Row(prefix, (*moved, Branch(branch.context[len(prefix) :], branch.answers)))


def batches(rows: Sequence[Row], tokens: int) -> Iterator[Sequence[Row]]:
    """Consecutive rows (sorted, longest first) that, padded to the longest, hold at most `tokens`; at least one row."""
    first = 0
    while first < len(rows):
        count = max(1, tokens // rows[first].length)
        yield rows[first : first + count]
        first += count


def collate(rows: Sequence[Row], device: torch.device, dtype: torch.dtype) -> Batch:
    width = max(row.length for row in rows)
    ids, positions = torch.zeros(2, len(rows), width, dtype=torch.long)
    branch_of = torch.full((len(rows), width), NONE)
    answer_of = torch.full((len(rows), width), ALL)
    found: list[tuple[int, int, int, int]] = []
    for number, row in enumerate(rows):
        at = 0
        for tokens, position, branch, answer, owner in segments(row):
            part = slice(at, at + len(tokens))
            ids[number, part] = torch.tensor(tokens, dtype=torch.long)
            positions[number, part] = torch.arange(position, position + len(tokens))
            branch_of[number, part] = branch
            answer_of[number, part] = answer
            if owner is None:
                context_end = part.stop if tokens else len(row.prefix)
            else:
                predictors = (context_end - 1, *range(at, part.stop - 1))
                found += [(owner, number, place, token) for place, token in zip(predictors, tokens, strict=True)]
            at = part.stop
    found.sort(key=lambda entry: entry[0])  # stable: tokens stay in order within an answer
    owners, row_at, position_at, targets = torch.tensor(found).T.to(device)
    if any(row.answers > 1 for row in rows):
        mask = apart(branch_of.to(device), answer_of.to(device), dtype)
    else:
        mask = (branch_of != NONE).long().to(device)
    return Batch(ids.to(device), positions.to(device), mask, row_at, position_at, targets, owners)


ALL, NONE = -1, -2
"""Of a token, in place of the branch or answer it belongs to: all of them see it; it is padding."""


def segments(row: Row) -> Iterator[tuple[tuple[int, ...], int, int, int, int | None]]:
    """Token ids, position of the first, branch, answer within the branch, and the answer's index: in the row's order."""
    yield row.prefix, 0, ALL, ALL, None
    for branch_number, branch in enumerate(row.branches):
        yield branch.context, len(row.prefix), branch_number, ALL, None
        start = len(row.prefix) + len(branch.context)
        for answer_number, (index, tokens) in enumerate(branch.answers):
            yield tokens, start, branch_number, answer_number, index


def apart(branch_of: Tensor, answer_of: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask [rows, 1, width, width]: a token sees, up to itself, the prefix, its branch's context, its own answer.

    Padding sees itself and the prefix, so that no row of the softmax is empty.
    """
    width = branch_of.shape[1]
    earlier = torch.ones(width, width, dtype=torch.bool, device=branch_of.device).tril()
    same_branch = (branch_of[:, None, :] == ALL) | (branch_of[:, None, :] == branch_of[:, :, None])
    same_answer = (answer_of[:, None, :] == ALL) | (answer_of[:, None, :] == answer_of[:, :, None])
    blocked = torch.zeros(same_branch.shape, dtype=dtype, device=branch_of.device)
    return blocked.masked_fill(~(earlier & same_branch & same_answer), torch.finfo(dtype).min)[:, None]
