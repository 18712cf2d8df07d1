"""A part of a set that stands for the whole: drawn by the seed, evenly over the groups that the set
is made of.

The first pairs of a set do not: files are sorted, UF-P-4's one user type after another. A larger
draw holds every smaller one, so that answers that are there stay of use.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from hashlib import sha256

from mvp_align.schema import PreferencePair

STRATA = ("user_type", "dimension", "level")
"""What the sets are made of: UF-P-4 of user types, MVPBench of dimensions and levels. Own pairs may
have none of it."""


def draw(pairs: Sequence[PreferencePair], count: int | None, seed: int) -> list[PreferencePair]:
    """`count` of `pairs`, in their order, or all where there are no more: as many of each stratum
    as of any other, as far as each has them. Depends on ids, groups and seed, not on the order."""
    if count is None or count >= len(pairs):
        return list(pairs)
    drawn = {pair.id for pair in drawn_order(pairs, seed)[:count]}
    return [pair for pair in pairs if pair.id in drawn]


def drawn_order(pairs: Sequence[PreferencePair], seed: int) -> list[PreferencePair]:
    """All of `pairs`, so that any first ones are a draw: rounds of one pair of each stratum, in an
    order drawn anew each round."""
    strata: dict[tuple[str, ...], list[PreferencePair]] = defaultdict(list)
    for pair in sorted(pairs, key=lambda pair: _chance(seed, pair.id)):
        strata[_stratum_of(pair)].append(pair)
    rounds = [
        (number, _chance(seed, str(number), *stratum), pair)
        for stratum, members in strata.items()
        for number, pair in enumerate(members)
    ]
    return [pair for _, _, pair in sorted(rounds, key=lambda place: place[:2])]


def drawn_line(pairs: Sequence[PreferencePair], count: int | None, seed: int) -> str:
    """`40 of 480 pairs, drawn by seed 12 evenly over user_type (10 of each of 4)`; empty where all
    are taken."""
    if count is None or count >= len(pairs):
        return ""
    line = f"{count:,} of {len(pairs):,} pairs, drawn by seed {seed}"
    names = ", ".join(name for name in STRATA if any(name in pair.groups for pair in pairs))
    if not names:
        return line
    drawn = Counter(map(_stratum_of, draw(pairs, count, seed)))
    shares = [drawn[stratum] for stratum in {_stratum_of(pair) for pair in pairs}]
    least, most = min(shares), max(shares)
    share = f"{least}" if least == most else f"{least} to {most}"
    return f"{line} evenly over {names} ({share} of each of {len(shares)})"


def _stratum_of(pair: PreferencePair) -> tuple[str, ...]:
    return tuple(pair.groups.get(name, "") for name in STRATA)


def _chance(seed: int, *names: str) -> bytes:
    return sha256("\n".join([str(seed), *names]).encode()).digest()
