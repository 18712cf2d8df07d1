"""Packed rows: each answer once, only identical prefixes shared, and the limit respected."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_align.schema import PairScore
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.packing import (
    WORTH_SHARING,
    Batch,
    PackedSequence,
    batches,
    merge_spans,
    pack,
    pack_answers,
    pad,
)
from mvp_align.scoring.tokens import Answer, TokenizedPair

TOKENS = st.lists(st.integers(3, 100), min_size=1, max_size=12).map(tuple)


@st.composite
def people(draw: st.DrawFn) -> list[Answer]:
    """Answers of people with profiles of 20 to 40 tokens, to own and common questions."""
    answers = []
    for person in range(draw(st.integers(1, 3))):
        profile = (person + 1,) * draw(st.integers(20, 40))
        for _ in range(draw(st.integers(1, 4))):
            context = profile + draw(TOKENS)
            answers += [
                Answer(context + draw(TOKENS), len(context)) for _ in range(draw(st.integers(1, 3)))
            ]
    return answers


def unfolded(rows: list[PackedSequence]) -> dict[int, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return (context, answer) by index."""
    found = {}
    for row in rows:
        for branch in row.branches:
            for index, ids in branch.answers:
                assert index not in found
                found[index] = row.prefix + branch.context, ids
    return found


@settings(deadline=None)
@given(people(), st.booleans())
def test_every_answer_is_in_one_row_after_its_own_context(
    answers: list[Answer], share: bool
) -> None:
    rows = pack_answers(answers, share)
    assert unfolded(rows) == {
        i: (a.ids[: a.start], a.ids[a.start :]) for i, a in enumerate(answers)
    }
    assert [row.length for row in rows] == sorted((row.length for row in rows), reverse=True)
    assert sum(row.length for row in rows) <= sum(len(answer.ids) for answer in answers)
    assert pack_answers(answers, share) == rows


@given(people(), st.integers(1, 400))
def test_only_a_beginning_worth_sharing_is_shared(answers: list[Answer], row_tokens: int) -> None:
    for row in pack_answers(answers, share=True, row_tokens=row_tokens):
        if len(row.branches) > 1:
            assert len(row.prefix) >= WORTH_SHARING
            assert row.length <= row_tokens


def test_a_row_stays_within_its_length_and_alone_where_sharing_saves_little() -> None:
    profile = tuple(range(3, 43))
    answers = [Answer((*profile, number, *range(50, 60)), 41) for number in range(10)]
    assert [row.answers for row in pack_answers(answers, share=True)] == [10]
    assert all(row.length <= 100 for row in pack_answers(answers, share=True, row_tokens=100))
    assert max(row.answers for row in pack_answers(answers, share=True, row_tokens=100)) == 5
    short = [
        Answer((*profile[: WORTH_SHARING - 1], 90 + number, 1, 2), WORTH_SHARING)
        for number in range(5)
    ]
    assert all(row.answers == 1 for row in pack_answers(short, share=True))


@given(people(), st.integers(1, 400))
def test_batches_keep_to_their_tokens_and_lose_no_row(answers: list[Answer], tokens: int) -> None:
    rows = pack_answers(answers, share=True)
    found = list(batches(rows, tokens))
    assert [row for batch in found for row in batch] == rows
    assert all(len(batch) == 1 or sum(row.length for row in batch) <= tokens for batch in found)


def seen_in(batch: Batch) -> torch.Tensor:
    """Return the attention mask of a packed batch [tokens, tokens]."""
    tokens = batch.ids.shape[1]
    found = torch.zeros(tokens, tokens, dtype=torch.bool)
    for part, mask in zip(batch.layout.segments, batch.layout.masks, strict=True):
        if mask is None:  # causal
            assert not part.context
            mask = torch.ones(
                part.own[1] - part.own[0], part.own[1] - part.own[0], dtype=torch.bool
            ).tril()
        columns = torch.cat([torch.arange(*span) for span in (*part.context, part.own)])
        assert not found[part.own[0] : part.own[1]].any()
        found[torch.arange(*part.own)[:, None], columns] = mask
    return found


