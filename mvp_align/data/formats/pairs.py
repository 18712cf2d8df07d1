"""Pairs of your own: a prompt, two answers, and who asked, where that is known."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from mvp_align.data.formats.record import (
    Format,
    Identifier,
    Plain,
    Record,
    Text,
    profile_as_text,
    profile_entries,
    prompt_as_user,
)
from mvp_align.schema import PreferencePair


class PairsRecord(Record):
    prompt: Text
    chosen: Text
    rejected: Text
    id: Identifier | None = None
    user_id: Identifier | None = None
    profile: Annotated[Plain, BeforeValidator(profile_as_text)] = ""


def _to_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
    record = PairsRecord.model_validate(value)
    return PreferencePair(
        id=record.id or fallback_id,
        user_id=record.user_id or prompt_as_user(record.prompt),
        question=record.prompt,
        chosen=record.chosen,
        rejected=record.rejected,
        profile_text=record.profile,
        groups=profile_entries(value.get("profile")),
    )


FORMAT = Format(
    PairsRecord, _to_pair, texts=("prompt", "chosen", "rejected"), profiles_are_text=True
)
