"""MVPBench's records, of both editions."""

from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, Field

from mvp_align.data.formats.record import (
    Format,
    Identifier,
    Plain,
    Record,
    Score,
    Text,
    known_dimension,
)
from mvp_align.schema import PreferencePair, Profile, StatedValues


class StatedPrefs(Record):
    creativity: Score
    fluency: Score
    factuality: Score
    diversity: Score
    safety: Score
    personalisation: Score
    helpfulness: Score


class MvpBenchRecord(Record):
    id: Identifier
    question: Text
    answer_w: Text
    answer_l: Text
    user_id: Identifier
    stated_prefs: StatedPrefs
    age: Text
    gender: Text
    employment_status: Text
    education: Text
    marital_status: Text
    # The 2026 edition (DiverValue-Bench) and the first one name this field differently.
    birth_country: Text = Field(
        validation_alias=AliasChoices("birth_country/region", "birth_country")
    )
    english_proficiency: Plain = ""
    preference: Plain = ""
    dimension: Annotated[Plain, AfterValidator(known_dimension)] | None = None


def _to_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
    record = MvpBenchRecord.model_validate(value)
    values = StatedValues(**record.stated_prefs.model_dump())
    profile = Profile(
        age=record.age,
        gender=record.gender,
        employment_status=record.employment_status,
        education=record.education,
        marital_status=record.marital_status,
        birth_country=record.birth_country,
        english_proficiency=record.english_proficiency,
    )
    groups = {
        name: getattr(profile, name) for name in Profile.__slots__ if getattr(profile, name).strip()
    }
    if record.dimension is not None:
        groups["dimension"] = record.dimension
        if (stated := values.level(record.dimension)) is not None:
            groups["level"] = stated
    return PreferencePair(
        id=record.id,
        user_id=record.user_id,
        question=record.question,
        chosen=record.answer_w,
        rejected=record.answer_l,
        profile=profile,
        stated_values=values,
        preference=record.preference if record.preference.strip() else values.preference(),
        groups=groups,
    )


FORMAT = Format(
    MvpBenchRecord,
    _to_pair,
    texts=("question", "answer_w", "answer_l"),
    # parts of the survey, the system prompt of the benchmark's generation, and the country's code,
    # which our own builds add (`construction.records`)
    passed_over=(
        "self_description",
        "system_string",
        "birth_country",
        "birth_country/region",
        "birth_country_iso3",
    ),
)
