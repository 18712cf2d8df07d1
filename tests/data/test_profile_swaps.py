"""Swapped profiles: nobody gets their own, and pairs without another profile are counted."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvp_align.data.profiles import KINDS, NO_OTHER, derangement, swap_profiles
from mvp_align.data.prompts import render
from mvp_align.schema import PreferencePair, Profile, StatedValues

PERSON = Profile("18-24 years old", "Female", "Student", "Vocational", "Married", "Chile")


@given(st.dictionaries(st.text(min_size=1), st.sampled_from("abcd"), max_size=40))
def test_derangement_gives_everybody_who_can_have_one_another_text(texts: dict[str, str]) -> None:
    found = derangement(texts)
    assert all(texts[other] != texts[person] for person, other in found.items())
    assert len(set(found.values())) == len(found)  # nobody stands for two
    most = max(Counter(texts.values()).values(), default=0)
    assert len(found) == min(len(texts), 2 * (len(texts) - most))
    assert derangement(dict(reversed(texts.items()))) == found  # whatever the order of the records


def test_who_stands_for_whom_is_drawn() -> None:
    found = derangement({f"u{n}": f"values {n}" for n in range(200)})
    assert len(found) == 200
    # no rotation of the sorted ids
    assert not [n for n in range(200) if found[f"u{n}"] == f"u{(n + 1) % 200}"][10:]


def values(creativity: int, safety: int) -> StatedValues:
    return StatedValues(creativity, 70, 70, 70, safety, 70, 70)


def person_pair(
    number: int, user: str, stated: StatedValues, dimension: str = "safety"
) -> PreferencePair:
    return PreferencePair(
        f"p{number}",
        user,
        "Why?",
        "So.",
        "No.",
        replace(PERSON, age=f"{user}"),
        "",
        stated,
        stated.preference(),
        {"dimension": dimension},
    )


PAIRS = [
    person_pair(0, "u0", values(90, 90)),
    person_pair(1, "u0", values(90, 90), "creativity"),
    person_pair(2, "u1", values(90, 10)),
    person_pair(3, "u2", values(70, 70)),  # states nothing
]


def test_shuffled_keeps_the_demographics_and_takes_the_values() -> None:
    swapped = swap_profiles(PAIRS, KINDS)
    shown = {
        kind: [render(pair, prompt) for pair in pairs]
        for kind, (prompt, pairs) in swapped.kinds.items()
    }
    assert list(shown) == list(KINDS)
    assert shown["none"] == ["Why?"] * 3
    assert (
        shown["demographics"][0].startswith("User profile: Age: u0, ")
        and "values" not in shown["demographics"][0]
    )
    assert "\nUser values: High creativity, High safety.\nQuestion: Why?" in shown["values"][0]
    assert shown["shuffled"][0] == shown["values"][0].replace("High safety", "Low safety")
    assert shown["shuffled"][2] == shown["values"][2].replace("Low safety", "High safety")
    assert swapped.level_changed == {"p0": True, "p1": False, "p2": True}
    assert swapped.left_out == {"states no values": 1}


def test_pairs_that_cannot_be_shuffled_are_left_out_of_every_kind() -> None:
    pairs = [*PAIRS[:3], person_pair(4, "u3", values(90, 90))]
    swapped = swap_profiles(pairs, ("values", "shuffled"))
    own, other = (shown for _, shown in swapped.kinds.values())
    assert [pair.id for pair in own] == [pair.id for pair in other]
    assert "p2" in [pair.id for pair in own]
    assert swapped.left_out == {NO_OTHER: 4 - len(own)} and len(own) in (2, 3)
    assert swap_profiles([PAIRS[0]], ("values", "shuffled")).left_out == {NO_OTHER: 1}
    # which show no values
    assert len(swap_profiles(PAIRS, ("none", "demographics")).kinds["none"][1]) == 4


def test_free_texts_are_given_or_another_s() -> None:
    pairs = [
        PreferencePair(f"p{n}", f"prompt-{n}", f"Why {n}?", "So.", "No.", profile_text=text)
        for n, text in enumerate(("Nurse.", "Farmer.", "Nurse.", ""))
    ]
    swapped = swap_profiles(pairs, KINDS)
    shown = {
        kind: [render(pair, prompt) for pair in pairs]
        for kind, (prompt, pairs) in swapped.kinds.items()
    }
    assert shown == {
        "none": ["Why 0?", "Why 1?", "Why 2?"],
        "given": ["Nurse.\nWhy 0?", "Farmer.\nWhy 1?", "Nurse.\nWhy 2?"],
        "shuffled": ["Farmer.\nWhy 0?", "Nurse.\nWhy 1?", "Farmer.\nWhy 2?"],
    }
    assert (swapped.left_out, swapped.level_changed) == ({"names no profile": 1}, {})
    assert list(swap_profiles(pairs, ("none",)).kinds) == ["none"]


@pytest.mark.parametrize("text", ["", "Nurse."])
def test_a_set_without_two_profiles_says_so(text: str) -> None:
    pairs = [
        PreferencePair(f"p{n}", "u", "Why?", "So.", "No.", profile_text=text) for n in range(2)
    ]
    swapped = swap_profiles(pairs, KINDS)
    assert [pair for _, shown in swapped.kinds.values() for pair in shown] == []
    assert sum(swapped.left_out.values()) == 2
