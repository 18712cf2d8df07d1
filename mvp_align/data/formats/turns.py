"""Messages of a conversation, as other tools write them: `{"role", "content"}` or
`{"from", "value"}`."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Annotated

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

from mvp_align.data.formats.record import LeftOut, whole_characters
from mvp_align.data.parsers import json_kind
from mvp_align.schema import ChatTurn

ROLES = {
    "system": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant",
    "chatgpt": "assistant",
}  # fmt: skip
NOT_READ = ("tool_calls", "function_call", "reasoning_content", "thinking", "images", "audio")
"""Keys of a message that change what a model is shown."""


def is_message(value: object) -> bool:
    """Return whether `value` is a message, or a list that starts with one."""
    if isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, dict) and (
        {"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()
    )


def begins_with_question(value: object) -> bool:
    """Return whether `value` is a list of messages that starts before an answer does."""
    if not isinstance(value, list) or not is_message(value):
        return False
    return ROLES.get(str(value[0].get("role") or value[0].get("from")).casefold()) != "assistant"


def read_turns(value: object) -> tuple[ChatTurn, ...]:
    """Read a message or a list of messages.

    Raises PydanticCustomError for another shape, and LeftOut for what is no plain conversation.
    """
    entries = [value] if isinstance(value, dict) else value
    if not isinstance(entries, list) or not entries:
        raise PydanticCustomError(
            "turns",
            "is {kind} where messages belong; write a list of {{role, content}} objects",
            {"kind": "an empty list" if value == [] else json_kind(value)},
        )
    return tuple(_read_turn(entry, place) for place, entry in enumerate(entries))


def _read_turn(entry: object, place: int) -> ChatTurn:
    if not isinstance(entry, dict) or not is_message(entry):
        raise PydanticCustomError(
            "turns",
            "has {kind} as message {place} (from 0); write {{role, content}} there",
            {"kind": json_kind(entry), "place": place},
        )
    role = entry.get("role") or entry.get("from")
    known = ROLES.get(str(role).casefold())
    if known is None:
        raise LeftOut(f"a message is of role '{role}', which is not read")
    if lost := next((key for key in NOT_READ if entry.get(key)), None):
        raise LeftOut(f"a message has '{lost}', which is not read")
    content = entry["content"] if "content" in entry else entry["value"]
    return ChatTurn(known, _text_of(content, place))  # type: ignore[arg-type]


def _text_of(content: object, place: int) -> str:
    """The text of a message; of a list of parts, their texts in one."""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        if other := next((p.get("type") for p in content if p.get("type") != "text"), None):
            raise LeftOut(f"a message holds a part of type '{other}', which is not read")
        content = "".join(str(part.get("text") or "") for part in content)
    if not isinstance(content, str):
        raise PydanticCustomError(
            "turns",
            "has {kind} as the text of message {place} (from 0); write a text there",
            {"kind": json_kind(content), "place": place},
        )
    return whole_characters(content)


def _read_prompt(value: object) -> tuple[ChatTurn, ...]:
    return (
        (ChatTurn("user", whole_characters(value)),)
        if isinstance(value, str)
        else read_turns(value)
    )


def _read_answer(value: object) -> tuple[ChatTurn, ...]:
    if isinstance(value, str):
        return (ChatTurn("assistant", whole_characters(value)),)
    return read_turns(value)


Turns = Annotated[tuple[ChatTurn, ...], PlainValidator(read_turns)]
Prompt = Annotated[tuple[ChatTurn, ...], PlainValidator(_read_prompt)]
"""Messages, or the text of a user's."""
Reply = Annotated[tuple[ChatTurn, ...], PlainValidator(_read_answer)]
"""Messages, or the text of an answer."""


def with_system(system: str, turns: tuple[ChatTurn, ...]) -> tuple[ChatTurn, ...]:
    """Put a system prompt before turns that have none of their own."""
    if not system.strip() or (turns and turns[0].role == "system"):
        return turns
    return (ChatTurn("system", system), *turns)


def last_question(turns: Sequence[ChatTurn]) -> tuple[tuple[ChatTurn, ...], str]:
    """Split turns into what was said before the last question, and that. Raises LeftOut where a
    user's turn is not the last one."""
    if not turns or turns[-1].role != "user":
        raise LeftOut("no question of a user stands before the answers")
    return tuple(turns[:-1]), turns[-1].content


def split_conversations(
    chosen: tuple[ChatTurn, ...], rejected: tuple[ChatTurn, ...]
) -> tuple[tuple[ChatTurn, ...], tuple[str, str]]:
    """Split two whole conversations into the turns that they share, and two last replies, as TRL
    does. Raises LeftOut where they part before the last reply."""
    shared = shared_length(chosen, rejected)
    return chosen[:shared], last_replies(chosen[shared:], rejected[shared:])


def shared_length(*sequences: Sequence[object]) -> int:
    """Return how many elements all sequences begin with alike."""
    first, *others = sequences
    lengths = range(1, min(map(len, sequences)) + 1)
    return bisect_left(lengths, True, key=lambda n: any(other[:n] != first[:n] for other in others))


def last_replies(chosen: Sequence[ChatTurn], rejected: Sequence[ChatTurn]) -> tuple[str, str]:
    """Return the texts of two answers of one turn each. Raises LeftOut for others."""
    if not chosen and not rejected:
        raise LeftOut("both answers say the same")
    if any([turn.role for turn in answer] != ["assistant"] for answer in (chosen, rejected)):
        raise LeftOut("the two conversations part before the last reply")
    return chosen[0].content, rejected[0].content
