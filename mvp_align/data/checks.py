"""Checks of one part of a data set: each gives a line that says what was found and what helps."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mvp_align.config import Evals
from mvp_align.data.ceiling import comparison, value_blind_ceiling
from mvp_align.data.formats.record import names_person
from mvp_align.data.histories import normalised
from mvp_align.data.lengths import LENGTHS, longer_values
from mvp_align.data.parts import DataPart
from mvp_align.data.sample import published
from mvp_align.metrics.intervals import clustered_mean
from mvp_align.metrics.regions import NOT_SAID, iso3
from mvp_align.schema import PreferencePair

Outcome = Literal["ok", "warn", "fail"]

SHOWN = 5
"""Examples that a check names."""
EVEN = (0.4, 0.6)
"""Where the share of pairs whose longer answer wins should lie."""
MOST_OF = 0.5
"""Share of the people from which a country counts for more than all others."""
VOCABULARY = {
    "age": published.AGE,
    "gender": published.GENDER,
    "employment_status": published.EMPLOYMENT,
    "education": published.EDUCATION,
    "marital_status": published.MARITAL,
    "english_proficiency": published.ENGLISH,
}
"""PRISM's answers by profile field. A birth country may be any that `regions.iso3` knows."""


@dataclass(frozen=True, slots=True)
class DataCheck:
    """One line of `mvp-align data validate`.

    `warn` is worth a look, and `fail` makes results on this data wrong or training impossible.
    `count` of `of` records, pairs or people are concerned. `part` is `train`, or `test in train`.
    """

    check: str
    part: str
    outcome: Outcome
    count: int
    of: int
    found: str
    remedy: str = ""
    examples: tuple[str, ...] = ()


def found_line(
    check: str,
    count: int,
    of: int,
    found: str,
    remedy: str,
    examples: Sequence[str] = (),
    *,
    bad: Outcome = "warn",
    part: str = "",
) -> DataCheck:
    """Return a check that is `bad` if it concerns anything, and ok otherwise."""
    if not count:
        return DataCheck(check, part, "ok", 0, of, f"none of {of:,}")
    shown = tuple(examples[:SHOWN])
    return DataCheck(check, part, bad, count, of, f"{count:,} of {of:,} {found}", remedy, shown)


def reading_check(part: DataPart) -> DataCheck:
    """Return whether every record was read, with the reader's problems if not."""
    if part.read is None:
        head, *problems = part.problem.splitlines()
        return DataCheck(
            "records", part.name, "fail", part.records, part.records, head,
            "Mend the records: until then nothing else is checked here.",
            tuple(line.strip(" -") for line in problems),
        )  # fmt: skip
    read = part.read
    left_out = sum(read.left_out.values())
    notes = [f"{count:,} left out ({reason})" for reason, count in read.left_out.items()]
    notes += [f"{key} of {count:,} not read" for key, count in read.unread.items()]
    unnamed = sum(not names_person(pair) for pair in read.pairs)
    if unnamed:
        notes.append(f"{unnamed:,} name no person: each of their prompts counts as one")
    return DataCheck(
        "records",
        part.name,
        "warn" if notes else "ok",
        left_out,
        read.records,
        "; ".join([f"{read.records:,} records, {len(read.pairs):,} pairs", *notes]),
    )


def _vocabulary(pairs: Sequence[PreferencePair]) -> DataCheck | None:
    """Find profile fields that hold what PRISM's survey has no answer for."""
    strange: Counter[str] = Counter()
    count, profiled = 0, [pair.profile for pair in pairs if pair.profile is not None]
    for profile in profiled:
        values = {name: getattr(profile, name) for name in (*VOCABULARY, "birth_country")}
        unknown = [
            f"{name}: {value!r}"
            for name, value in values.items()
            if value and not (value in VOCABULARY[name] if name in VOCABULARY else _is_place(value))
        ]
        strange.update(unknown)
        count += bool(unknown)
    if not profiled:
        return None
    return found_line(
        "vocabulary",
        count,
        len(profiled),
        "profiles hold what PRISM's survey does not say",
        "Spell fields as PRISM does, or results by group count them as groups of their own.",
        [f"{value} ({times:,} times)" for value, times in strange.most_common()],
    )


def _is_place(country: str) -> bool:
    return country.strip().casefold() in NOT_SAID or iso3(country) is not None


def _preference_texts(pairs: Sequence[PreferencePair]) -> DataCheck | None:
    """Find texts of preferences that say something else than the scores."""
    stated = [pair for pair in pairs if pair.stated_values is not None and pair.preference.strip()]
    wrong = [pair for pair in stated if pair.stated_values and _said(pair.preference) != _said(
        pair.stated_values.preference()
    )]  # fmt: skip
    if not stated:
        return None
    return found_line(
        "preference texts",
        len(wrong),
        len(stated),
        "say something else than the stated scores (High from 80, Low up to 60)",
        "Leave `preference` out and it is made of the scores, or correct the scores.",
        [f"{pair.id}: {pair.preference[:80]}" for pair in wrong],
    )


def _said(preference: str) -> frozenset[str]:
    return frozenset(normalised(part) for part in preference.rstrip(". ").split(","))


def _equal_answers(pairs: Sequence[PreferencePair]) -> DataCheck:
    """Find answers that differ in case, spaces or encoding alone; the reader refuses equal ones."""
    same = [pair.id for pair in pairs if normalised(pair.chosen) == normalised(pair.rejected)]
    return found_line(
        "equal answers",
        len(same),
        len(pairs),
        "pairs have two answers that differ in case, spaces or encoding alone",
        "Leave them out: they prefer nothing that a person would notice.",
        same,
        bad="fail",
    )


