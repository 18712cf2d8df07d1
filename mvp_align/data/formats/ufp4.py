"""UF-P-4's records: each of its four files is of one user type, and no record names a person."""

from typing import Any

from mvp_align.data.formats.record import (
    Format,
    Identifier,
    Plain,
    Record,
    Text,
    has_texts,
    prompt_as_user,
)
from mvp_align.schema import PreferencePair


class Ufp4Record(Record):
    prompt: Text
    chosen: Text
    rejected: Text
    user_id: Identifier | None = None
    profile: Plain = ""


def _to_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
    record = Ufp4Record.model_validate(value)
    return PreferencePair(
        id=fallback_id,
        user_id=record.user_id or prompt_as_user(record.prompt),
        question=record.prompt,
        chosen=record.chosen,
        rejected=record.rejected,
        profile_text=record.profile,
    )


FORMAT = Format(
    Ufp4Record,
    _to_pair,
    texts=("prompt", "chosen", "rejected"),
    fits=has_texts("prompt", "chosen", "rejected"),
    profiles_are_text=True,
    names_people=False,
    user_types=("helpfulness", "honesty", "instruction_following", "truthfulness"),
)
