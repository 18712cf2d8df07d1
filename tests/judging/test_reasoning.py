"""Drafts in a model's reasoning are never its verdict, whatever the markers around it."""

import json

import pytest

from mvp_align.generation.completion import Unparsed
from mvp_align.judging.parse import parse_scores, parse_yes_no
from mvp_align.judging.verdicts import YesNo

FINAL = {
    "score_w": 90,
    "score_l": 10,
    "score_model": 85,
    "enforced_dimensions_used": [],
    "hard_violations_model": [],
    "reason": "Fits.",
}
SAID, DRAFT = json.dumps(FINAL), json.dumps(FINAL | {"score_model": 5})
MARKS = {
    "deepseek": ("<think>", "</think>"),
    "thinking": ("<thinking>", "</thinking>"),
    "reasoning": ("<Reasoning effort='high'>", "</Reasoning>"),
    "thought": ("<thought>", "</thought>"),
    "reflection": ("<reflection>", "</reflection>"),
    "magistral": ("[THINK]", "[/THINK]"),
    "kimi": ("◁think▷", "◁/think▷"),
    "seed": ("<seed:think>", "</seed:think>"),
    "command": ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    "openthinker": ("<|begin_of_thought|>", "<|end_of_thought|>"),
    "apertus": ("<|inner_prefix|>", "<|inner_suffix|>"),
    "gemma": ("<|channel>thought\n", "<channel|>"),
    "granite": ("Here is my thought process:", "Here is my response:"),
    "gpt-oss": (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    "gpt-oss json": (
        "<|channel|>commentary to=x <|constrain|>json<|message|>",
        "<|call|><|start|>assistant<|channel|>final <|constrain|>json<|message|>",
    ),
    "gpt-oss stripped": ("analysis", "assistantfinal"),
}
each = pytest.mark.parametrize(("opening", "closing"), MARKS.values(), ids=MARKS)


def scored(text: str) -> float:
    return parse_scores(text, blind=False, w_first=True).model


def unscored(text: str) -> str:
    with pytest.raises(Unparsed) as error:
        scored(text)
    with pytest.raises(Unparsed):
        parse_yes_no(text)
    return str(error.value)


@each
def test_text_after_reasoning_is_the_verdict(opening: str, closing: str) -> None:
    for draft in (
        "",
        "Let me see.",
        f"Draft: {DRAFT}. No.",
        'It must look like {"score_w": ...} or {.',
        "Yes. }",
    ):
        assert scored(f"{opening}{draft}{closing}\n\n{SAID}") == 85
        assert scored(f"\n{opening}{draft}{closing}Here it is:\n```json\n{SAID}\n```") == 85
        assert parse_yes_no(f"{opening}{draft}{closing}\n\nYes.") == YesNo(True)


@each
def test_unfinished_or_refusing_reasoning_is_no_verdict(opening: str, closing: str) -> None:
    assert unscored(f"{opening}Draft: {DRAFT} but") == "unfinished reasoning"
    assert unscored(f"{opening}{DRAFT}") == "unfinished reasoning"
    assert unscored(f"{opening}{DRAFT}{closing}") == "nothing behind its reasoning"
    assert (
        unscored(f"{opening}Draft: {DRAFT}{closing}\nI am not able to assess this.")
        == "no JSON object"
    )
    assert unscored(f"{opening}Yes{closing}I decline.") == "no JSON object"
    assert unscored(f"{opening}{DRAFT}{closing}{opening}Again: {DRAFT}") == "unfinished reasoning"


@pytest.mark.parametrize("closing", ["</think>", "[/THINK]", "</reasoning>"])
def test_the_opening_mark_may_have_stood_in_the_prompt(closing: str) -> None:
    assert scored(f"Draft: {DRAFT} and {{.{closing}\n{SAID}") == 85
    assert parse_yes_no(f"Yes or no? {closing} No") == YesNo(False)
    assert unscored(f"{DRAFT}{closing}") == "nothing behind its reasoning"
    assert unscored(f"{DRAFT}{closing}Sorry.") == "no JSON object"


def test_reasoning_within_reasoning_ends_with_the_outer_one() -> None:
    nested = f"<think>I reason <thinking>{DRAFT}</thinking> and on"
    assert unscored(f"{nested}: {DRAFT}") == "unfinished reasoning"
    assert scored(f"{nested}</think>{SAID}") == 85


def test_marks_in_the_reasons_that_a_judge_gives_are_words() -> None:
    said = json.dumps(
        FINAL | {"reason": "It shows its <think> block, </think> included, and [THINK]."}
    )
    for text in (said, f"```json\n{said}\n```", f"<think>{DRAFT}</think>\n{said}"):
        assert scored(text) == 85


def test_yes_and_no_are_one_word_or_none() -> None:
    assert parse_yes_no("<think></think>\n\nYes") == YesNo(True)
    for text in (
        "Yes and no",
        "No, it differs. Yes",
        "Yes\nNo",
        "<think>Yes",
        "<think>No</think>",
        "analysisYes",
    ):
        with pytest.raises(Unparsed):
            parse_yes_no(text)


def test_many_markers_are_parsed_quickly() -> None:
    for mark in (
        "</think>",
        "<think>",
        "<think",
        "{}",
        "<|channel|>",
        "analysis ",
        "<a>{",
        "```{}",
    ):
        with pytest.raises(Unparsed):
            scored(mark * (100_000 // len(mark)))
