"""Stage 2 of the benchmark: a chat model writes questions, each with two answers.

The model sees a person's stated preferences and messages, and nothing else of that person: age or
country would invite stereotypes into the answers. It does not see other models' replies either.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PositiveInt
from pydantic.dataclasses import dataclass as settings

from mvp_align.construction.conversations import Conversation
from mvp_align.errors import UserError
from mvp_align.generation.chat_model import ChatModel
from mvp_align.generation.chat_request import ChatRequest, material_messages, object_schema
from mvp_align.generation.completion import Unparsed
from mvp_align.generation.json_reply import one_object

PROMPT = Path(__file__).with_name("prompts") / "pairs.txt"
TEXTS = ("question", "answer_w", "answer_l")


@settings(config=ConfigDict(extra="forbid"))
class Writer(ChatModel):
    """A model that writes pairs, as described by a YAML file."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.7
    max_tokens: PositiveInt | None = 1024
    """Longest reply, which holds all questions of a conversation."""


@dataclass(frozen=True, slots=True)
class WritingTask:
    """What a writer is asked for of each conversation."""

    writer: Writer
    questions: int
    text: str
    """The task in words, the number of questions filled in."""
    sha256: str
    """Of the prompt file."""

    def request(self, conversation: Conversation) -> ChatRequest:
        text = {"type": "string"}
        pair = object_schema(dict.fromkeys(TEXTS, text))
        material = {
            "preferences": conversation.person.preference,
            "opening_prompt": conversation.opening,
            "later_messages": conversation.later_messages,
        }
        return ChatRequest(
            material_messages(self.text, material),
            self.writer.parameters_up_to(self.writer.max_tokens),
            object_schema({"pairs": {"type": "array", "items": pair}}),
        )


@dataclass(frozen=True, slots=True)
class WrittenPair:
    """A question, the answer meant to fit, and the one meant to contradict."""

    question: str
    answer_w: str
    answer_l: str


def read_task(writer: Writer, questions: int, prompt: Path = PROMPT) -> WritingTask:
    """Read the task from a prompt file, in which $questions stands for their number.

    Raises UserError if there is no such file, or it names something else that is to be filled in.
    """
    try:
        content = prompt.read_bytes()
        text = Template(content.decode()).substitute(questions=questions).strip()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{prompt}: no prompt can be made of it ({error}). It is a text in UTF-8, in which"
            " $questions stands for how many to write, and $$ for a dollar sign."
        ) from None
    return WritingTask(writer, questions, text, hashlib.sha256(content).hexdigest())


def written_pairs(
    text: str, questions: int, leave_out: Callable[[str], None]
) -> list[tuple[int, WrittenPair]]:
    """Return the pairs of a reply, each with its place in it from 1 on.

    `leave_out` is told why for each of the `questions` that no pair came of, and for those beyond
    that number. Only what makes a pair no pair is looked at. Raises Unparsed if the reply as a
    whole is not what was asked for.
    """
    listed = one_object(text).get("pairs")
    if not isinstance(listed, list):
        raise Unparsed("no list of pairs")
    found: list[tuple[int, WrittenPair]] = []
    for place, value in enumerate(listed, start=1):
        if place > questions:
            leave_out("beyond the number that was asked for")
            continue
        try:
            pair = _pair(value)
            if any(_same(pair.question, earlier.question) for _, earlier in found):
                raise Unparsed("the same question as earlier in the reply")
        except Unparsed as problem:
            leave_out(str(problem))
        else:
            found.append((place, pair))
    for _ in range(questions - len(listed)):
        leave_out("fewer pairs in the reply than asked for")
    return found


def _pair(value: Any) -> WrittenPair:
    if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in TEXTS):
        raise Unparsed("lacks question, answer_w or answer_l as a text")
    pair = WrittenPair(*(value[key].strip() for key in TEXTS))
    for key in TEXTS:
        if not any(character.isalnum() for character in getattr(pair, key)):
            raise Unparsed(f"{key} without a word")
    if _same(pair.answer_w, pair.answer_l):
        raise Unparsed("both answers are the same")
    if _same(pair.question, pair.answer_w) or _same(pair.question, pair.answer_l):
        raise Unparsed("an answer repeats the question")
    return pair


def _same(one: str, other: str) -> bool:
    """Return whether two texts differ in case, spaces and punctuation at most."""
    return _words(one) == _words(other)


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.casefold()).split()
