"""Pairs of your own: a prompt, two answers, and, where that is known, who asked and what they chose
before."""

from typing import Any

from mvp_align.data.formats.record import Format, PersonRecord, Text, has_texts
from mvp_align.schema import PreferencePair


class PairsRecord(PersonRecord):
    prompt: Text
    chosen: Text
    rejected: Text


def _to_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
    record = PairsRecord.model_validate(value)
    return record.pair(
        value, fallback_id, record.prompt, record.chosen, record.rejected, shown_as="text"
    )


FORMAT = Format(
    PairsRecord,
    _to_pair,
    texts=("prompt", "chosen", "rejected"),
    fits=has_texts("prompt", "chosen", "rejected"),
    profiles_are_text=True,
)
