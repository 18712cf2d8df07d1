"""How far a model gets without knowing who is asking: the number that a result about values has to
be read against."""

from collections import Counter
from collections.abc import Sequence

from mvp_align.schema import PreferencePair


def value_blind_ceiling(pairs: Sequence[PreferencePair]) -> float:
    """The highest acc@0 (share of pairs, 0.5 to 1) that a model can reach which sees the question,
    never the person.

    Such a model answers the same comparison the same way for everyone. Where two people differ over
    the same two answers to the same question it is wrong for one of them, so of each group
    (question, {two answers}) at most the more frequent direction is right. The ceiling is the sum
    of those counts over the number of pairs. At 1.0 these pairs cannot show that a model uses the
    profile; an accuracy above the ceiling proves that it does.

    Exact for models that compare two answers, and for models that score answers one by one
    (log-probabilities) as long as the majorities of no question run in a circle (a over b, b over
    c, c over a); a circle makes it an upper bound.

    Raises:
        ValueError: no pairs.
    """
    if not pairs:
        raise ValueError("no pairs: the ceiling of nothing is not a number")
    directions: dict[tuple[str, frozenset[str]], Counter[str]] = {}
    for pair in pairs:
        group = (pair.question, frozenset((pair.chosen, pair.rejected)))
        directions.setdefault(group, Counter())[pair.chosen] += 1
    return sum(max(counts.values()) for counts in directions.values()) / len(pairs)
