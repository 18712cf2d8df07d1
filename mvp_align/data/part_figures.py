"""Figures of one part of a data set: sizes, lengths, and what each group of its pairs is like."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mvp_align.config import Evals
from mvp_align.data.ceiling import comparison, majority_shares
from mvp_align.data.lengths import LENGTHS, PERCENTILES, longer_values
from mvp_align.data.parts import DataPart
from mvp_align.metrics.intervals import clustered_mean
from mvp_align.metrics.variables import STATED, tags_of
from mvp_align.schema import PreferencePair

TokenCounts = Callable[[Sequence[str]], list[int]]
"""The number of tokens of each text, without special ones."""


@dataclass(frozen=True, slots=True)
class LengthFigures:
    """Percentiles of a text's lengths in a unit: characters, words or tokens."""

    text: str
    unit: str
    percentiles: Mapping[str, int]


def percentile_names() -> list[str]:
    """Return the heads of a table of `LengthFigures.percentiles`."""
    return [f"{q} %" if q < 100 else "longest" for q in PERCENTILES]


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """One group of the pairs, or all of them if `group_by` is empty.

    `ceiling` is what the best model gets right of the group that ignores who is asking, 0 to 1
    (`data.ceiling.majority_shares`). `longer` is the share of pairs whose longer answer (in
    characters) wins, with its 95 % interval clustered by person.
    """

    group_by: str
    group: str
    pairs: int
    users: int
    ceiling: float
    longer: float
    longer_low: float | None
    longer_high: float | None


@dataclass(frozen=True, slots=True)
class PartFigures:
    """What a part holds. `held_back` counts groups of too few people to be shown, by variable, as
    (groups, people, pairs)."""

    part: str
    source: str
    format: str
    """By which it was read, also where it was recognised."""
    sha256: str
    records: int
    pairs: int
    users: int
    questions: int
    comparisons: int
    lengths: list[LengthFigures]
    groups: list[GroupFigures]
    held_back: dict[str, tuple[int, int, int]]


def part_figures(part: DataPart, count_tokens: TokenCounts | None = None) -> PartFigures | None:
    """Return the figures of a part, or None if it could not be read.

    Tokens are counted if `count_tokens` is given. Groups of fewer than five people are counted
    together (the default of `evals.min_users`).
    """
    if part.read is None or not part.pairs:
        return None
    pairs = part.pairs
    groups, held_back = _groups(pairs)
    return PartFigures(
        part=part.name,
        source=part.source,
        format=part.read.format,
        sha256=part.read.sha256,
        records=part.records,
        pairs=len(pairs),
        users=len({pair.user_id for pair in pairs}),
        questions=len({comparison(pair)[0] for pair in pairs}),
        comparisons=len({comparison(pair) for pair in pairs}),
        lengths=list(_lengths(pairs, count_tokens)),
        groups=groups,
        held_back=held_back,
    )


def _lengths(
    pairs: Sequence[PreferencePair], count_tokens: TokenCounts | None
) -> Iterator[LengthFigures]:
    """Yield the lengths of questions and answers, and in tokens of a question with its longer
    answer, which is what a limit such as `data.max_tokens` is about."""
    texts = {
        "question": [comparison(pair)[0] for pair in pairs],
        "chosen": [pair.chosen for pair in pairs],
        "rejected": [pair.rejected for pair in pairs],
    }
    for unit, length in LENGTHS.items():
        for name, found in texts.items():
            yield _percentiles(name, unit, [length(text) for text in found])
    if count_tokens:
        tokens = {name: np.asarray(count_tokens(found)) for name, found in texts.items()}
        for name, counts in tokens.items():
            yield _percentiles(name, "tokens", counts)
        longer = np.maximum(tokens["chosen"], tokens["rejected"])
        yield _percentiles("question with longer answer", "tokens", tokens["question"] + longer)


def _percentiles(text: str, unit: str, lengths: Sequence[int] | np.ndarray) -> LengthFigures:
    """Return percentiles that are lengths of texts (the lower of two, if it lies between)."""
    values = np.percentile(lengths, PERCENTILES, method="lower")
    return LengthFigures(
        text, unit, {str(q): int(value) for q, value in zip(PERCENTILES, values, strict=True)}
    )


def _groups(
    pairs: Sequence[PreferencePair],
) -> tuple[list[GroupFigures], dict[str, tuple[int, int, int]]]:
    """Return the figures of all pairs and of each group, and what is held back."""
    shares = majority_shares(pairs)
    longer = longer_values([(pair.chosen, pair.rejected) for pair in pairs], LENGTHS["characters"])
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, pair in enumerate(pairs):
        members["", ""].append(number)
        for variable, group in tags_of(pair).items():
            if not variable.startswith(STATED):
                members[variable, group].append(number)
    shown: list[GroupFigures] = []
    held_back: dict[str, tuple[int, int, int]] = {}
    for (variable, group), numbers in sorted(members.items()):
        users = [pairs[number].user_id for number in numbers]
        people = len({*users})
        if variable and people < Evals.min_users:
            groups, others, count = held_back.get(variable, (0, 0, 0))
            held_back[variable] = groups + 1, others + people, count + len(numbers)
            continue
        share = clustered_mean([longer[number] for number in numbers], users, "share")
        shown.append(
            GroupFigures(
                variable,
                group,
                len(numbers),
                people,
                sum(shares[number] for number in numbers) / len(numbers),
                share.value,
                share.low,
                share.high,
            )
        )
    return shown, held_back
