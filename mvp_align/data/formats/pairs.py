"""Pairs of your own: a prompt, two answers, and, where that is known, who asked and what they chose
before."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from mvp_align.data.formats.record import (
    Choice,
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
    choices: list[Choice] = Field(default=[])


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
        choices=tuple(choice.earlier for choice in record.choices),
    )


FORMAT = Format(
    PairsRecord, _to_pair, texts=("prompt", "chosen", "rejected"), profiles_are_text=True
)
