"""Render prompts: everything that precedes the answer.

A pair with a structured profile fills a template (`conf/prompt/*.yaml`). A pair with a free-text
profile (UF-P-4, your own pairs) cannot fill a template's fields of the person: under such a
template it becomes profile, newline, question, the form in which UF-P-4 is scored. A template
without fields of the person is filled for every pair, and shows no profile. `{choices}` are earlier
choices of the same person (`mvp_align.data.histories`), in whichever form.

A pair that is a conversation (`schema.ShownAs`) has its last question rendered so, and all of its
turns written by the model's chat template, as TRL does.
"""

import json
import string
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from functools import cache
from hashlib import sha256
from string import Formatter
from typing import Any, Protocol

from jinja2 import TemplateError

from mvp_align.config import Prompt, packaged_prompt
from mvp_align.data.formats.turns import shared_length
from mvp_align.errors import UserError
from mvp_align.schema import ChatTurn, PreferencePair, PromptedPair

PERSON_FIELDS = (
    "age",
    "gender",
    "employment_status",
    "education",
    "marital_status",
    "birth_country",
    "english_proficiency",
)
FIELDS = (*PERSON_FIELDS, "preference", "choices", "question")
CHOICE_FIELDS = ("question", "chosen", "rejected")

PAPER = packaged_prompt("paper")
"""The benchmark's training and OPA prompt."""

FIXED_DATE = """\
{%- macro strftime_now(format) -%}
{%- set shown = namespace(text=format) -%}
{%- for code, text in date_codes.items() -%}
{%- set shown.text = shown.text.replace(code, text) -%}
{%- endfor -%}
{{- shown.text -}}
{%- endmacro %}
"""
"""Prefix for a chat template that replaces transformers' `strftime_now`, which reads the clock.

It is a macro because transformers passes only plain values to templates, no functions.
"""

SPEAKERS = {"user": "Human", "assistant": "Assistant"}
"""How a dialogue in plain text names who speaks (HH-RLHF)."""

TEXT_ALONE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"""Chat template that shows what a message says, and nothing else."""


class ChatTokenizer(Protocol):
    """The part of a Hugging Face tokenizer that the chat prompt needs."""

    bos_token: str | None
    bos_token_id: int | None
    chat_template: str | None
    name_or_path: str

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...

    def get_chat_template(self) -> str: ...

    def encode(self, text: str) -> list[int]: ...


def render_prompts(
    pairs: Sequence[PreferencePair], prompt: Prompt, tokenizer: ChatTokenizer
) -> list[PromptedPair]:
    """Render each pair's prompt, in order.

    Raises UserError if the tokenizer has no chat template and `prompt.chat` is set or a pair is a
    conversation, or if the template refuses a conversation.
    """
    has_template = bool(tokenizer.chat_template)
    asks_for_it = prompt.chat is True
    if asks_for_it and not has_template:
        raise UserError(
            f"prompt={prompt.name}: the tokenizer of {tokenizer.name_or_path} has no chat template."
            " Choose a chat model (such as model=llama2_7b_chat) or prompt=paper."
        )
    if not has_template and any(pair.shown_as == "chat" for pair in pairs):
        raise UserError(
            f"these pairs are conversations, and the tokenizer of {tokenizer.name_or_path} has no"
            " chat template to write them by. Choose a chat model (such as"
            " model=llama2_7b_chat), or give each question as one text under 'prompt'"
            " (data.format=pairs)."
        )
    by_template = replace(prompt, chat=bool(prompt.chat) and has_template)
    return [_prompted(pair, by_template, tokenizer) for pair in pairs]


def _prompted(pair: PreferencePair, prompt: Prompt, tokenizer: ChatTokenizer) -> PromptedPair:
    if pair.shown_as == "chat" or (pair.shown_as == "dialogue" and prompt.chat):
        return _by_chat_template(pair, prompt, tokenizer)
    if prompt.chat:
        shown = chat_turn(render(pair, prompt), tokenizer, prompt.date)
        return PromptedPair(pair.id, pair.user_id, shown, pair.chosen, pair.rejected)
    return as_plain_text(pair, prompt)


