"""A conversation, and two replies beside it: LLaMA-Factory's sharegpt ranking form
(`conversations`) and axolotl's chat_template.default (`messages`)."""

from collections.abc import Mapping
from typing import Any

from pydantic import AliasChoices, Field

from mvp_align.data.formats.record import Format, PersonRecord, Plain
from mvp_align.data.formats.turns import (
    Reply,
    Turns,
    is_message,
    last_question,
    last_replies,
    with_system,
)
from mvp_align.schema import PreferencePair


class ShareGptRecord(PersonRecord):
    conversations: Turns = Field(validation_alias=AliasChoices("conversations", "messages"))
    system: Plain = ""
    chosen: Reply
    rejected: Reply


def _fits(record: Mapping[str, Any]) -> bool:
    context = record.get("conversations", record.get("messages"))
    return is_message(context) and {"chosen", "rejected"} <= record.keys()


def _to_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
    record = ShareGptRecord.model_validate(value)
    before, question = last_question(with_system(record.system, record.conversations))
    answers = last_replies(record.chosen, record.rejected)
    return record.pair_of_public_file(
        value, fallback_id, question, answers, before=before, shown_as="chat"
    )


FORMAT = Format(
    ShareGptRecord,
    _to_pair,
    texts=("conversations", "chosen", "rejected"),
    title="a conversation and two replies, as LLaMA-Factory (sharegpt) and axolotl write it",
    fits=_fits,
    passed_over=("messages",),
    profiles_are_text=True,
    other_tools=True,
)
