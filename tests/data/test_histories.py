"""Earlier choices: whose they are, what they are never about, and what is not scored for them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mvp_align.config import Config
from mvp_align.data.formats.record import prompt_as_user
from mvp_align.data.histories import choice_of, choices_needed, normalised, with_choices
from mvp_align.data.load import DataSets, load_data
from mvp_align.errors import UserError
from mvp_align.schema import EarlierChoice, PreferencePair


def config_with(choices: int = 2, support: int | None = None, seed: int = 12) -> Config:
    config = Config(recipe="lora_dpo", seed=seed)
    config.prompt.choices, config.data.support = choices, support
    return config


def pair(name: str, user: str, question: str, *choices: EarlierChoice) -> PreferencePair:
    return PreferencePair(name, user, question, f"Yes {name}.", f"No {name}.", choices=choices)


def person(user: str, questions: int) -> list[PreferencePair]:
    return [pair(f"{user}{n}", user, f"Why {n}?") for n in range(questions)]


PAIRS = {
    "train": person("a", 6) + person("b", 3) + person("c", 1),
    "val": person("d", 4),
    "test": person("e", 6) + person("f", 2) + person("g", 1),
}


def names(choices: tuple[EarlierChoice, ...]) -> list[str]:
    return [choice.chosen.split()[1].rstrip(".") for choice in choices]


@pytest.mark.parametrize("seed", range(5))
def test_training_pairs_show_other_training_pairs_of_the_same_person(seed: int) -> None:
    given, notes = with_choices(PAIRS, config_with(seed=seed))
    assert [one.id for one in given["train"]] == [one.id for one in PAIRS["train"]]
    known = {choice_of(one): one.user_id for one in PAIRS["train"]}
    for one in given["train"]:
        assert {known[choice] for choice in one.choices} <= {one.user_id}
        assert one.id not in names(one.choices) and len({*one.choices}) == len(one.choices)
    assert Counter(len(one.choices) for one in given["train"]) == {2: 9, 0: 1}
    assert (
        "train: 1 of 10 pairs have fewer than 2 earlier choices, and show what there is: 1 have"
        " none." in notes
    )


@pytest.mark.parametrize("seed", range(5))
def test_support_is_shown_and_never_scored(seed: int) -> None:
    given, notes = with_choices(PAIRS, config_with(seed=seed))
    for name in ("val", "test"):
        scored = {one.id for one in given[name]}
        shown = {choice for one in given[name] for choice in names(one.choices)}
        assert not scored & shown
        assert scored | shown == {one.id for one in PAIRS[name]}
        for one in given[name]:
            assert {choice[0] for choice in names(one.choices)} <= {one.user_id}
    # two of six, one of two, none of one
    assert Counter(one.user_id for one in given["test"]) == {"e": 4, "f": 1, "g": 1}
    # the same for all pairs of a person, so that their prompts begin alike
    assert len({one.choices for one in given["test"] if one.user_id == "e"}) == 1
    assert (
        "test: 3 pairs of 2 people are support: shown as earlier choices, and not scored (up to 2"
        f" a person, seed {seed})." in notes
    )
    assert "val: each of 2 pairs has 2 earlier choices." in notes


def test_what_is_drawn_depends_on_the_seed_and_not_on_the_order() -> None:
    def by_id(pairs: dict[str, list[PreferencePair]], seed: int) -> dict[str, Any]:
        given, _ = with_choices(pairs, config_with(seed=seed))
        return {one.id: one.choices for found in given.values() for one in found}

    turned = {name: found[::-1] for name, found in PAIRS.items()}
    assert by_id(PAIRS, 3) == by_id(turned, 3) == by_id(PAIRS, 3)
    assert len({json.dumps(sorted(by_id(PAIRS, seed))) for seed in range(5)}) > 1
    assert len({str(by_id(PAIRS, seed)["a0"]) for seed in range(5)}) > 1


@pytest.mark.parametrize("name", ["train", "test"])
def test_more_choices_begin_with_the_fewer(name: str) -> None:
    few, _ = with_choices(PAIRS, config_with(1, support=4))
    many, _ = with_choices(PAIRS, config_with(4))
    assert [one.id for one in few[name]] == [one.id for one in many[name]]
    assert [one.choices for one in few[name]] == [one.choices[:1] for one in many[name]]


def test_support_alone_scores_the_same_pairs_under_another_prompt() -> None:
    given, _ = with_choices(PAIRS, config_with(0, support=2))
    history, _ = with_choices(PAIRS, config_with(2))
    assert [one.id for one in given["test"]] == [one.id for one in history["test"]]
    assert not any(one.choices for found in given.values() for one in found)
    assert with_choices(PAIRS, config_with(0)) == (PAIRS, [])


def test_nothing_is_about_the_pair_s_own_question() -> None:
    """Up to case, spaces and encoding."""
    asked = ["Why ever not?", "why  ever NOT?", "Why ever not\uff1f", "How so?", "Where to?"]
    same = [pair(f"a{n}", "a", text) for n, text in enumerate(asked)]
    others = [pair(f"e{n}", "e", text) for n, text in enumerate(asked)]
    for seed in range(8):
        given, _ = with_choices({"train": same, "test": others}, config_with(4, seed=seed))
        for found in given.values():
            for one in found:
                questions = [normalised(choice.question) for choice in one.choices]
                assert normalised(one.question) not in questions
        # one a question: of three pairs about the first question another pair shows one
        assert Counter(len(one.choices) for one in given["train"]) == {2: 5}


def test_records_that_bring_choices_keep_them() -> None:
    first, second = (EarlierChoice(f"Q{n}?", "Yes.", "No.") for n in range(2))
    pairs = [
        pair("t0", prompt_as_user("Why 0?"), "Why 0?", first, second, first),
        pair("t1", prompt_as_user("Why 1?"), "Why 1?", first),
        pair("t2", prompt_as_user("Why 2?"), "Why 2?", EarlierChoice(" why 2?", "A.", "B.")),
        pair("t3", prompt_as_user("q0?"), "q0?", second),
    ]
    given, notes = with_choices({"test": pairs}, config_with(2))
    assert {one.id: one.choices for one in given["test"]} == {
        "t0": (first, second),
        "t1": (first,),
    }
    assert notes == [
        "test: 1 pairs left out (the record's earlier choices ask its own question).",
        "test: the records of 1 pairs repeat one of their earlier choices.",
        "test: 1 pairs of 1 prompts are support: shown as earlier choices, and not scored (up to 2"
        " a person, seed 12).",
        "test: 1 of 2 pairs have fewer than 2 earlier choices, and show what there is: 1 have 1.",
    ]


def test_choices_of_a_training_record_are_not_scored_in_test() -> None:
    """Where records name no person, anybody's choice may be about the same label."""
    shown = EarlierChoice("Why 1?", "Yes.", "No.")
    train = [pair("a", prompt_as_user("Why 0?"), "Why 0?", shown)]
    test = [pair(f"t{n}", prompt_as_user(f"Why {n}?"), f"Why {n}?", shown) for n in (1, 2)][1:]
    test.append(pair("t1", prompt_as_user("Why 1?"), "Why 1?"))
    given, _ = with_choices({"train": train, "test": test}, config_with(1))
    assert [one.id for one in given["test"]] == ["t2"]
    # another person's answer to the question is no label of theirs
    named = [pair("a", "u1", "Why 0?", shown)], [pair("t", "u2", "Why 1?"), pair("s", "u2", "How?")]
    given, _ = with_choices({"train": named[0], "test": named[1]}, config_with(1))
    assert len(given["test"]) == 1 and given["test"][0].choices


