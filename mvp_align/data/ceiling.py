"""The accuracy that a model can reach without knowing who asks: a reference for results."""

from collections import Counter
from collections.abc import Sequence

from mvp_align.schema import PreferencePair


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
    directions: dict[tuple[str, frozenset[str]], Counter[str]] = {}
    for pair in pairs:
        directions.setdefault(comparison(pair), Counter())[pair.chosen] += 1
    return sum(max(counts.values()) for counts in directions.values()) / len(pairs)


def comparison(pair: PreferencePair) -> tuple[str, frozenset[str]]:
    """Return what a pair compares, whichever way its user decided: the question and two answers."""
    return pair.question, frozenset((pair.chosen, pair.rejected))
