"""Rows: every answer in one place, nothing shared that differs, no longer than allowed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_align.schema import PairScore
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.rows import ROW_TOKENS, WORTH_SHARING, Row, apart, batches, collate, make_rows
from mvp_align.scoring.tokens import Answer, TokenizedPair

TOKENS = st.lists(st.integers(3, 100), min_size=1, max_size=12).map(tuple)


@st.composite
def people(draw: st.DrawFn) -> list[Answer]:
    """Answers of people with profiles of 20 to 40 tokens, who were asked questions of their own and common ones."""
    answers = []
    for person in range(draw(st.integers(1, 3))):
        profile = (person + 1,) * draw(st.integers(20, 40))
        for _ in range(draw(st.integers(1, 4))):
            context = profile + draw(TOKENS)
            answers += [Answer(context + draw(TOKENS), len(context)) for _ in range(draw(st.integers(1, 3)))]
    return answers


def unfolded(rows: list[Row]) -> dict[int, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Index -> context, answer."""
    found = {}
    for row in rows:
        for branch in row.branches:
            for index, ids in branch.answers:
                assert index not in found
                found[index] = row.prefix + branch.context, ids
    return found


@settings(deadline=None)
@given(people(), st.booleans())
def test_every_answer_is_in_one_row_after_its_own_context(answers: list[Answer], share: bool) -> None:
    rows = make_rows(answers, share)
    assert unfolded(rows) == {i: (a.ids[: a.start], a.ids[a.start :]) for i, a in enumerate(answers)}
    assert [row.length for row in rows] == sorted((row.length for row in rows), reverse=True)
    assert sum(row.length for row in rows) <= sum(len(answer.ids) for answer in answers)
    assert make_rows(answers, share) == rows


@given(people())
def test_only_a_beginning_worth_sharing_is_shared(answers: list[Answer]) -> None:
    for row in make_rows(answers, share=True):
        if len(row.branches) > 1:
            assert len(row.prefix) >= WORTH_SHARING
            assert row.length <= ROW_TOKENS


def test_a_row_stays_within_its_length_and_alone_where_sharing_saves_little() -> None:
    profile = tuple(range(3, 43))
    answers = [Answer((*profile, number, *range(50, 60)), 41) for number in range(10)]
    assert [row.answers for row in make_rows(answers, share=True)] == [10]
    assert all(row.length <= 100 for row in make_rows(answers, share=True, row_tokens=100))
    assert max(row.answers for row in make_rows(answers, share=True, row_tokens=100)) == 5
    short = [Answer((*profile[: WORTH_SHARING - 1], 90 + number, 1, 2), WORTH_SHARING) for number in range(5)]
    assert all(row.answers == 1 for row in make_rows(short, share=True))


@given(people(), st.integers(1, 400))
def test_batches_keep_to_their_tokens_and_lose_no_row(answers: list[Answer], tokens: int) -> None:
    rows = make_rows(answers, share=True)
    found = list(batches(rows, tokens))
    assert [row for batch in found for row in batch] == rows
    assert all(len(batch) == 1 or len(batch) * max(row.length for row in batch) <= tokens for batch in found)


def test_a_token_sees_its_context_and_its_own_answer_only() -> None:
    """Written out by hand: a prefix of 20, a branch of 1 with answers of 2 and 1, a branch of 1 with an answer of 1."""
    prefix = (5,) * 20
    answers = [Answer((*prefix, 7, 8, 9), 21), Answer((*prefix, 7, 10), 21), Answer((*prefix, 11, 12), 21)]
    rows = make_rows(answers, share=True)
    assert len(rows) == 1
    batch = collate(rows, torch.device("cpu"), torch.float32)
    assert batch.ids[0, 20:].tolist() == [7, 8, 9, 10, 11, 12]
    assert batch.positions[0, 19:].tolist() == [19, 20, 21, 22, 21, 20, 21]
    seen = (batch.mask[0, 0, 20:, 20:] == 0).int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],  # 7
        [1, 1, 0, 0, 0, 0],  # 7 8
        [1, 1, 1, 0, 0, 0],  # 7 8 9
        [1, 0, 0, 1, 0, 0],  # 7 10
        [0, 0, 0, 0, 1, 0],  # 11
        [0, 0, 0, 0, 1, 1],  # 11 12
    ]
    assert (batch.mask[0, 0, 20:, :20] == 0).all()
    assert batch.targets.tolist() == [8, 9, 10, 12]
    assert batch.position_at.tolist() == [20, 21, 20, 24]
    assert batch.owners.tolist() == [0, 0, 1, 2]


def test_padding_leaves_no_softmax_empty() -> None:
    branch_of, answer_of = torch.tensor([[-1, 0, -2, -2]]), torch.tensor([[-1, 0, -1, -1]])
    assert ((apart(branch_of, answer_of, torch.float32)[0, 0] == 0).sum(1) > 0).all()


@pytest.mark.parametrize("row_tokens", [0, 60, 10_000])
def test_sharing_profiles_does_not_move_a_score(load_sharp, monkeypatch, row_tokens: int) -> None:
    """The same pairs with rows of one pair, of some and of all; against one answer a row."""
    model = load_sharp()
    pairs = []
    for person in range(3):
        profile = tuple(range(3 + person, 25 + person))
        for number in range(4):
            context = (*profile, 60 + number, 70 + person)
            chosen, rejected = (*context, *range(80, 82 + number)), (*context, *range(90, 95))
            pairs.append(TokenizedPair(f"{person}-{number}", "", Answer(chosen, 24), Answer(rejected, 24)))
    monkeypatch.setattr(
        "mvp_align.scoring.logps.make_rows", lambda answers, share: make_rows(answers, share, row_tokens)
    )
    found = score_pairs(model, pairs, batch_size=4)
    monkeypatch.setattr("mvp_align.scoring.logps.make_rows", lambda answers, share: make_rows(answers, share=False))
    plain = score_pairs(model, pairs, batch_size=1)

    def numbers(scores: list[PairScore]) -> torch.Tensor:
        return torch.tensor([(s.chosen_logp, s.rejected_logp) for s in scores])

    torch.testing.assert_close(numbers(found), numbers(plain), atol=1e-4, rtol=0)
