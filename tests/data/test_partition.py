"""Splits by people, countries and questions: disjoint, complete, of the shares, reproducible."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mvp_align.data.partition import MIXED_QUESTION, Wishes, partition
from mvp_align.data.readers import read_pairs
from mvp_align.data.splits import split_by_user
from mvp_align.errors import UserError
from mvp_align.schema import PreferencePair

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
COUNTRIES = ("Chile", "Kenya", "USA", "Spain", "Japan", "Prefer not to say")


def people(count: int, seed: int = 1) -> list[PreferencePair]:
    """One to six pairs of each of `count` people, on forty questions."""
    random, pairs = Random(seed), []
    for user in range(count):
        groups = {
            "birth_country": random.choice(COUNTRIES),
            "gender": random.choice(["a", "b", "b", "b"]),
        }
        for question in random.sample(range(40), random.randint(1, 6)):
            own = groups | {"dimension": f"d{question % 4}"}
            pairs.append(
                PreferencePair(f"p{len(pairs)}", f"u{user}", f"q{question}", "y", "n", groups=own)
            )
    return pairs


def parts_by(pairs: list[PreferencePair], parts: list[str | None], key: str) -> Counter[object]:
    """How many parts each user, question or country is in."""
    found = {
        (getattr(pair, key, pair.groups.get(key)), part)
        for pair, part in zip(pairs, parts, strict=True)
        if part
    }
    return Counter(value for value, _ in found)


@settings(deadline=None)
@given(
    st.integers(8, 60),
    st.integers(0, 99),
    st.sets(st.sampled_from(["country", "question"])),
    st.sampled_from([(), ("gender",), ("dimension", "gender")]),
)
def test_no_two_parts_share_what_is_kept_apart(
    count: int, seed: int, apart: set[str], stratify: tuple[str, ...]
) -> None:
    pairs = people(count, seed)
    try:
        made = partition(pairs, Wishes(SHARES, seed, sorted(apart), stratify))  # type: ignore[arg-type]
    except UserError as error:
        assume("Nothing is left" not in str(error))
        raise
    keys = {"user_id": True, "birth_country": "country" in apart, "question": "question" in apart}
    for key, kept_apart in keys.items():
        if kept_apart:
            assert set(parts_by(pairs, made.parts, key).values()) == {1}, key
    assert made.parts.count(None) == made.left_out.get(MIXED_QUESTION, 0)
    assert ("question" in apart) or None not in made.parts
    again = list(zip(pairs, made.parts, strict=True))
    Random(seed).shuffle(again)
    shuffled = partition([pair for pair, _ in again], Wishes(SHARES, seed, sorted(apart), stratify))  # type: ignore[arg-type]
    assert shuffled.parts == [part for _, part in again]


def test_without_wishes_the_test_people_are_those_that_training_holds_out() -> None:
    pairs = people(50)
    made = partition(pairs, Wishes({"train": 0.8, "test": 0.2}, 12))
    _, tested = split_by_user(pairs, 0.2, 12)
    assert [p for p, part in zip(pairs, made.parts, strict=True) if part == "test"] == tested
    assert made.parts != partition(pairs, Wishes({"train": 0.8, "test": 0.2}, 13)).parts


def test_strata_have_their_share_in_each_part() -> None:
    pairs = people(400)
    made = partition(pairs, Wishes(SHARES, 12, stratify=("gender", "dimension")))
    for variable in ("gender", "dimension"):
        total = Counter(pair.groups[variable] for pair in pairs)
        for name, share in SHARES.items():
            own = Counter(
                pair.groups[variable]
                for pair, part in zip(pairs, made.parts, strict=True)
                if part == name
            )
            for group, count in total.items():
                assert own[group] / count == pytest.approx(share, abs=0.02), (variable, group)


def test_unique_questions_cost_no_pair() -> None:
    pairs = [replace(pair, question=f"q{n}") for n, pair in enumerate(people(40))]
    made = partition(pairs, Wishes(SHARES, 12, ("question",)))
    assert made.left_out == {} and None not in made.parts


@pytest.mark.parametrize(
    ("pairs", "wishes", "said"),
    [
        (people(9), Wishes({"train": 0.0, "test": 1.0}, 1), "between 0 and 1"),
        (people(9), Wishes(SHARES, 1, stratify=("age",)), "--stratify age: no record has it"),
        (people(1), Wishes(SHARES, 1), "1 user"),
        (people(2), Wishes(SHARES, 1, stratify=("gender",)), "Nothing is left for"),
        (
            [PreferencePair("p", "u", "q", "y", "n")],
            Wishes(SHARES, 1, ("country",)),
            "1 people have no birth_country: u",
        ),
        (
            [
                PreferencePair(country, "u", "q", "y", "n", groups={"birth_country": country})
                for country in COUNTRIES[:2]
            ],
            Wishes(SHARES, 1, ("country",)),
            "several countries: u",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(
    pairs: list[PreferencePair], wishes: Wishes, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        partition(pairs, wishes)


def test_the_sample_splits_by_country_as_its_shares_say() -> None:
    pairs = read_pairs("sample:train.json", "mvpbench").pairs
    made = partition(pairs, Wishes(SHARES, 12, ("country",)))
    users = {pair.user_id: part for pair, part in zip(pairs, made.parts, strict=True)}
    for name, share in SHARES.items():
        found = sum(part == name for part in users.values()) / len(users)
        assert found == pytest.approx(share, abs=0.02)
