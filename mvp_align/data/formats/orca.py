"""Orca's pairs (Intel): a system prompt, a question, and two answers."""

from typing import Any

from mvp_align.data.formats.record import Format, PersonRecord, Plain
from mvp_align.data.formats.turns import with_system
from mvp_align.schema import PreferencePair


class OrcaRecord(PersonRecord):
    question: Plain
    system: Plain = ""
    chosen: Plain
    rejected: Plain


def _to_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
    record = OrcaRecord.model_validate(value)
    return record.pair_of_public_file(
        value,
        fallback_id,
        record.question,
        (record.chosen, record.rejected),
        before=with_system(record.system, ()),
        shown_as="chat",
    )


FORMAT = Format(
    OrcaRecord,
    _to_pair,
    texts=("question", "chosen", "rejected"),
    title="questions with a system prompt, as in Orca's pairs",
    profiles_are_text=True,
    other_tools=True,
)