def test_a_token_sees_its_context_and_its_own_answer_only() -> None:
    """Written out by hand: a prefix of 20, a branch of 1 with answers of 2 and 1, a branch of 1
    with an answer of 1."""
    prefix = (5,) * 20
    answers = [
        Answer((*prefix, 7, 8, 9), 21),
        Answer((*prefix, 7, 10), 21),
        Answer((*prefix, 11, 12), 21),
    ]
    rows = pack_answers(answers, share=True)
    assert len(rows) == 1
    batch = pack(rows)
    assert batch.ids[0, 20:].tolist() == [7, 8, 9, 10, 11, 12]
    assert batch.positions[0, 19:].tolist() == [19, 20, 21, 22, 21, 20, 21]
    seen = seen_in(batch)
    assert seen[20:, 20:].int().tolist() == [
        [1, 0, 0, 0, 0, 0],  # 7
        [1, 1, 0, 0, 0, 0],  # 7 8
        [1, 1, 1, 0, 0, 0],  # 7 8 9
        [1, 0, 0, 1, 0, 0],  # 7 10
        [0, 0, 0, 0, 1, 0],  # 11
        [0, 0, 0, 0, 1, 1],  # 11 12
    ]
    assert seen[20:, :20].all()
    assert torch.equal(seen[:20, :20], torch.ones(20, 20, dtype=torch.bool).tril())
    assert not seen[:20, 20:].any()
    assert batch.targets.tolist() == [8, 9, 10, 12]
    assert batch.position_at.tolist() == [20, 21, 20, 24]
    assert batch.owners.tolist() == [0, 0, 1, 2]
    # as few as can be
    assert [part.own for part in batch.layout.segments] == [(0, 23), (23, 24), (24, 26)]


@settings(deadline=None)
@given(people())
def test_what_an_answer_sees_is_its_context_and_itself(answers: list[Answer]) -> None:
    """Reading back, at each answer's last token, the ids that it sees, in their order: its own
    sequence and no more."""
    batch = pack(pack_answers(answers, share=True))
    seen = seen_in(batch)
    for index, answer in enumerate(answers):
        mine = batch.owners == index
        assert batch.targets[mine].tolist() == list(answer.ids[answer.start :])
        last = next(  # where the answer's last token is
            place
            for place in range(batch.ids.shape[1])
            if batch.ids[0, seen[place]].tolist() == list(answer.ids)
            and batch.positions[0, place] == len(answer.ids) - 1
        )
        assert batch.positions[0, seen[last]].tolist() == list(range(len(answer.ids)))
        for place, token in zip(
            batch.position_at[mine].tolist(), range(answer.start, len(answer.ids)), strict=True
        ):
            assert batch.ids[0, seen[place]].tolist() == list(answer.ids[:token])


@given(people())
def test_padded_rows_hold_an_answer_each(answers: list[Answer]) -> None:
    batch = pad(pack_answers(answers, share=False))
    assert (
        batch.mask.shape
        == batch.ids.shape
        == (len(answers), max(len(answer.ids) for answer in answers))
    )
    for index, answer in enumerate(answers):
        (row,) = set(batch.row_at[batch.owners == index].tolist())
        assert batch.ids[row, batch.mask[row] == 1].tolist() == list(answer.ids)
        assert batch.position_at[batch.owners == index].tolist() == list(
            range(answer.start - 1, len(answer.ids) - 1)
        )


def test_spans_that_touch_are_one() -> None:
    assert merge_spans(((0, 3), (3, 3), (3, 5), (7, 9), (9, 9))) == ((0, 5), (7, 9))
    assert merge_spans(()) == merge_spans(((4, 4),)) == ()


@pytest.mark.parametrize("row_tokens", [1, 60, 10_000])
def test_sharing_profiles_does_not_move_a_score(load_sharp, monkeypatch, row_tokens: int) -> None:
    """The same pairs with rows of one pair, of some and of all; against one answer a row."""
    model = load_sharp()
    pairs = []
    for person in range(3):
        profile = tuple(range(3 + person, 25 + person))
        for number in range(4):
            context = (*profile, 60 + number, 70 + person)
            chosen, rejected = (*context, *range(80, 82 + number)), (*context, *range(90, 95))
            pairs.append(
                TokenizedPair(f"{person}-{number}", "", Answer(chosen, 24), Answer(rejected, 24))
            )
    monkeypatch.setattr(
        "mvp_align.scoring.logps.pack_answers",
        lambda answers, share, _: pack_answers(answers, share, row_tokens),
    )
    found = score_pairs(model, pairs, batch_size=4)
    monkeypatch.undo()
    plain = score_pairs(load_sharp(attn_implementation="eager"), pairs, batch_size=1)

    def numbers(scores: list[PairScore]) -> torch.Tensor:
        return torch.tensor([(s.chosen_logp, s.rejected_logp) for s in scores])

    torch.testing.assert_close(numbers(found), numbers(plain), atol=1e-4, rtol=0)
