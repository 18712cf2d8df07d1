"""What the model is shown before the answer.

A template (`conf/prompt/*.yaml`) is filled from a pair whose profile is structured. Records with a profile in free text
(UF-P-4, your own pairs) have one form, the one UF-P-4 is scored with: profile, newline, prompt. A template that shows no
field of the person shows neither kind of profile.
"""

from collections.abc import Sequence
from string import Formatter
from typing import Any, Protocol

from mvp_align.config import Prompt
from mvp_align.errors import UserError
from mvp_align.schema import PreferencePair, PromptedPair

PERSON_FIELDS = (
    "age", "gender", "employment_status", "education", "marital_status", "birth_country", "english_proficiency",
)  # fmt: skip
FIELDS = (*PERSON_FIELDS, "preference", "question")


PAPER = Prompt(
    name="paper",
    template=(
        "User profile: Age: {age}, Gender: {gender}, Employment: {employment_status}, Education: {education}, "
        "Marital Status: {marital_status}, Birth Country/Region: {birth_country}.\nQuestion: {question}"
    ),
)
"""The benchmark's training and OPA prompt, for code that has no config; `conf/prompt/paper.yaml` is the same."""


class ChatTokenizer(Protocol):
    """The part of a Hugging Face tokenizer that the chat prompt needs."""

    bos_token: str | None
    bos_token_id: int | None
    chat_template: str | None
    name_or_path: str

    def apply_chat_template(self, conversation: Any, *, tokenize: bool, add_generation_prompt: bool) -> Any: ...

    def encode(self, text: str) -> list[int]: ...


def prompted(pairs: Sequence[PreferencePair], prompt: Prompt, tokenizer: ChatTokenizer) -> list[PromptedPair]:
    """The pairs as text, in order. Raises UserError where `prompt.chat` is set and the model has no chat template."""
    if prompt.chat and not tokenizer.chat_template:
        raise UserError(
            f"prompt={prompt.name}: the tokenizer of {tokenizer.name_or_path} has no chat template. Choose a chat model "
            "(such as model=llama2_7b_chat) or prompt=paper."
        )
    return [
        PromptedPair(
            id=pair.id,
            user_id=pair.user_id,
            prompt=chat_turn(render(pair, prompt), tokenizer) if prompt.chat else render(pair, prompt),
            chosen=pair.chosen,
            rejected=pair.rejected,
        )
        for pair in pairs
    ]


def render(pair: PreferencePair, prompt: Prompt) -> str:
    """The prompt's text; the answer follows with no separator."""
    if pair.profile is not None:
        person = {name: getattr(pair.profile, name) for name in PERSON_FIELDS}
        return prompt.template.format(**person, preference=pair.preference, question=pair.question)
    used = {name for _, name, _, _ in Formatter().parse(prompt.template) if name}
    if used & {*PERSON_FIELDS, "preference"} and pair.profile_text.strip():
        return f"{pair.profile_text.strip()}\n{pair.question.strip()}"
    return pair.question.strip()


def chat_turn(text: str, tokenizer: ChatTokenizer) -> str:
    """`text` as a user's turn, up to where the answer starts, without the BOS text that the tokenizer adds by itself."""
    turn = str(
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
    )
    bos = tokenizer.bos_token
    adds_bos = tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]
    return turn.removeprefix(bos) if bos is not None and adds_bos else turn
