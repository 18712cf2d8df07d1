"""P-Soups' records as AlignX publishes them: answers to instructions, labelled by a persona.

`ground_truth_persona` is the rule that they were labelled by, and becomes the profile. Each record
brings four earlier choices of the same persona. No record names a person, so each prompt counts as
one.
"""

from typing import Any

from pydantic import Field

from mvp_align.data.formats.record import Choice, Format, Record, Text, prompt_as_user
from mvp_align.schema import PreferencePair


class PSoupsRecord(Record):
    prompt: Text
    chosen: Text
    rejected: Text
    ground_truth_persona: Text
    choices: list[Choice] = Field(default=[], validation_alias="Pair-wise Comparative Feedback")


def _to_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
    record = PSoupsRecord.model_validate(value)
    return PreferencePair(
        id=fallback_id,
        user_id=prompt_as_user(record.prompt),
        question=record.prompt,
        chosen=record.chosen,
        rejected=record.rejected,
        profile_text=record.ground_truth_persona,
        groups={"persona": record.ground_truth_persona},
        choices=tuple(choice.earlier for choice in record.choices),
    )


FORMAT = Format(
    PSoupsRecord,
    _to_pair,
    texts=("prompt", "chosen", "rejected"),
    marks=("ground_truth_persona",),
    # traits, which the labels do not go by
    passed_over=("profile", "Pair-wise Comparative Feedback"),
    profiles_are_text=True,
    names_people=False,
)
