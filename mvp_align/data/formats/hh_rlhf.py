"""HH-RLHF's form (Anthropic): two whole dialogues of `Human:` and `Assistant:` turns, which differ
in the last reply.

The text of turns stays as it is but for one space behind each colon. Without a chat template the
dialogue is shown as it is in the file; with one, its turns are a conversation.
"""

import re
from collections.abc import Mapping
from typing import Any

from mvp_align.data.formats.record import Format, LeftOut, PersonRecord, Plain
from mvp_align.data.formats.turns import last_question, split_conversations
from mvp_align.schema import ChatTurn, PreferencePair

SPEAKER = re.compile(r"\n\n(Human|Assistant):")


class HhRlhfRecord(PersonRecord):
    chosen: Plain
    rejected: Plain


def _fits(record: Mapping[str, Any]) -> bool:
    answers = record.get("chosen"), record.get("rejected")
    return "prompt" not in record and all(
        isinstance(text, str) and {*SPEAKER.findall(_from_break(text))} == {"Human", "Assistant"}
        for text in answers
    )


def _from_break(text: str) -> str:
    """Some files begin without the empty line that every turn has before it."""
    return text if text.startswith("\n\n") else f"\n\n{text.lstrip()}"


def _read_dialogue(text: str) -> tuple[ChatTurn, ...]:
    """Split a dialogue at its speakers. Raises LeftOut where it starts with neither of them."""
    before, *parts = SPEAKER.split(_from_break(text))
    if before.strip() or not parts:
        raise LeftOut("the dialogue starts with neither Human: nor Assistant:")
    return tuple(
        ChatTurn("user" if who == "Human" else "assistant", said.removeprefix(" "))
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    )


def _to_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
    record = HhRlhfRecord.model_validate(value)
    asked, answers = split_conversations(
        _read_dialogue(record.chosen), _read_dialogue(record.rejected)
    )
    before, question = last_question(asked)
    return record.pair_of_public_file(
        value, fallback_id, question, answers, before=before, shown_as="dialogue"
    )


FORMAT = Format(
    HhRlhfRecord,
    _to_pair,
    texts=("chosen", "chosen", "rejected"),
    title="dialogues of Human: and Assistant: turns, as in HH-RLHF",
    fits=_fits,
    profiles_are_text=True,
    other_tools=True,
)
