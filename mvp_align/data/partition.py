"""Divide people, and with them their pairs, among training, validation and test.

Without further wishes `data.splits` does it, with the draw by which training holds people out. For
strata and whole countries, units of people are dealt out after iterative stratification (Sechidis,
Tsoumakas and Vlahavas 2011, ECML PKDD): those of the rarest group first, each to the part that
lacks it most.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from mvp_align.data.ceiling import comparison
from mvp_align.data.splits import split_by_user
from mvp_align.data.subsets import chance
from mvp_align.errors import UserError
from mvp_align.metrics.regions import iso3
from mvp_align.metrics.variables import tags_of
from mvp_align.schema import PreferencePair

Apart = Literal["country", "question"]
APART: tuple[Apart, ...] = ("country", "question")
Label = tuple[str, str]
"""A variable and a group of it."""
EACH: Label = ("", "")
"""What every unit has: its people, or one question."""
MIXED_QUESTION = "its question went to another part than its person"


@dataclass(frozen=True, slots=True)
class Wishes:
    """How pairs are to be divided.

    `shares` are those of the people, by part, and sum to 1. `apart` says what no two parts may
    share beside people. `stratify` names group variables whose groups are to have their share of
    pairs in each part.
    """

    shares: Mapping[str, float]
    seed: int
    apart: Sequence[Apart] = ()
    stratify: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Partition:
    """The part of each pair, in order, or None if it was left out; `left_out` counts by reason."""

    parts: list[str | None]
    left_out: dict[str, int]


def partition(pairs: Sequence[PreferencePair], wishes: Wishes) -> Partition:
    """Divide `pairs`. The result depends on ids, groups and the seed, not on the order of pairs.

    With `apart=["question"]` questions are dealt to the parts as well, those that are asked in one
    part alone to that one, and a pair whose person and question went to different parts is left
    out.

    Raises:
        UserError: if a share is outside (0, 1), a variable or country is missing, a person has two
            countries, or a part would be empty.
    """
    shares = wishes.shares
    if not all(0 < share < 1 for share in shares.values()) or sum(shares.values()) > 1 + 1e-9:
        said = ", ".join(f"{part} {share:g}" for part, share in shares.items())
        raise UserError(f"The shares are {said}: each must lie between 0 and 1, and their sum too.")
    if wishes.stratify or "country" in wishes.apart:
        part_of_user = _dealt(pairs, wishes)
    else:
        part_of_user = _drawn(pairs, wishes)
    parts: list[str | None] = [part_of_user[pair.user_id] for pair in pairs]
    left_out: dict[str, int] = {}
    if "question" in wishes.apart:
        asked = _question_parts(pairs, part_of_user, wishes)
        kept = [asked[comparison(pair)[0]] == part_of_user[pair.user_id] for pair in pairs]
        parts = [part if keep else None for part, keep in zip(parts, kept, strict=True)]
        left_out = {MIXED_QUESTION: kept.count(False)} if not all(kept) else {}
    if empty := [part for part in shares if part not in parts]:
        raise UserError(
            f"Nothing is left for {' and '.join(empty)}: give more people, a larger share, or fewer"
            " wishes (--apart, --stratify)."
        )
    return Partition(parts, left_out)


def _drawn(pairs: Sequence[PreferencePair], wishes: Wishes) -> dict[str, str]:
    """Split by `split_by_user`: the test people first, as training would hold them out."""
    part_of: dict[str, str] = {}
    rest, left = list(pairs), 1.0
    for part in ("test", "val"):
        if part in wishes.shares:
            rest, taken = split_by_user(rest, wishes.shares[part] / left, wishes.seed)
            left -= wishes.shares[part]
            part_of |= dict.fromkeys((pair.user_id for pair in taken), part)
    return part_of | dict.fromkeys((pair.user_id for pair in rest), "train")


def _dealt(pairs: Sequence[PreferencePair], wishes: Wishes) -> dict[str, str]:
    """Deal out people, or with `apart=["country"]` whole countries."""
    unit_of = _units(pairs, whole_countries="country" in wishes.apart)
    labels = _labels(pairs, [unit_of[pair.user_id] for pair in pairs], wishes.stratify)
    for unit in unit_of.values():
        labels[unit][EACH] += 1
    part_of = _deal(labels, wishes)
    return {user: part_of[unit] for user, unit in unit_of.items()}


def _deal(labels: Mapping[str, Counter[Label]], wishes: Wishes) -> dict[str, str]:
    """Deal units to the parts by what `labels` counts in each: the rarest label first."""
    total: Counter[Label] = Counter()
    for counts in labels.values():
        total.update(counts)
    lacking = {
        part: {label: share * count for label, count in total.items()}
        for part, share in wishes.shares.items()
    }
    rarest = {
        unit: min(counts, key=lambda label: (total[label], label))
        for unit, counts in labels.items()
    }

    def turn(unit: str) -> tuple[object, ...]:
        label = rarest[unit]
        return total[label], label, -labels[unit][EACH], chance(wishes.seed, unit)

    part_of: dict[str, str] = {}
    for unit in sorted(labels, key=turn):
        label, draw = rarest[unit], partial(chance, wishes.seed, unit)
        part_of[unit] = part = max(
            lacking, key=lambda part: (lacking[part][label], lacking[part][EACH], draw(part))
        )
        for label, count in labels[unit].items():
            lacking[part][label] -= count
    return part_of


def _units(pairs: Sequence[PreferencePair], *, whole_countries: bool) -> dict[str, str]:
    """Return the unit of each person: the person, or their country of birth by its ISO-3 code."""
    users = sorted({pair.user_id for pair in pairs})
    if not whole_countries:
        return {user: user for user in users}
    countries: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        country = tags_of(pair).get("birth_country", "")
        countries[pair.user_id].add(iso3(country) or country.strip().casefold())
    missing = [user for user, found in countries.items() if "" in found]
    several = [user for user, found in countries.items() if len(found) > 1]
    for wrong, what in ((missing, "have no birth_country"), (several, "have several countries")):
        if wrong:
            raise UserError(
                f"--apart country: {len(wrong)} people {what}: {', '.join(sorted(wrong)[:5])}."
                " Correct their records, or leave --apart country out."
            )
    return {user: next(iter(found)) for user, found in countries.items()}


def _labels(
    pairs: Sequence[PreferencePair], units: Sequence[str], stratify: Sequence[str]
) -> dict[str, Counter[Label]]:
    """Count the pairs of each unit (`units` has one a pair) in each group of the variables."""
    labels: dict[str, Counter[Label]] = defaultdict(Counter)
    known: set[str] = set()
    for pair, unit in zip(pairs, units, strict=True):
        tags = tags_of(pair)
        known |= {*tags}
        labels[unit].update((name, tags[name]) for name in stratify if name in tags)
    if unknown := [name for name in stratify if name not in known]:
        raise UserError(
            f"--stratify {','.join(unknown)}: no record has it. They have"
            f" {', '.join(sorted(known)) or 'no groups'}."
        )
    return labels


def _question_parts(
    pairs: Sequence[PreferencePair], part_of_user: Mapping[str, str], wishes: Wishes
) -> dict[str, str]:
    """Return the part of each question.

    One that people of a single part are asked goes there. The others are dealt out by the shares.
    """
    questions = [comparison(pair)[0] for pair in pairs]
    asked_in: dict[str, set[str]] = defaultdict(set)
    for pair, question in zip(pairs, questions, strict=True):
        asked_in[question].add(part_of_user[pair.user_id])
    labels = _labels(pairs, questions, wishes.stratify)
    mixed = {}
    for question, found in asked_in.items():
        if len(found) > 1:
            mixed[question] = labels[question] + Counter({EACH: 1})
    alone = {question: min(found) for question, found in asked_in.items() if len(found) == 1}
    return alone | _deal(mixed, wishes)
