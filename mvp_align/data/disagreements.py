"""Which pairs disagree: people who were asked to compare the same answers and chose otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mvp_align.data.ceiling import comparison
from mvp_align.data.counterfactuals import origin
from mvp_align.schema import PreferencePair


@dataclass(frozen=True, slots=True)
class Disagreements:
    """Numbers of pairs, each in one place of the three."""

    couples: tuple[tuple[int, int], ...]
    """A pair, and the counterfactual one that was made from it."""
    sides: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    """Of each comparison that people disagree about, the pairs that prefer either answer."""
    agreed: tuple[int, ...]
    """Pairs whose comparison nobody decided otherwise."""

    @property
    def coupled(self) -> int:
        """How many pairs of an epoch can share a step with one that disagrees."""
        return 2 * (len(self.couples) + sum(min(map(len, sides)) for sides in self.sides))

    def __len__(self) -> int:
        both = sum(len(side) for sides in self.sides for side in sides)
        return 2 * len(self.couples) + both + len(self.agreed)

    def order(self, seed: int, epoch: int) -> list[int]:
        """Return all numbers, at random, so that those at 2k and 2k + 1 disagree where possible.

        Each epoch draws anew who meets whom. So with steps of an even number of pairs, two that
        disagree are in one step, where what a model learns about the answers alone cancels. Who
        finds no counterpart stands beside another without one.
        """
        draw = np.random.default_rng([seed, epoch])
        couples: list[tuple[int, int]] = list(self.couples)
        alone: list[int] = list(self.agreed)
        for sides in self.sides:
            one, other = (draw.permutation(side).tolist() for side in sides)
            met = min(len(one), len(other))
            couples += zip(one[:met], other[:met], strict=True)
            alone += one[met:] + other[met:]
        alone = draw.permutation(alone).astype(int).tolist()
        couples += zip(alone[::2], alone[1::2], strict=False)
        numbers = [number for place in draw.permutation(len(couples)) for number in couples[place]]
        return numbers + alone[-1:] * (len(alone) % 2)


def find_disagreements(pairs: Sequence[PreferencePair]) -> Disagreements:
    """Find the pairs that prefer different ones of the same two answers to the same question."""
    number = {pair.id: place for place, pair in enumerate(pairs)}
    couples = [
        (made_from, place)
        for place, pair in enumerate(pairs)
        # a record's own id may end alike
        if (made_from := number.get(origin(pair.id), place)) != place
        and comparison(pair) == comparison(pairs[made_from])
        and pair.chosen == pairs[made_from].rejected
    ]
    taken = {place for couple in couples for place in couple}
    compared: dict[object, dict[str, list[int]]] = {}
    for place, pair in enumerate(pairs):
        if place not in taken:
            compared.setdefault(comparison(pair), {}).setdefault(pair.chosen, []).append(place)
    both, agreed = [], []
    for sides in compared.values():
        if len(sides) == 2:
            one, other = sides.values()
            both.append((tuple(one), tuple(other)))
        else:
            agreed += [place for side in sides.values() for place in side]
    return Disagreements(tuple(couples), tuple(both), tuple(agreed))
