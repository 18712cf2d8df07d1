"""What a record of each format holds, and the pair it becomes.

The models are strict (no text where a number belongs) but let extra keys pass: the benchmarks'
files carry more than is used, and `unread_keys` names what else there is. A key that is null counts
as absent, because Parquet and Hugging Face datasets write absent keys so.
"""

import math
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from hashlib import sha256
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from mvp_align.data.parsers import json_kind
from mvp_align.schema import DIMENSIONS, PreferencePair, Profile, StatedValues

UFP4_USER_TYPES = ("helpfulness", "honesty", "instruction_following", "truthfulness")


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "is blank; write the text, or leave the record out")
    return text


def _whole_characters(text: str) -> str:
    """JSON can spell half of a surrogate pair (`\\ud800`), which no tokenizer, hash or UTF-8 file
    takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError(
            "surrogate",
            "holds half of a surrogate pair at character {at}, which is no character; write the"
            " text again",
            {"at": error.start},
        ) from error
    return text


def _whole_float_as_int(value: object) -> object:
    """75.0 counts as 75: a table that once held an empty cell comes back with floats. From 2^53 on
    a float may have lost digits, and two ids may have become one."""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if whole else value  # type: ignore[call-overload]


def number_as_text(value: object) -> object:
    value = _whole_float_as_int(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _profile_entries(value: object) -> dict[str, str]:
    """`{"age": 65, "retired": true}` as texts, `{"age": "65", "retired": "yes"}`, without what is
    null or blank; none of a profile that is no object."""
    if not isinstance(value, dict):
        return {}
    entries = {}
    for key, entry in value.items():
        if isinstance(entry, bool):
            entry = "yes" if entry else "no"
        elif isinstance(entry, float) and math.isfinite(entry):
            entry = str(_whole_float_as_int(entry))
        entry = number_as_text(entry)
        if "," in str(key):  # it becomes the name of a breakdown, and `gender,age` is one of two
            raise PydanticCustomError(
                "profile", "has the key '{key}'; take the comma out of it", {"key": key}
            )
        if entry is not None and not isinstance(entry, str):
            raise PydanticCustomError(
                "profile",
                "holds {kind} at '{key}'; write a text or a number there, or leave the key out",
                {"key": key, "kind": _kind_of(entry)},
            )
        if entry and entry.strip():
            entries[str(key)] = entry
    return entries


def _profile_as_text(value: object) -> object:
    """`{"age": "65+", "birth_country": "Chile"}` becomes `Age: 65+, Birth country: Chile.`; a text
    stays as it is."""
    if not isinstance(value, dict):
        return value
    parts = [
        f"{key[:1].upper()}{key[1:].replace('_', ' ')}: {text}"
        for key, text in _profile_entries(value).items()
    ]
    return ", ".join(parts) + "." if parts else ""


def _kind_of(value: object) -> str:
    """`json_kind`, and NaN by its name."""
    return "NaN" if isinstance(value, float) and math.isnan(value) else json_kind(value)


def _known_dimension(name: str) -> str:
    if name not in DIMENSIONS:
        raise PydanticCustomError(
            "dimension",
            "is '{name}'; use one of {known}",
            {"name": name, "known": ", ".join(DIMENSIONS)},
        )
    return name


Plain = Annotated[str, AfterValidator(_whole_characters)]
Text = Annotated[Plain, AfterValidator(_not_blank)]
Identifier = Annotated[Text, BeforeValidator(number_as_text)]
Score = Annotated[int, BeforeValidator(_whole_float_as_int), Field(ge=0, le=100)]


class Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


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
    dimension: Annotated[Plain, AfterValidator(_known_dimension)] | None = None


class Ufp4Record(Record):
    prompt: Text
    chosen: Text
    rejected: Text
    user_id: Identifier | None = None
    profile: Plain = ""


class PairsRecord(Record):
    prompt: Text
    chosen: Text
    rejected: Text
    id: Identifier | None = None
    user_id: Identifier | None = None
    profile: Annotated[Plain, BeforeValidator(_profile_as_text)] = ""


def _prompt_as_user(prompt: str) -> str:
    """The `user_id` of records that name no person: rows of one prompt stay together in splits and
    intervals."""
    return f"prompt-{sha256(prompt.strip().encode()).hexdigest()[:8]}"


def names_person(pair: PreferencePair) -> bool:
    return pair.user_id != _prompt_as_user(pair.question)


def _mvpbench_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
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


def _ufp4_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
    record = Ufp4Record.model_validate(value)
    return PreferencePair(
        id=fallback_id,
        user_id=record.user_id or _prompt_as_user(record.prompt),
        question=record.prompt,
        chosen=record.chosen,
        rejected=record.rejected,
        profile_text=record.profile,
    )


def _pairs_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
    record = PairsRecord.model_validate(value)
    return PreferencePair(
        id=record.id or fallback_id,
        user_id=record.user_id or _prompt_as_user(record.prompt),
        question=record.prompt,
        chosen=record.chosen,
        rejected=record.rejected,
        profile_text=record.profile,
        groups=_profile_entries(value.get("profile")),
    )


RECORDS: dict[str, type[Record]] = {
    "mvpbench": MvpBenchRecord,
    "ufp4": Ufp4Record,
    "pairs": PairsRecord,
}
FORMATS: dict[str, Callable[[dict[str, Any], str], PreferencePair]] = {
    "mvpbench": _mvpbench_pair,
    "ufp4": _ufp4_pair,
    "pairs": _pairs_pair,
}
TEXT_KEYS = {
    "mvpbench": ("question", "answer_w", "answer_l"),
    "ufp4": ("prompt", "chosen", "rejected"),
    "pairs": ("prompt", "chosen", "rejected"),
}
"""The keys that each format names the question, the fitting and the contradicting answer by."""
PASSED_OVER = {
    # What the benchmark's own records carry besides: parts of the survey, and the system prompt of
    # its generation.
    "mvpbench": ("self_description", "system_string", "birth_country", "birth_country/region"),
    "ufp4": (),
    "pairs": (),
}
CONTEXT = ("system", "system_prompt", "history", "images", "tools")
"""Keys under which other tools keep a part of what the model is shown: a record that has one means
another prompt."""


def unread_keys(value: dict[str, Any], format: str) -> dict[str, frozenset[str]]:
    """The keys of a record that hold something and that its format does not read, each with the
    fields that it lacks."""
    there = {str(key) for key, entry in value.items() if entry is not None}
    fields = frozenset(RECORDS[format].model_fields)
    return dict.fromkeys(sorted(there - fields - {*PASSED_OVER[format], *CONTEXT}), fields - there)


@cache
def nearest_field(key: str, lacking: frozenset[str], cutoff: float) -> str | None:
    """The one of `lacking`, fields that a record does not have, that `key` is most like by
    difflib's ratio; None where none reaches `cutoff`."""
    names = {_plain(name): name for name in sorted(lacking)}
    if "user_id" in lacking:
        names |= {"user": "user_id", "uid": "user_id"}
    near = get_close_matches(_plain(key), names, n=1, cutoff=cutoff)
    return names[near[0]] if near else None


