"""Conversations are written by the chat template, cut where TRL cuts them, or refused."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from public_forms import FORMS, SUBJECTS, Ask
from transformers import AutoTokenizer
from trl.data_utils import extract_prompt

from mvp_align.config import Prompt, packaged_prompt
from mvp_align.data.ceiling import majority_shares
from mvp_align.data.formats.turns import shared_length
from mvp_align.data.partition import Wishes
from mvp_align.data.prompts import as_plain_text, render_prompts
from mvp_align.data.readers import read_pairs
from mvp_align.data.split_files import write_split
from mvp_align.errors import UserError
from mvp_align.schema import ChatTurn, PreferencePair
from mvp_align.scoring.tokens import tokenize_pairs

PAPER, AUTO = packaged_prompt("paper"), packaged_prompt("auto")
CHAT = PreferencePair(
    id="p",
    user_id="u",
    question=" And now? ",
    chosen="Yes.",
    rejected="No.",
    before=(
        ChatTurn("system", "Be brief."),
        ChatTurn("user", "Before?"),
        ChatTurn("assistant", "Maybe."),
    ),
    shown_as="chat",
)
MARKED = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}[/]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
THINKING = MARKED.replace("[assistant]{% endif %}", "[assistant]<think>{% endif %}")
NO_SYSTEM = "{{ raise_exception('no system prompts here') }}" + MARKED


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


def rendered(pair: PreferencePair, prompt: Prompt, tokenizer: Any, template: str | None) -> Any:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return render_prompts([pair], prompt, tokenizer)[0]


@pytest.mark.parametrize("prompt", [PAPER, AUTO], ids=["paper", "auto"])
def test_all_turns_are_written_and_the_answers_end_their_turn(
    tokenizer: Any, prompt: Prompt
) -> None:
    shown = rendered(replace(CHAT, profile_text="Old."), prompt, tokenizer, MARKED)
    assert shown.prompt == (
        "[system]Be brief.[/][user]Before?[/][assistant]Maybe.[/][user]Old.\n And now? [/]"
        "[assistant]"
    )
    assert (shown.chosen, shown.rejected) == ("Yes.[/]", "No.[/]")
    assert [turn.role for turn in shown.turns] == ["system", "user", "assistant", "user"]


def test_an_open_turn_that_differs_is_left_to_the_answer(tokenizer: Any) -> None:
    shown = rendered(replace(CHAT, before=()), PAPER, tokenizer, THINKING)
    assert (shown.prompt, shown.chosen) == ("[user] And now? [/][assistant]", "Yes.[/]")


def test_a_conversation_needs_a_chat_template_that_takes_it(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"are conversations, and the tokenizer of .* no chat"):
        rendered(CHAT, PAPER, tokenizer, None)
    with pytest.raises(UserError, match=r"pair p: .* not take .*\(no system prompts here\)"):
        rendered(CHAT, PAPER, tokenizer, NO_SYSTEM)
    with pytest.raises(UserError, match="pair p is a conversation"):
        as_plain_text(CHAT, PAPER)


def test_auto_takes_the_chat_template_where_there_is_one(tokenizer: Any) -> None:
    pair = PreferencePair("p", "u", "Why?", "Yes.", "No.")
    assert rendered(pair, AUTO, tokenizer, MARKED).prompt == "[user]Why?[/][assistant]"
    assert rendered(pair, AUTO, tokenizer, None).prompt == "Why?"
    assert rendered(pair, AUTO, tokenizer, MARKED).turns == ()


def test_a_dialogue_is_its_text_or_a_conversation(tokenizer: Any, tmp_path: Path) -> None:
    form = next(form for form in FORMS if form.name == "hh_rlhf_several_turns")
    source, _ = form.write_rows(tmp_path, [Ask("tea")])
    (pair,) = read_pairs(source, "auto").pairs
    text, chat = (rendered(pair, prompt, tokenizer, MARKED) for prompt in (PAPER, AUTO))
    assert text.prompt + text.chosen == form.row(Ask("tea"))["chosen"] and text.turns == ()
    assert chat.prompt == (
        "[user]Do you know tea?[/][assistant]Of course.[/]"
        "[user]What do you make of tea these days?[/][assistant]"
    )
    assert chat.chosen == "I love tea, truly and always.[/]"


def test_no_special_token_is_added_to_what_a_template_wrote(tokenizer: Any) -> None:
    shown = rendered(CHAT, PAPER, tokenizer, MARKED)
    (pair,) = tokenize_pairs([shown], tokenizer).pairs
    whole = tokenizer(shown.prompt + shown.chosen, add_special_tokens=False).input_ids
    assert list(pair.chosen.ids) == whole
    (free,) = tokenize_pairs([replace(shown, prompt="")], tokenizer).pairs
    assert free.chosen.start == 1 and tokenizer.decode(free.chosen.ids[1:]) == "Yes.[/]"


def test_the_same_question_after_other_turns_is_another_one() -> None:
    first = replace(CHAT, id="a")
    swapped = replace(first, id="b", chosen="No.", rejected="Yes.")
    assert majority_shares([first, swapped]) == [0.5, 0.5]
    assert majority_shares([first, replace(swapped, before=())]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [("What is it now? Tea.", "What is it now? Salt."), ("Tell me all:\nYes", "Tell me all:\nNo")],
)
def test_an_implicit_prompt_is_trls(tmp_path: Path, chosen: str, rejected: str) -> None:
    record = {"chosen": chosen, "rejected": rejected}
    (tmp_path / "own.json").write_text(json.dumps([record]))
    (pair,) = read_pairs(str(tmp_path / "own.json"), "auto").pairs
    found = {"prompt": pair.question, "chosen": pair.chosen, "rejected": pair.rejected}
    assert found == extract_prompt(record)


def test_how_much_sequences_share() -> None:
    assert shared_length("abc", "abd", "ab") == 2
    assert shared_length([1, 2], [1, 2]) == 2
    assert shared_length("", "a") == shared_length("b", "a") == 0


@pytest.mark.parametrize("format", ["auto", "pairs"])
def test_a_split_says_which_form_was_recognised(tmp_path: Path, format: str) -> None:
    form = next(form for form in FORMS if form.name == "axolotl")
    source, _ = form.write_rows(tmp_path, list(map(Ask, SUBJECTS)))
    wishes = Wishes({"train": 0.5, "test": 0.5}, 12)
    assert write_split(source, format, tmp_path / "split", wishes).manifest.format == "sharegpt"
    parts = [
        read_pairs(str(tmp_path / "split" / f"{part}.jsonl"), "auto") for part in wishes.shares
    ]
    assert {part.format for part in parts} == {"sharegpt"}
    questions = [pair.question for part in parts for pair in part.pairs]
    assert sorted(questions) == sorted(Ask(subject).question for subject in SUBJECTS)
