"""The accuracy that a model can reach without knowing who asks: a reference for results."""

from collections import Counter
from collections.abc import Sequence

from mvp_align.schema import PreferencePair

Comparison = tuple[str, frozenset[str]]
"""A question and two answers to it."""


def value_blind_ceiling(pairs: Sequence[PreferencePair]) -> float:
    """Return the highest acc@0 (0.5 to 1) that a model can reach from the question alone.

    Such a model answers the same comparison the same way for everyone. If two users disagree about
    the same two answers to the same question, it is wrong for one of them. So of each group
    (question, {two answers}), at most the more frequent direction is right. The ceiling is the sum
    of those counts over the number of pairs. At 1.0, these pairs cannot show that a model uses the
    profile. An accuracy above the ceiling proves that it does.

    The ceiling is exact for models that compare two answers. For models that score answers one by
    one (log-probs), it is exact unless the majorities of a question form a cycle (a over b, b over
    c, c over a), which makes it an upper bound.

    Raises:
        ValueError: if there are no pairs.
    """
    if not pairs:
        raise ValueError("no pairs: the ceiling of nothing is not a number")
    return sum(majority_shares(pairs)) / len(pairs)


def majority_shares(pairs: Sequence[PreferencePair]) -> list[float]:
    """Return what a model that reaches the ceiling gets right, pair by pair, in order.

    1.0 if most of those who compare these two answers to this question prefer the pair's chosen
    one, 0.0 if most prefer the other, and 0.5 if as many prefer either: such a model may take any
    of the two. The mean over all `pairs` is `value_blind_ceiling`. The mean over a group of them is
    how that model serves the group, which is no limit: another model that ignores who is asking
    serves the group better if it sides with it, at the expense of everyone else.
    """
    directions: dict[Comparison, Counter[str]] = {}
    for pair in pairs:
        directions.setdefault(comparison(pair), Counter())[pair.chosen] += 1
    shares = []
    for pair in pairs:
        counts = directions[comparison(pair)]
        lead = 2 * counts[pair.chosen] - counts.total()
        shares.append(0.5 if lead == 0 else float(lead > 0))
    return shares


def comparison(pair: PreferencePair) -> Comparison:
    """Return what a pair compares, whichever way its user decided: the question and two answers."""
    return pair.asked, frozenset((pair.chosen, pair.rejected))
