"""Own and another person's earlier choices, on the same pairs."""

from dataclasses import replace

from mvp_align.config import packaged_prompt
from mvp_align.data.profiles import HISTORY, NO_OTHER_CHOICES, swap_choices
from mvp_align.data.prompts import render
from mvp_align.schema import EarlierChoice, PreferencePair, StatedValues


def stated(safety: int) -> StatedValues:
    return StatedValues(70, 70, 70, 70, safety, 70, 70)


def asked(
    name: str, user: str, question: str, about: str, level: int = 70, persona: str = ""
) -> PreferencePair:
    choices = tuple(EarlierChoice(f"{letter}?", f"{user} yes.", "No.") for letter in about)
    groups = {"dimension": "safety"}
    return PreferencePair(
        name, user, question, "So.", "No.", None, persona, stated(level), "", groups, choices
    )


PAIRS = [
    asked("p0", "u0", "X?", "ab", 90),
    asked("p1", "u0", "Y?", "ab", 90),
    asked("p2", "u1", "X?", "cd", 10),
    asked("p3", "u2", "Z?", "xe", 10),  # shows what p0 and p2 ask
    asked("p4", "u3", "Z?", "f", 90),  # too few
]


def test_each_count_is_shown_own_and_another_s() -> None:
    swapped = swap_choices(PAIRS, [2, 0, 1], packaged_prompt("paper"))
    assert list(swapped.kinds) == ["none", "own_1", "other_1", "own_2", "other_2"]
    texts = {
        kind: [render(pair, prompt) for pair in pairs]
        for kind, (prompt, pairs) in swapped.kinds.items()
    }
    ids = {kind: [pair.id for pair in pairs] for kind, (_, pairs) in swapped.kinds.items()}
    assert {*map(tuple, ids.values())} == {("p0", "p1", "p2", "p3")}
    assert texts["none"][0] == "Question: X?\nPreferred answer:\n"
    assert texts["own_1"][0] == (
        "Question: a?\nPreferred answer:\nu0 yes.\nOther answer:\nNo.\n\n"
        "Question: X?\nPreferred answer:\n"
    )
    assert [text.count("yes.") for text in texts["other_2"]] == [2] * 4
    # p0 and p2 ask what u2's history holds, so that they show each other's
    assert texts["other_2"][0] == texts["own_2"][2]
    assert texts["other_2"][2] == texts["own_2"][0]
    assert swapped.level_changed["p0"] and swapped.level_changed["p2"]
    assert swapped.left_out == {"fewer than 2 earlier choices": 1}


def test_no_one_shows_their_own_or_the_pair_s_question() -> None:
    pairs = [
        asked(f"p{user}{n}", f"u{user}", f"{'abcdef'[n]}?", "abcdef"[user % 3 : user % 3 + 2])
        for user in range(6)
        for n in range(6)
        if "abcdef"[n] not in "abcdef"[user % 3 : user % 3 + 2]
    ]
    swapped = swap_choices(pairs, [2], HISTORY)
    own, other = (shown for _, shown in swapped.kinds.values())
    assert len(own) + swapped.left_out.get(NO_OTHER_CHOICES, 0) == len(pairs) and own
    for one, two in zip(own, other, strict=True):
        assert replace(two, choices=one.choices) == one
        assert {*one.choices} != {*two.choices}
        assert one.question not in {choice.question for choice in two.choices}
        assert one.user_id not in two.choices[0].chosen
    again = swap_choices(pairs[::-1], [2], HISTORY)
    choices = {pair.id: pair.choices for pair in again.kinds["other_2"][1]}
    assert choices == {pair.id: pair.choices for pair in other}


def test_another_persona_s_history_where_records_name_nobody() -> None:
    pairs = [
        asked(f"p{n}", f"prompt-{n}", f"Q{n}?", f"{n}{n + 1}", persona=("Kind.", "Rude.")[n % 2])
        for n in range(8)
    ]
    _, shown = swap_choices(pairs, [1, 2], HISTORY).kinds["other_2"]
    assert len(shown) == 8
    for pair in shown:
        (donor,) = {choice.chosen.split()[0] for choice in pair.choices}
        assert (int(donor.removeprefix("prompt-")) - int(pair.id[1:])) % 2 == 1


def test_a_set_without_another_person_says_so() -> None:
    swapped = swap_choices(PAIRS[:2], [1], HISTORY)
    assert swapped.left_out == {NO_OTHER_CHOICES: 2}
    assert not any(pairs for _, pairs in swapped.kinds.values())


def test_the_run_s_own_form_of_history_is_kept() -> None:
    mine = replace(
        packaged_prompt("question"), template="{choices}Q: {question}", choice="{chosen}"
    )
    prompt, pairs = swap_choices(PAIRS, [1], mine).kinds["own_1"]
    assert render(pairs[0], prompt) == "u0 yes.Q: X?"
