"""Who disagrees with whom, against a search by hand, and the order that brings them together."""

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from mvp_align.data.counterfactuals import SUFFIX
from mvp_align.data.disagreements import find_disagreements
from mvp_align.schema import PreferencePair


def pair(number: int, question: str, chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair(f"p{number}", "u", question, chosen, rejected)


DRAWN = st.lists(
    st.tuples(st.sampled_from("QR"), st.sampled_from(["ab", "ba", "ac", "ca"])), max_size=14
).map(lambda drawn: [pair(at, q, *answers) for at, (q, answers) in enumerate(drawn)])


def disagree(one: PreferencePair, other: PreferencePair) -> bool:
    return (one.question, one.chosen, one.rejected) == (
        other.question, other.rejected, other.chosen
    )  # fmt: skip


def met(pairs: Sequence[PreferencePair], order: Sequence[int]) -> int:
    """Count the pairs that stand beside one that disagrees, two by two."""
    twos = zip(order[::2], order[1::2], strict=False)
    return sum(2 * disagree(pairs[one], pairs[other]) for one, other in twos)


@given(DRAWN, st.integers(0, 3), st.integers(0, 3))
def test_as_many_as_can_stand_side_by_side(
    pairs: list[PreferencePair], seed: int, epoch: int
) -> None:
    found = find_disagreements(pairs)
    sides = Counter((p.question, p.chosen, p.rejected) for p in pairs)
    most = sum(min(n, sides[q, other, one]) for (q, one, other), n in sides.items())
    order = found.order(seed, epoch)
    assert sorted(order) == list(range(len(pairs)))
    assert met(pairs, order) == found.coupled == most
    assert order == found.order(seed, epoch)


def test_each_epoch_draws_anew() -> None:
    pairs = [pair(n, "Q", *("ab" if n % 3 else "ba")) for n in range(30)]
    found = find_disagreements(pairs)
    orders = [found.order(seed, epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    partners = [frozenset(zip(order[:20:2], order[1:20:2], strict=True)) for order in orders]
    assert len({*partners}) == 4


def test_a_counterfactual_pair_meets_the_pair_it_was_made_from() -> None:
    pairs = [pair(n, "Q", "a", "b") for n in range(6)]
    made = [PreferencePair(p.id + SUFFIX, "u", "Q", "b", "a") for p in pairs]
    found = find_disagreements([*pairs, *made])
    assert found.coupled == 12
    order = found.order(12, 0)
    twos = {frozenset(two) for two in zip(order[::2], order[1::2], strict=True)}
    assert twos == {frozenset((n, n + 6)) for n in range(6)}


def test_an_id_that_only_looks_counterfactual_makes_no_couple() -> None:
    pairs = [pair(0, "Q", "a", "b"), PreferencePair(f"p0{SUFFIX}", "u", "Q", "a", "b")]
    found = find_disagreements(pairs)
    assert (found.coupled, sorted(found.order(12, 0))) == (0, [0, 1])
