"""TRL's standard form: texts as a model is shown them, the prompt apart or, implicit, as what both
answers begin with."""

from collections.abc import Mapping
from typing import Any

from mvp_align.data.formats.record import Format, PersonRecord, Text, has_texts
from mvp_align.data.formats.turns import shared_length
from mvp_align.schema import PreferencePair

SHORTEST = 10
"""Characters that two answers share where they are taken to hold their prompt unasked: many answers
begin alike."""


class StandardRecord(PersonRecord):
    prompt: Text
    chosen: Text
    rejected: Text


def _standard_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
    record = StandardRecord.model_validate(value)
    answers = record.chosen, record.rejected
    return record.pair_of_public_file(
        value, fallback_id, record.prompt, answers, shown_as="verbatim"
    )


class ImplicitRecord(PersonRecord):
    chosen: Text
    rejected: Text


def _is_implicit(record: Mapping[str, Any]) -> bool:
    if "prompt" in record or not has_texts("chosen", "rejected")(record):
        return False
    shared = shared_length(record["chosen"], record["rejected"])
    return len(record["chosen"][:shared].strip()) >= SHORTEST


def _implicit_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
    record = ImplicitRecord.model_validate(value)
    shared = shared_length(record.chosen, record.rejected)
    # As TRL's extract_prompt: a space before the answers is theirs.
    shared -= record.chosen[shared - 1 : shared] == " "
    answers = record.chosen[shared:], record.rejected[shared:]
    return record.pair_of_public_file(
        value, fallback_id, record.chosen[:shared], answers, shown_as="verbatim"
    )


STANDARD = Format(
    StandardRecord,
    _standard_pair,
    texts=("prompt", "chosen", "rejected"),
    title="texts, as TRL writes them",
    fits=has_texts("prompt", "chosen", "rejected"),
    profiles_are_text=True,
    other_tools=True,
)
IMPLICIT = Format(
    ImplicitRecord,
    _implicit_pair,
    texts=("chosen", "chosen", "rejected"),
    title="texts without a prompt, which is what both answers begin with, as TRL takes them",
    fits=_is_implicit,
    profiles_are_text=True,
    other_tools=True,
)
