"""Draw a representative part of a set by the seed, evenly over the set's groups.

The first pairs of a set are not representative, because files are sorted: UF-P-4 has one user type
after another. A larger draw contains every smaller one, so that existing answers stay useful.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from hashlib import sha256

from mvp_align.schema import PreferencePair

STRATA = ("user_type", "dimension", "level")
"""The groups that sets consist of: user types in UF-P-4, dimensions and levels in MVPBench.

A user's own pairs may have none.
"""


def draw(pairs: Sequence[PreferencePair], count: int | None, seed: int) -> list[PreferencePair]:
    """Draw `count` of `pairs`, keeping their order, or return all if there are no more.

    Takes equally many of each stratum, as far as it has enough. Depends on ids, groups and the
    seed, not on the order of pairs.
    """
    if count is None or count >= len(pairs):
        return list(pairs)
    drawn = {pair.id for pair in drawn_order(pairs, seed)[:count]}
    return [pair for pair in pairs if pair.id in drawn]


def drawn_order(pairs: Sequence[PreferencePair], seed: int) -> list[PreferencePair]:
    """Order `pairs` so that every prefix is a draw.

    Takes one pair of each stratum per round, with a new random order of strata in each round.
    """
    strata: dict[tuple[str, ...], list[PreferencePair]] = defaultdict(list)
    for pair in sorted(pairs, key=lambda pair: chance(seed, pair.id)):
        strata[_stratum_of(pair)].append(pair)
    rounds = [
        (number, chance(seed, str(number), *stratum), pair)
        for stratum, members in strata.items()
        for number, pair in enumerate(members)
    ]
    return [pair for _, _, pair in sorted(rounds, key=lambda place: place[:2])]


def drawn_line(pairs: Sequence[PreferencePair], count: int | None, seed: int) -> str:
    """Describe a draw.

    For example, `40 of 480 pairs, drawn by seed 12 evenly over user_type (10 of each of 4)`.
    Returns "" if all pairs are used.
    """
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


def chance(seed: int, *names: str) -> bytes:
    """Return a place in a random order that depends on the seed and the names alone."""
    return sha256("\n".join([str(seed), *names]).encode()).digest()
