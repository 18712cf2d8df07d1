"""One record checked against its format: what is missing, wrong or not read, in words."""

import math
from difflib import get_close_matches
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mvp_align.data.formats import FORMATS
from mvp_align.data.formats.record import Format, LeftOut
from mvp_align.data.parsers import json_kind
from mvp_align.data.stated import OwnValues, stated_of, with_stated
from mvp_align.schema import PreferencePair

CONTEXT = ("system", "system_prompt", "history", "images", "tools")
"""Keys under which other tools keep a part of what the model is shown: a record that has one means
another prompt."""


ADDED_HERE = ("provenance",)
"""Keys that our own commands add to records of any format, and that are not read."""


def unread_keys(value: dict[str, Any], format: str) -> dict[str, frozenset[str]]:
    """The keys of a record that hold something and that its format does not read, each with the
    fields that it lacks."""
    there = {str(key) for key, entry in value.items() if entry is not None}
    known = FORMATS[format]
    fields = frozenset(known.record.model_fields)
    passed_over = {*known.passed_over, *CONTEXT, *ADDED_HERE}
    return dict.fromkeys(sorted(there - fields - passed_over), fields - there)


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
    value: object, format: str, fallback_id: str, own: OwnValues | None = None
) -> PreferencePair | LeftOut | list[str]:
    """One parsed record as a pair, or why it is none and is counted, or its problems, each as `,
    field 'F': what was wrong; what to do.`

    `fallback_id` becomes the id of a record whose format or content gives none. `own` says where
    the record holds stated values.
    """
    if not isinstance(value, dict):
        return [f": is {json_kind(value)} where an object belongs; write the record as {{...}}."]
    known, problems = FORMATS[format], []
    if not known.other_tools:
        problems += _equal_answers(value, known)
    for key in CONTEXT:
        if value.get(key) and key not in known.record.model_fields:
            problems.append(
                f", field '{key}': is not shown to the model; put its text into the prompt, or take"
                " the key out."
            )
    try:
        pair = known.to_pair(
            {key: entry for key, entry in value.items() if entry is not None}, fallback_id
        )
    except ValidationError as error:
        problems += [_field_problem(detail) for detail in error.errors(include_url=False)]
    except LeftOut as reason:
        return problems or reason
    if own is not None:
        groups, wrong = stated_of(value, own)
        problems += wrong
    return problems or (pair if own is None else with_stated(pair, groups))


def _equal_answers(value: dict[str, Any], known: Format) -> list[str]:
    _, chosen, rejected = known.texts
    texts = [
        text.strip() for text in (value.get(chosen), value.get(rejected)) if isinstance(text, str)
    ]
    if len(texts) < 2 or not texts[0] or texts[0] != texts[1]:
        return []
    return [
        f", field '{rejected}': says the same as '{chosen}'; correct one, or leave the record out."
    ]


def _field_problem(detail: ErrorDetails) -> str:
    found = detail["input"]
    shown = repr(found)[:40] if isinstance(found, int | float) else json_kind(found)
    number = "give a whole number from 0 to 100"
    words = {
        "missing": "is missing or null; add it to the record",
        "string_type": f"is {shown} where a text belongs; {_text_remedy(found)}",
        "list_type": f"is {shown} where a list belongs; write it as [...]",
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