def test_support_that_takes_everything_or_nothing_is_refused() -> None:
    own = pair("t", prompt_as_user("Why?"), "Why?", EarlierChoice("How?", "So.", "No."))
    other = pair("s", prompt_as_user("How?"), "How?", EarlierChoice("Why?", "So.", "No."))
    with pytest.raises(UserError, match="test: every pair would be shown as an earlier choice"):
        with_choices({"test": [own, other]}, config_with(1))
    with pytest.raises(UserError, match=r"data\.support=2 would change nothing"):
        with_choices({"test": person("g", 1)}, config_with(0, support=2))


def test_the_most_that_any_prompt_shows_is_needed() -> None:
    config = config_with(1)
    assert choices_needed(config) == 1
    config.evals.choices = [0, 3]
    assert choices_needed(config) == 3
    config.generation.prompt.choices = 4
    assert choices_needed(config) == 4


def loaded(tmp_path: Path, data_format: str, records: list[dict[str, Any]]) -> DataSets:
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(records))
    config = config_with(2)
    config.data.train, config.data.format, config.data.test_share = str(path), data_format, 0.5
    config.evals.sets = ["in_domain"]
    return load_data(config)


def test_own_pairs_can_bring_choices(tmp_path: Path) -> None:
    choices = [{"prompt": f"Q{n}?", "chosen": "Yes.", "rejected": "No."} for n in range(2)]
    records = [
        {"prompt": f"Why {n}?", "chosen": "So.", "rejected": "No.", "choices": choices}
        for n in range(4)
    ]
    data = loaded(tmp_path, "pairs", records)
    for one in (*data.train, *data.test):
        assert [choice.question for choice in one.choices] == ["Q0?", "Q1?"]
    assert "train: each of 2 pairs has 2 earlier choices." in data.notes
    records[1]["choices"] = "none"
    with pytest.raises(UserError, match="field 'choices': is a text where a list belongs"):
        loaded(tmp_path, "pairs", records)
    records[1]["choices"] = [{"prompt": "Q?", "chosen": "Yes."}]
    with pytest.raises(UserError, match=r"field 'choices\.0\.rejected': is missing"):
        loaded(tmp_path, "pairs", records)