def _repeats(pairs: Sequence[PreferencePair]) -> DataCheck:
    """Find pairs that repeat an earlier one of the same person."""
    first: dict[tuple[object, ...], str] = {}
    repeats = []
    for pair in pairs:
        earlier = first.setdefault((pair.user_id, comparison(pair), pair.chosen), pair.id)
        if earlier != pair.id:
            repeats.append(f"{pair.id} = {earlier}")
    return found_line(
        "repeated pairs",
        len(repeats),
        len(pairs),
        "pairs repeat an earlier one of the same person",
        "data.drop_repeats=true keeps one of them in training.",
        repeats,
    )


def _contradictions(pairs: Sequence[PreferencePair]) -> DataCheck:
    """Find comparisons that one person decided both ways."""
    decided: dict[tuple[object, ...], dict[str, list[str]]] = defaultdict(dict)
    for pair in pairs:
        by_choice = decided[pair.user_id, comparison(pair)]
        by_choice.setdefault(pair.chosen, []).append(pair.id)
    both = [list(found.values()) for found in decided.values() if len(found) > 1]
    return found_line(
        "contradictions",
        sum(len(ids) for sides in both for ids in sides),
        len(pairs),
        "pairs are of a person who preferred either of the same two answers",
        "Look at them: at most one side can be right for that person.",
        [" and ".join(ids[0] for ids in sides) for sides in both],
    )


def _people(pairs: Sequence[PreferencePair]) -> DataCheck | None:
    """Find people whose records bring several profiles or scores."""
    known = [pair for pair in pairs if pair.profile is not None]
    if not known:
        return None
    profiles: dict[str, set[object]] = defaultdict(set)
    for pair in known:
        profiles[pair.user_id].add((pair.profile, pair.stated_values))
    several = sorted(user for user, found in profiles.items() if len(found) > 1)
    return found_line(
        "people",
        len(several),
        len(profiles),
        "people have several profiles or stated scores",
        "One user_id should be one person: correct the ids or the profiles.",
        several,
    )


def _longer(pairs: Sequence[PreferencePair]) -> DataCheck:
    """Say how often the longer answer is the preferred one, in characters."""
    answers = [(pair.chosen, pair.rejected) for pair in pairs]
    share = clustered_mean(
        longer_values(answers, LENGTHS["characters"]), [pair.user_id for pair in pairs], "share"
    )
    interval = "" if share.low is None or share.high is None else (
        f" [{100 * share.low:.1f}, {100 * share.high:.1f}]"
    )  # fmt: skip
    wins = sum(len(chosen) > len(rejected) for chosen, rejected in answers)
    return DataCheck(
        "longer answer",
        "",
        "ok" if EVEN[0] <= share.value <= EVEN[1] else "warn",
        wins,
        len(pairs),
        f"wins in {100 * share.value:.1f} %{interval} of the pairs, a tie counted half",
        "" if EVEN[0] <= share.value <= EVEN[1] else
        "A model can learn length here: compare acc@0 with `length alone` in the report.",
    )  # fmt: skip


def _ceiling(pairs: Sequence[PreferencePair]) -> DataCheck:
    """Say what a model can reach that ignores who is asking."""
    ceiling = value_blind_ceiling(pairs)
    return DataCheck(
        "value-blind ceiling",
        "",
        "warn" if ceiling == 1 else "ok",
        round(ceiling * len(pairs)),
        len(pairs),
        f"{100 * ceiling:.1f} % can be right without knowing who is asking",
        "No two people disagree about the same answers, so acc@0 cannot show that a model uses the"
        " person." if ceiling == 1 else "",
    )  # fmt: skip


def _balance(pairs: Sequence[PreferencePair]) -> DataCheck | None:
    """Say how the pairs spread over value dimensions, if they name them."""
    counts = Counter(dimension for pair in pairs if (dimension := pair.groups.get("dimension")))
    if not counts:
        return None
    (most, highest), (least, lowest) = counts.most_common()[0], counts.most_common()[-1]
    even = highest <= 2 * lowest
    return DataCheck(
        "balance",
        "",
        "ok" if even else "warn",
        counts.total(),
        len(pairs),
        f"of {len(counts)} dimensions {least} has the fewest pairs ({lowest:,}), {most} the most"
        f" ({highest:,})",
        "" if even else "Read results by dimension: the mean is mostly that of the frequent ones.",
    )


def _countries(pairs: Sequence[PreferencePair]) -> DataCheck | None:
    """Say how people spread over countries of birth, if their records name them."""
    users = {pair.user_id: pair.groups.get("birth_country", "") for pair in pairs}
    places = {user: iso3(country) for user, country in users.items()}
    counts = Counter(place for place in places.values() if place)
    if not counts:
        return None
    most, people = counts.most_common()[0]
    even = people <= MOST_OF * counts.total()
    return DataCheck(
        "countries",
        "",
        "ok" if even else "warn",
        counts.total(),
        len(users),
        f"{counts.total():,} of {len(users):,} people name one of {len(counts)} countries, the most"
        f" {most} ({people:,}); {sum(count < Evals.min_users for count in counts.values())} have"
        f" fewer than {Evals.min_users} people",
        "" if even else "Read results by country: the mean is mostly that of one.",
    )


CHECKS: tuple[Callable[[Sequence[PreferencePair]], DataCheck | None], ...] = (
    _vocabulary,
    _preference_texts,
    _people,
    _equal_answers,
    _repeats,
    _contradictions,
    _longer,
    _ceiling,
    _balance,
    _countries,
)


def part_checks(part: DataPart) -> Iterator[DataCheck]:
    """Yield all checks of a part's records but near duplicates."""
    yield reading_check(part)
    for check in CHECKS if part.pairs else ():
        if (found := check(part.pairs)) is not None:
            yield replace(found, part=part.name)
