"""Share prompts between their answers, and profiles between one user's prompts.

    row         p0 p1 ... pn | q0 ... | c0 c1 ... | r0 ... | q'0 ... | c'0 ... | r'0 ...
    positions    0  1 ...  n | n+1 .. | m+1   ... | m+1 .. | n+1 ... | m'+1 .. | m'+1 ..
    sees        prefix so far| prefix | prefix, q | prefix, q | prefix  | prefix, q' | prefix, q'

A row is a prefix and its branches. A branch is the rest of one prompt, q, and the answers to it, c
and r. The last token of q (or of the prefix, if q is empty) predicts both c0 and r0. The scores
equal those of one row per answer, up to rounding from a different order of summation.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import takewhile

import numpy as np
import torch
from torch import Tensor

from mvp_align.scoring.attention import Layout, Span, lay_out
from mvp_align.scoring.tokens import Answer

WORTH_SHARING = 16
"""Smallest saving, in tokens, for which a branch joins a row."""


@dataclass(frozen=True, slots=True)
class Branch:
    """The rest of one context, and its answers as (index into the caller's list, token ids)."""

    context: tuple[int, ...]
    answers: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def length(self) -> int:
        return len(self.context) + sum(len(ids) for _, ids in self.answers)


@dataclass(frozen=True, slots=True)
class PackedSequence:
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
    """Model inputs [rows, width], and where each answer token is predicted.

    For the answer tokens, answer by answer: row and position of the prediction, id, and owner (the
    index of the answer).

    Packed rows form a single row, separated by `layout`. Padded rows have a `mask` [rows, width].
    The mask of packed rows is empty and 4-D, because transformers passes 4-D masks through; without
    one it would build a tokens x tokens mask.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    layout: Layout | None
    copies: Tensor
    """[rows x width], int64: how many rows would contain the token with one row per answer; 0 for
    padding."""
    row_at: Tensor
    position_at: Tensor
    targets: Tensor
    owners: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        layout = values.pop("layout")
        changed = {name: change(tensor) for name, tensor in values.items()}
        return Batch(**changed, layout=layout and layout.mapped(change))


def pack_answers(
    answers: Sequence[Answer], share: bool, row_tokens: int | None = None
) -> list[PackedSequence]:
    """Group all answers into rows, longest first, with ties ordered by ids.

    Sharing a profile never makes a row longer than `row_tokens`.
    """
    if share:
        rows = _grown(_pairs_of(answers), row_tokens)
    else:
        rows = [
            PackedSequence(
                (), (Branch(answer.ids[: answer.start], ((index, answer.ids[answer.start :]),)),)
            )
            for index, answer in enumerate(answers)
        ]
    return sorted(
        rows,
        key=lambda row: (-row.length, row.prefix, row.branches[0].context, row.branches[0].answers),
    )


def _pairs_of(answers: Sequence[Answer]) -> list[Branch]:
    """Return whole contexts with up to two answers each.

    They are sorted by token ids, so that contexts with a common beginning are neighbours.
    """
    by_context: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    for index, answer in enumerate(answers):
        by_context.setdefault(answer.ids[: answer.start], []).append(
            (index, answer.ids[answer.start :])
        )
    return [
        Branch(context, tuple(group[first : first + 2]))
        for context, group in sorted(by_context.items())
        for first in range(0, len(group), 2)
    ]


def _grown(branches: Sequence[Branch], row_tokens: int | None) -> list[PackedSequence]:
    """Join each branch to the previous row if that saves enough and the row stays short enough."""
    rows: list[PackedSequence] = []
    for branch in branches:
        wider = _join(rows[-1], branch) if rows else None
        apart = rows[-1].length + branch.length if rows else 0
        if wider and wider.length <= min(row_tokens or apart, apart - WORTH_SHARING):
            rows[-1] = wider
        else:
            rows.append(PackedSequence(branch.context, (Branch((), branch.answers),)))
    return rows


def _join(row: PackedSequence, branch: Branch) -> PackedSequence:
    """Add a branch to `row`, cutting the prefix to what all branches share."""
    equal = takewhile(
        lambda tokens: tokens[0] == tokens[1], zip(row.prefix, branch.context, strict=False)
    )
    prefix = tuple(token for token, _ in equal)
    rest = row.prefix[len(prefix) :]
    moved = tuple(Branch(rest + old.context, old.answers) for old in row.branches)
    return PackedSequence(prefix, (*moved, Branch(branch.context[len(prefix) :], branch.answers)))


def one_answer_per_row(rows: Sequence[PackedSequence]) -> list[PackedSequence]:
    """Return one row per answer, in the order of the answers."""
    alone = [
        (index, PackedSequence((), (Branch(row.prefix + branch.context, ((index, ids),)),)))
        for row in rows
        for branch in row.branches
        for index, ids in branch.answers
    ]
    return [row for _, row in sorted(alone, key=lambda pair: pair[0])]


def _copies_per_token(rows: Sequence[PackedSequence]) -> list[int]:
    """Count, for each token of packed `rows`, the rows it would be in with one row per answer."""
    counts: list[int] = []
    for row in rows:
        counts += [row.answers] * len(row.prefix)
        for branch in row.branches:
            counts += [len(branch.answers)] * len(branch.context)
            counts += [1] * sum(len(ids) for _, ids in branch.answers)
    return counts


def batches(rows: Sequence[PackedSequence], tokens: int) -> Iterator[Sequence[PackedSequence]]:
    """Split sorted rows (longest first) into batches of at most `tokens`, but at least one row."""
    first = held = 0
    for end, row in enumerate(rows):
        if end > first and held + row.length > tokens:
            yield rows[first:end]
            first, held = end, 0
        held += row.length
    if rows:
        yield rows[first:]


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens of a row that see the same `context`. `owner` is the index of their answer, if any."""

    tokens: tuple[int, ...]
    position: int
    context: tuple[Span, ...]
    owner: int | None


def _parts(row: PackedSequence, start: int) -> Iterator[Part]:
    """Yield a row's parts in order. The row begins at token `start` of the batch."""
    prefix = (start, start + len(row.prefix))
    yield Part(row.prefix, 0, (), None)
    at = prefix[1]
    for branch in row.branches:
        rest = (at, at + len(branch.context))
        yield Part(branch.context, len(row.prefix), merge_spans((prefix,)), None)
        for index, tokens in branch.answers:
            yield Part(
                tokens, len(row.prefix) + len(branch.context), merge_spans((prefix, rest)), index
            )
        at += branch.length


def merge_spans(spans: tuple[Span, ...]) -> tuple[Span, ...]:
    """Merge adjacent spans and drop empty ones."""
    found: list[Span] = []
    for first, end in spans:
        if found and found[-1][1] == first:
            found[-1] = (found[-1][0], end)
        elif first < end:
            found.append((first, end))
    return tuple(found)


Predicted = tuple[int, int, Sequence[int], tuple[int, ...]]
"""An answer: its owner, its row in the batch, where each token is predicted, and the token ids."""


def pack(rows: Sequence[PackedSequence]) -> Batch:
    """Concatenate all rows into one, on the CPU."""
    ids: list[int] = []
    positions: list[int] = []
    spans: list[tuple[tuple[Span, ...], Span]] = []
    predicted: list[Predicted] = []
    for row in rows:
        for part in _parts(row, len(ids)):
            own = (len(ids), len(ids) + len(part.tokens))
            if part.owner is not None:
                places = [part.context[-1][1] - 1, *range(own[0], own[1] - 1)]
                predicted.append((part.owner, 0, places, part.tokens))
            ids += part.tokens
            positions += range(part.position, part.position + len(part.tokens))
            if (
                spans
                and part.context
                and part.context == merge_spans((*spans[-1][0], spans[-1][1]))
            ):
                # it sees everything that the previous segment sees, and the segment itself
                spans[-1] = (spans[-1][0], (spans[-1][1][0], own[1]))
            elif part.tokens:
                spans.append((part.context, own))
    return Batch(
        _ids(ids)[None],
        _ids(positions)[None],
        torch.empty(1, 1, 0, 0),
        lay_out(spans),
        _ids(_copies_per_token(rows)),
        *_predictions(predicted),
    )


def pad(rows: Sequence[PackedSequence]) -> Batch:
    """Pad rows of one answer each on the right, on the CPU."""
    width = max(row.length for row in rows)
    ids, positions, mask = torch.zeros(3, len(rows), width, dtype=torch.long)
    predicted: list[Predicted] = []
    for number, row in enumerate(rows):
        (branch,) = row.branches
        ((owner, tokens),) = branch.answers
        context = row.prefix + branch.context
        ids[number, : row.length] = torch.tensor(context + tokens)
        positions[number, : row.length] = torch.arange(row.length)
        mask[number, : row.length] = 1
        predicted.append((owner, number, range(len(context) - 1, row.length - 1), tokens))
    return Batch(ids, positions, mask, None, mask.flatten(), *_predictions(predicted))


def _predictions(answers: list[Predicted]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return row_at, position_at, targets and owners [n], ordered by owner."""
    answers.sort(key=lambda answer: answer[0])
    owners = _ids(owner for owner, _, _, tokens in answers for _ in tokens)
    row_at = _ids(row for _, row, _, tokens in answers for _ in tokens)
    position_at = _ids(place for _, _, places, _ in answers for place in places)
    targets = _ids(token for *_, tokens in answers for token in tokens)
    return row_at, position_at, targets, owners


def _ids(values: Iterable[int]) -> Tensor:
    """Return an int64 tensor. By way of numpy it takes a fifth of the time."""
    return torch.tensor(np.fromiter(values, np.int64))