PERSONAS = ("Answer like a friend.", "Answer like a stranger.")


def psoups(count: int) -> list[dict[str, Any]]:
    """Records in the shape of P-Soups', written here: each prompt twice, once a persona."""
    return [
        {
            "prompt": f"Rewrite sentence {n}.",
            "chosen": ("Sure, pal.", "Do it yourself.")[side],
            "rejected": ("Do it yourself.", "Sure, pal.")[side],
            "ground_truth_persona": persona,
            "profile": "Older, likes music",
            "Pair-wise Comparative Feedback": [
                {"prompt": f"Name thing {k}.", "chosen": "One.", "rejected": f"{side}."}
                for k in range(4)
            ],
        }
        for n in range(count)
        for side, persona in enumerate(PERSONAS)
    ]


def test_p_soups_records_are_read_with_persona_and_history(tmp_path: Path) -> None:
    records = psoups(6)
    # its own question, and one that another record's history asks
    records[0]["Pair-wise Comparative Feedback"][2]["prompt"] = "rewrite SENTENCE 0."
    records[2]["Pair-wise Comparative Feedback"][0]["prompt"] = "Rewrite sentence 5."
    data = loaded(tmp_path, "psoups", records)
    assert {one.user_id for one in data.train}.isdisjoint(one.user_id for one in data.test)
    assert data.prompt_sets == ["in_domain"]
    for one in (*data.train, *data.test):
        assert one.profile_text == one.groups["persona"] in PERSONAS
        side = PERSONAS.index(one.profile_text)
        assert [choice.rejected for choice in one.choices] == [f"{side}."] * 2
        assert one.question != "Rewrite sentence 0." or one.profile_text == PERSONAS[1]
    assert "Rewrite sentence 5." not in {one.question for one in data.test}
    assert any("left out (the record's earlier choices ask its own" in note for note in data.notes)
    assert not any("keys that are not read" in note for note in data.notes)
    del records[1]["ground_truth_persona"]
    with pytest.raises(UserError, match="field 'ground_truth_persona': is missing"):
        loaded(tmp_path, "psoups", records)
