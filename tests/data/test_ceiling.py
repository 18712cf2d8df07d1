"""Compare the value-blind ceiling with a brute-force search over all value-blind models."""

from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvp_align.data.ceiling import majority_shares, value_blind_ceiling
from mvp_align.schema import PreferencePair


def pair(question: str, chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair("p", "u", question, chosen, rejected)


def choices(answers: str, questions: str = "QR") -> st.SearchStrategy[list[PreferencePair]]:
    orders = list(permutations(answers, 2))
    one = st.tuples(st.sampled_from(questions), st.sampled_from(orders)).map(
        lambda drawn: pair(drawn[0], *drawn[1])
    )
    return st.lists(one, min_size=1, max_size=12)


def best_scorer(pairs: list[PreferencePair], answers: str) -> float:
    """Return the best acc@0 over all rankings of the answers to each question."""
    questions = sorted({p.question for p in pairs})
    rankings = product(permutations(answers), repeat=len(questions))
    right = 0
    for ranking in rankings:
        rank = dict(zip(questions, ranking, strict=True))
        right = max(
            right,
            sum(
                rank[p.question].index(p.chosen) < rank[p.question].index(p.rejected) for p in pairs
            ),
        )
    return right / len(pairs)


@given(choices("abc"))
def test_no_scorer_of_answers_beats_the_ceiling(pairs: list[PreferencePair]) -> None:
    assert 0.5 <= best_scorer(pairs, "abc") <= value_blind_ceiling(pairs) <= 1


@given(choices("ab", questions="QRS"))
def test_with_two_answers_a_question_a_scorer_reaches_it(pairs: list[PreferencePair]) -> None:
    assert best_scorer(pairs, "ab") == value_blind_ceiling(pairs)


@given(choices("abc"))
def test_no_rule_over_two_answers_beats_it_and_one_reaches_it(pairs: list[PreferencePair]) -> None:
    asked = sorted({(p.question, *sorted((p.chosen, p.rejected))) for p in pairs})
    best = 0
    for firsts in product((True, False), repeat=len(asked)):
        preferred = {
            (q, a if first else b, b if first else a)
            for (q, a, b), first in zip(asked, firsts, strict=True)
        }
        best = max(best, sum((p.question, p.chosen, p.rejected) in preferred for p in pairs))
    assert value_blind_ceiling(pairs) == best / len(pairs)


@given(st.lists(st.text(), min_size=1, unique=True))
def test_one_when_all_questions_differ(questions: list[str]) -> None:
    assert value_blind_ceiling([pair(question, "a", "b") for question in questions]) == 1


@given(choices("abc"))
def test_half_when_everybody_has_an_opponent(pairs: list[PreferencePair]) -> None:
    opponents = [pair(p.question, p.rejected, p.chosen) for p in pairs]
    assert value_blind_ceiling(pairs + opponents) == 0.5


def test_by_hand() -> None:
    pairs = (
        [pair("Q", "a", "b")] * 3
        + [pair("Q", "b", "a")] * 2
        + [pair("Q", "a", "c"), pair("R", "b", "a")]
    )
    assert value_blind_ceiling(pairs) == 5 / 7


def test_cyclic_preferences_make_it_an_upper_bound() -> None:
    circle = [pair("Q", "a", "b"), pair("Q", "b", "c"), pair("Q", "c", "a")]
    assert value_blind_ceiling(circle) == 1
    assert best_scorer(circle, "abc") == 2 / 3


def test_no_pairs() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        value_blind_ceiling([])


def test_what_the_best_model_gets_right_pair_by_pair() -> None:
    pairs = [
        pair("Q", "a", "b"),
        pair("Q", "a", "b"),
        pair("Q", "b", "a"),
        pair("R", "a", "b"),
        pair("R", "b", "a"),
        pair("S", "a", "b"),
    ]
    assert majority_shares(pairs) == [1, 1, 0, 0.5, 0.5, 1]


@given(choices("abc"))
def test_the_shares_of_any_groups_add_up_to_the_ceiling(pairs: list[PreferencePair]) -> None:
    shares = majority_shares(pairs)
    assert sum(shares) / len(pairs) == pytest.approx(value_blind_ceiling(pairs))
    # of every comparison as many pairs as its more frequent direction has
    for compared in {(p.question, frozenset((p.chosen, p.rejected))) for p in pairs}:
        of = [
            (p.chosen, share)
            for p, share in zip(pairs, shares, strict=True)
            if (p.question, frozenset((p.chosen, p.rejected))) == compared
        ]
        chosen = [answer for answer, _ in of]
        assert sum(share for _, share in of) == max(chosen.count(answer) for answer in chosen)