def as_plain_text(pair: PreferencePair, prompt: Prompt) -> PromptedPair:
    """Render a pair without a chat template.

    Raises UserError if it is a conversation that needs one.
    """
    if pair.shown_as == "chat":
        raise UserError(
            f"pair {pair.id} is a conversation, which only a model's chat template can write:"
            " give its question as one text under 'prompt' (data.format=pairs)."
        )
    question = render(pair, prompt)
    if pair.shown_as != "dialogue":
        return PromptedPair(pair.id, pair.user_id, question, pair.chosen, pair.rejected)
    turns = (*pair.before, ChatTurn("user", question))
    text = "".join(f"\n\n{SPEAKERS[turn.role]}: {turn.content}" for turn in turns)
    return PromptedPair(
        pair.id, pair.user_id, f"{text}\n\nAssistant:", f" {pair.chosen}", f" {pair.rejected}"
    )


def _by_chat_template(
    pair: PreferencePair, prompt: Prompt, tokenizer: ChatTokenizer
) -> PromptedPair:
    """Let the chat template write the conversation with each answer, and cut where they part.

    So TRL does with conversational rows. A template that writes an open turn otherwise than one
    with its answer leaves the difference to the answer.
    """
    turns = (*pair.before, ChatTurn("user", render(pair, prompt)))
    dated = _dated(tokenizer.get_chat_template(), prompt.date)
    try:
        asked = _render_turns(turns, tokenizer, *dated)
        chosen, rejected = (
            _render_turns([*turns, ChatTurn("assistant", text)], tokenizer, *dated)
            for text in (pair.chosen, pair.rejected)
        )
    except TemplateError as error:
        raise UserError(
            f"pair {pair.id}: the chat template of {tokenizer.name_or_path} does not take this"
            f" conversation ({error}). Choose a model whose template does, or leave the record out."
        ) from None
    start = shared_length(asked, chosen, rejected)
    return PromptedPair(
        pair.id, pair.user_id, asked[:start], chosen[start:], rejected[start:], turns
    )


def render(pair: PreferencePair, prompt: Prompt) -> str:
    """Render a pair's prompt. The answer follows it without a separator."""
    choices = _shown_choices(pair, prompt)
    if pair.profile is not None:
        person = {name: getattr(pair.profile, name) for name in PERSON_FIELDS}
        return prompt.template.format(
            **person, preference=pair.preference, choices=choices, question=pair.question
        )
    question = pair.question.strip() if pair.shown_as == "text" else pair.question
    if not shows_person(prompt):
        return prompt.template.format(choices=choices, question=question)
    profile = pair.profile_text.strip()
    return choices + (f"{profile}\n{question}" if profile else question)


def _shown_choices(pair: PreferencePair, prompt: Prompt) -> str:
    if not shows_choices(prompt):
        return ""
    return "".join(
        prompt.choice.format(**{name: getattr(choice, name).strip() for name in CHOICE_FIELDS})
        for choice in pair.choices[: prompt.choices]
    )


def shows_person(prompt: Prompt) -> bool:
    """Return whether the template has a field of the person."""
    return bool(_fields_of(prompt.template) & {*PERSON_FIELDS, "preference"})


def shows_choices(prompt: Prompt) -> bool:
    """Return whether the template has a place for earlier choices."""
    return "choices" in _fields_of(prompt.template)


@cache
def _fields_of(template: str) -> frozenset[str]:
    """Raises ValueError if the template is broken."""
    return frozenset(name for _, name, _, _ in Formatter().parse(template) if name is not None)


def prompt_problems(key: str, prompt: Prompt) -> list[str]:
    """List what is wrong with a prompt's settings, called `key`, each with what to do."""
    problems = [
        *_template_problems(f"{key}.template", prompt.template, FIELDS, ("question",)),
        *_template_problems(f"{key}.choice", prompt.choice, CHOICE_FIELDS, CHOICE_FIELDS),
    ]
    if prompt.choices < 0:
        problems.append(f"{key}.choices={prompt.choices}: must be 0 or above.")
    if prompt.choices > 0 and not problems and not shows_choices(prompt):
        problems.append(
            f"{key}.choices={prompt.choices} would change nothing: {key}.template never shows"
            " {choices}. Use prompt=history, or a template with {choices}."
        )
    if isinstance(prompt.chat, str) and prompt.chat != "auto":
        problems.append(f"{key}.chat={prompt.chat}: must be true, false or auto.")
    if not _is_date(prompt.date):
        problems.append(f"{key}.date={prompt.date}: a date belongs there, as {Prompt.date}.")
    return problems


