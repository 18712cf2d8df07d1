"""What occurs twice: near duplicates in a part, and people, pairs and questions of one part in
another.

A comparison is a question with its two answers, whichever way it was decided. Pairs of several
people about the same comparison are no duplicates: they agree or disagree.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

from mvp_align.data.ceiling import Comparison, comparison
from mvp_align.data.checks import DataCheck, found_line
from mvp_align.data.near_duplicates import NEAR, NearIndex, Sketch, sketch
from mvp_align.data.parts import DataPart
from mvp_align.schema import PreferencePair


class PartTexts:
    """A part's comparisons, sketched and indexed.

    `near` has each comparison that is near an earlier one of the part, by number, with that one's
    number and the similarity.
    """

    def __init__(self, part: DataPart) -> None:
        self.name, self.pairs = part.name, part.pairs
        self.first: dict[Comparison, PreferencePair] = {}
        for pair in self.pairs:
            self.first.setdefault(comparison(pair), pair)
        self.sketches: list[Sketch] = [sketch(_text(pair)) for pair in self.first.values()]
        self.index = NearIndex()
        self.near: dict[int, tuple[int, float]] = {}
        for number, made in enumerate(self.sketches):
            if match := self.index.find(made):
                self.near[number] = match
            self.index.add(made)


def _text(pair: PreferencePair) -> str:
    return "\n".join((comparison(pair)[0], *sorted((pair.chosen, pair.rejected))))


def overlap_checks(parts: Sequence[DataPart]) -> Iterator[DataCheck]:
    """Yield near duplicates in each part, and all overlaps of each two parts."""
    texts = [PartTexts(part) for part in parts if part.pairs]
    for one in texts:
        yield _near_check(one)
    for earlier, later in combinations(texts, 2):
        yield _users_check(earlier, later)
        yield from _pair_checks(earlier, later)


def _near_check(one: PartTexts) -> DataCheck:
    ids = [pair.id for pair in one.first.values()]
    return found_line(
        "near duplicates",
        len(one.near),
        len(one.first),
        f"comparisons are near an earlier one (Jaccard similarity {NEAR} or more)",
        "Look at them: near copies count as several pairs, and add little.",
        [f"{ids[here]} ~ {ids[there]} ({how:.2f})" for here, (there, how) in one.near.items()],
        part=one.name,
    )


def _users_check(earlier: PartTexts, later: PartTexts) -> DataCheck:
    trained, tested = ({pair.user_id for pair in one.pairs} for one in (earlier, later))
    shared = sorted(trained & tested)
    return found_line(
        "people in two parts",
        len(shared),
        len(tested),
        f"people of {later.name} are in {earlier.name}, too",
        "Split by person (`mvp-align data split`): training refuses such files.",
        shared,
        bad="fail",
        part=f"{later.name} in {earlier.name}",
    )


def _pair_checks(earlier: PartTexts, later: PartTexts) -> Iterator[DataCheck]:
    """Compare the pairs of two parts: exactly, nearly, and by question alone."""
    where = f"{later.name} in {earlier.name}"
    exact = pairs_in_both(earlier.pairs, later.pairs)
    yield found_line(
        "pairs in two parts",
        len(exact),
        len(later.pairs),
        f"pairs of {later.name} are in {earlier.name} word for word, preferred alike",
        "Split by question, too (`mvp-align data split --apart question`), or accept it:"
        " --accept 'pairs in two parts'.",
        [pair.id for pair in exact],
        bad="fail",
        part=where,
    )
    near = _near_in(earlier, later)
    yield found_line(
        "near pairs in two parts",
        sum(comparison(pair) in near for pair in later.pairs),
        len(later.pairs),
        f"other pairs of {later.name} are nearly those of {earlier.name} (Jaccard {NEAR} or more)",
        "Look at them: what was nearly trained on is partly tested from memory.",
        list(near.values()),
        part=where,
    )
    asked = {comparison(pair)[0] for pair in earlier.pairs}
    shared = sum(comparison(pair)[0] in asked for pair in later.pairs)
    yield DataCheck(
        "questions in two parts",
        where,
        "ok",
        shared,
        len(later.pairs),
        f"{shared:,} of {len(later.pairs):,} pairs of {later.name} ask what {earlier.name} asks",
    )


def pairs_in_both(
    earlier: Sequence[PreferencePair], later: Sequence[PreferencePair]
) -> list[PreferencePair]:
    """Return the pairs of `later` that are in `earlier`: the same texts, preferred alike, by
    whomever."""
    decided = {(comparison(pair), pair.chosen) for pair in earlier}
    return [pair for pair in later if (comparison(pair), pair.chosen) in decided]


def _near_in(earlier: PartTexts, later: PartTexts) -> dict[Comparison, str]:
    """Return comparisons of `later` that are near one of `earlier` but not the same, and how."""
    there = [pair.id for pair in earlier.first.values()]
    found = {}
    for (compared, pair), made in zip(later.first.items(), later.sketches, strict=True):
        if compared not in earlier.first and (match := earlier.index.find(made)):
            found[compared] = f"{pair.id} ~ {there[match[0]]} ({match[1]:.2f})"
    return found