def _plain(key: str) -> str:
    return "".join(char for char in key.casefold() if char.isalnum())


def to_pair(
    value: object, format: str, fallback_id: str
) -> tuple[PreferencePair | None, list[str]]:
    """One parsed record as a pair, or None and its problems, each as `, field 'F': what was wrong;
    what to do.`

    `fallback_id` becomes the id of a record whose format or content gives none.
    """
    if not isinstance(value, dict):
        return None, [
            f": is {json_kind(value)} where an object belongs; write the record as {{...}}."
        ]
    problems = []
    _, chosen, rejected = TEXT_KEYS[format]
    texts = [
        text.strip() for text in (value.get(chosen), value.get(rejected)) if isinstance(text, str)
    ]
    if len(texts) == 2 and texts[0] and texts[0] == texts[1]:
        problems.append(
            f", field '{rejected}': says the same as '{chosen}'; correct one, or leave the record"
            " out."
        )
    for key in CONTEXT:
        if value.get(key):
            problems.append(
                f", field '{key}': is not shown to the model; put its text into the prompt, or take"
                " the key out."
            )
    try:
        pair = FORMATS[format](
            {key: entry for key, entry in value.items() if entry is not None}, fallback_id
        )
    except ValidationError as error:
        problems += [_field_problem(detail) for detail in error.errors(include_url=False)]
    return (None if problems else pair), problems


def _field_problem(detail: ErrorDetails) -> str:
    found = detail["input"]
    shown = repr(found)[:40] if isinstance(found, int | float) else json_kind(found)
    number = "give a whole number from 0 to 100"
    words = {
        "missing": "is missing or null; add it to the record",
        "string_type": f"is {shown} where a text belongs; {_text_remedy(found)}",
        "model_type": f"is {shown} where an object belongs; give the seven scores as {{...}}",
        "int_type": f"is {shown}; {number}, without quotes",
        "greater_than_equal": f"is {shown}; {number}",
        "less_than_equal": f"is {shown}; {number}",
    }
    name = ".".join(str(part) for part in detail["loc"])
    what = words.get(detail["type"], detail["msg"])
    return f", field '{name}': {what}."


def _text_remedy(found: object) -> str:
    if isinstance(found, float) and math.isnan(found):
        return "NaN is no value: write the text, or leave the key out"
    if isinstance(found, int | float):
        return "write it as a text (in JSON: in quotes)"
    return "write one text"
