"""Texts that are nearly the same, found by MinHash (Broder 1997) and locality-sensitive hashing.

Two texts are compared by the sets of their runs of five characters, which need no word boundaries:
it works in every script, and a typo changes five runs. MinHash only proposes candidates. Their
similarity is then computed from the sets themselves, so that what is reported is near indeed.

Buckets are of bounded size, which they are not in the library `datasketch`: where all texts share
a long passage, such as a system prompt, most of them fall into the same buckets, and comparing each
with all takes time quadratic in their number.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mvp_align.data.histories import normalised

NEAR = 0.8
"""Jaccard similarity from which texts are near: in a text of 500 characters, about 50 may differ
if they are together."""
RUN = 5
"""Characters a run has."""
BANDS, ROWS = 21, 6
"""A text at similarity s is proposed with probability 1 - (1 - s^ROWS)^BANDS: 99.8 % at 0.8,
27 % at 0.5."""
BUCKET = 64
"""Texts that a bucket keeps. One that is full holds what many texts share; those that are near each
other meet in other, smaller buckets too, unless all are near to those that it kept."""
TRIED = 16
"""Candidates whose similarity is computed, the best estimates first."""
CHUNK = 256
"""Runs hashed at once: BANDS * ROWS hashes of each then fit a core's cache."""

Hashes = npt.NDArray[np.uint32]

_DRAWN = np.random.default_rng(12).integers(0, 2**32, (2, BANDS * ROWS, 1), dtype=np.uint32)
_FACTORS, _SUMMANDS = _DRAWN[0] | np.uint32(1), _DRAWN[1]
"""Of the permutations h -> a h + b modulo 2^32, of which an odd `a` makes a bijection."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """A text's distinct runs, hashed and sorted, and their MinHash [BANDS, ROWS]."""

    runs: Hashes
    minhash: Hashes


def sketch(text: str) -> Sketch:
    """Sketch a text without differences in case, spaces and encoding."""
    runs = _runs(normalised(text))
    minhash = np.full(BANDS * ROWS, 2**32 - 1, dtype=np.uint32)
    for start in range(0, len(runs), CHUNK):
        permuted = _FACTORS * runs[start : start + CHUNK] + _SUMMANDS
        np.minimum(minhash, permuted.min(axis=1), out=minhash)
    return Sketch(runs, minhash.reshape(BANDS, ROWS))


def _runs(text: str) -> Hashes:
    """Return hashes of the distinct runs of RUN characters, or of the whole of a shorter text."""
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    length = min(RUN, len(letters))
    hashes = np.zeros(len(letters) - length + 1, dtype=np.uint32)
    for place in range(length):  # a polynomial in an odd number, modulo 2^32
        hashes = hashes * np.uint32(1_000_003) + letters[place : place + len(hashes)]
    return np.unique(_mixed(hashes))


def _mixed(hashes: Hashes) -> Hashes:
    """Spread hashes over all 32 bits (the finalizer of MurmurHash3, a bijection)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        hashes = (hashes ^ (hashes >> np.uint32(shift))) * np.uint32(factor)
    return hashes ^ (hashes >> np.uint32(16))


def similarity(one: Sketch, other: Sketch) -> float:
    """Return the Jaccard similarity of two texts' runs, from 0 to 1."""
    return _jaccard(one.runs, other.runs)


def text_similarity(one: str, other: str) -> float:
    """Return `similarity` of two texts that are compared with nothing else, without MinHash."""
    return _jaccard(_runs(normalised(one)), _runs(normalised(other)))


def _jaccard(one: Hashes, other: Hashes) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


class NearIndex:
    """Texts, numbered from 0 as they are added, to be asked which of them a text is near to."""

    def __init__(self) -> None:
        self._sketches: list[Sketch] = []
        self._buckets: list[dict[bytes, list[int]]] = [{} for _ in range(BANDS)]

    def find(self, text: Sketch) -> tuple[int, float] | None:
        """Return the number of a near text, and the similarity: the nearest of those found."""
        candidates = {
            number
            for band, buckets in zip(text.minhash, self._buckets, strict=True)
            for number in buckets.get(band.tobytes(), ())
        }
        found = [
            (similarity(text, self._sketches[number]), -number)
            for number in self._best(text, sorted(candidates))
        ]
        best, number = max(found, default=(0.0, 0))
        return (-number, best) if best >= NEAR else None

    def add(self, text: Sketch) -> None:
        for band, buckets in zip(text.minhash, self._buckets, strict=True):
            bucket = buckets.setdefault(band.tobytes(), [])
            if len(bucket) < BUCKET:
                bucket.append(len(self._sketches))
        self._sketches.append(text)

    def _best(self, text: Sketch, numbers: list[int]) -> list[int]:
        """Return the TRIED texts that share the most hashes, which estimates similarity."""
        if len(numbers) <= TRIED:
            return numbers
        hashes = np.stack([self._sketches[number].minhash for number in numbers])
        shared = (hashes == text.minhash).sum(axis=(1, 2))
        return [numbers[place] for place in np.argsort(-shared, kind="stable")[:TRIED]]