def _template_problems(
    key: str, template: str, known: Sequence[str], needed: Sequence[str]
) -> list[str]:
    try:
        used = _fields_of(template)
    except ValueError as error:
        return [f"{key} is broken: {error}. Write a literal brace twice."]
    unknown = [
        f"{key} uses {{{name}}}: it can use {', '.join(known)}." for name in sorted(used - {*known})
    ]
    return unknown + [f"{key} never shows {{{name}}}." for name in needed if name not in used]


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def chat_turn(text: str, tokenizer: ChatTokenizer, date: str = Prompt.date) -> str:
    """Render `text` as a user turn, up to where the answer starts.

    The BOS token is left out if the tokenizer adds it anyway. A template that shows the time shows
    midnight of `date` (ISO 8601).
    """
    dated = _dated(tokenizer.get_chat_template(), date)
    turn = _render_turns([ChatTurn("user", text)], tokenizer, *dated)
    bos = tokenizer.bos_token
    return turn.removeprefix(bos) if bos is not None and _adds_bos(tokenizer) else turn


def _dated(template: str, date: str) -> tuple[str, dict[str, Any]]:
    """Return a template and variables that show midnight of `date` as today."""
    # the variable of Llama's chat templates
    fixed: dict[str, Any] = {"date_string": datetime.fromisoformat(date).strftime("%d %b %Y")}
    if "strftime_now" not in template:
        return template, fixed
    return FIXED_DATE + template, fixed | {"date_codes": _date_codes(date)}


def _render_turns(
    turns: Sequence[ChatTurn], tokenizer: ChatTokenizer, template: str, variables: dict[str, Any]
) -> str:
    """Write turns by a chat template; after a user's, the answer's turn is opened."""
    return str(
        tokenizer.apply_chat_template(
            [asdict(turn) for turn in turns],
            tokenize=False,
            add_generation_prompt=turns[-1].role == "user",
            chat_template=template,
            **variables,
        )
    )


def _adds_bos(tokenizer: ChatTokenizer) -> bool:
    return tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]


def server_template(prompt: Prompt, tokenizer: ChatTokenizer) -> str:
    """Return a chat template for a server that renders a user's turn and adds no special tokens.

    The model is then shown what it is shown in this process: the turn with the date of `prompt`,
    the text alone if `prompt` or the tokenizer knows no chat, and a BOS token if the tokenizer adds
    one.
    """
    if not (prompt.chat and tokenizer.chat_template):
        template = TEXT_ALONE
    else:
        dated, variables = _dated(tokenizer.get_chat_template(), prompt.date)
        template = (
            "".join(
                f"{{%- set {name} = {json.dumps(value, allow_nan=False)} %}}"
                for name, value in variables.items()
            )
            + dated
        )
    bos = tokenizer.bos_token
    if bos is None or not _adds_bos(tokenizer):
        return template
    shown = _render_turns([ChatTurn("user", "a")], tokenizer, template, {})
    return template if shown.startswith(bos) else "{{- bos_token }}" + template


@cache
def _date_codes(date: str) -> dict[str, str]:
    """Map each strftime code to its text at midnight of `date`.

    `%%` becomes a placeholder first and `%` last, so that a `%` in the result starts no code.
    """
    moment = datetime.fromisoformat(date)
    codes = [f"%{flag}{letter}" for flag in ("", "-") for letter in string.ascii_letters]
    return {"%%": "\0", **{code: moment.strftime(code) for code in codes}, "\0": "%"}


def prompts_sha256(prompts: Iterable[PromptedPair]) -> str:
    """Return the SHA-256 (hex) of the JSON list of all prompts.

    It covers the template, the chat template, the date and the data.
    """
    return sha256(
        json.dumps([pair.prompt for pair in prompts], allow_nan=False).encode()
    ).hexdigest()
