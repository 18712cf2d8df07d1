"""ms-swift's form: a conversation that ends in the chosen reply, and the rejected reply as text."""

from collections.abc import Mapping
from typing import Any

from mvp_align.data.formats.record import Format, LeftOut, PersonRecord, Plain
from mvp_align.data.formats.turns import Turns, is_message, last_question, with_system
from mvp_align.schema import PreferencePair


class SwiftRecord(PersonRecord):
    messages: Turns
    rejected_response: Plain
    system: Plain = ""


def _fits(record: Mapping[str, Any]) -> bool:
    return is_message(record.get("messages")) and isinstance(record.get("rejected_response"), str)


def _to_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
    record = SwiftRecord.model_validate(value)
    *asked, answer = record.messages
    if answer.role != "assistant":
        raise LeftOut("the conversation does not end in a reply")
    before, question = last_question(with_system(record.system, tuple(asked)))
    answers = answer.content, record.rejected_response
    return record.pair_of_public_file(
        value, fallback_id, question, answers, before=before, shown_as="chat"
    )


FORMAT = Format(
    SwiftRecord,
    _to_pair,
    texts=("messages", "messages", "rejected_response"),
    title="a conversation and a rejected reply, as ms-swift writes it",
    fits=_fits,
    profiles_are_text=True,
    other_tools=True,
)
