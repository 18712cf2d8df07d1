"""Stated values of one's own: which fields of a record hold a person's scores, of any dimensions.

A YAML file maps them (`data.values`):

    about: topic            # the field that names the dimension that the question is about
    high_from: 80           # from here on a score is High, ...
    low_up_to: 60           # ... and up to here Low
    dimensions:
      honesty: survey.honesty
      brevity: {field: likes_brief, high_from: 4, low_up_to: 2}

`survey.honesty` is the key `honesty` of the object under `survey`. A score that is absent or null
states nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

from mvp_align.data.formats import FORMATS
from mvp_align.data.parsers import json_kind
from mvp_align.errors import UserError
from mvp_align.metrics.variables import STATED
from mvp_align.runtime.yaml_files import read_yaml
from mvp_align.schema import HIGH_FROM, LOW_UP_TO, Level, PreferencePair


def _without_comma(name: str) -> str:
    if not name.strip() or "," in name:
        raise ValueError(f"{name!r} is no name of a dimension: leave the comma out")
    return name


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StatedField(_Strict):
    """Where a dimension's score stands, and what is High and Low of it if not the file's own."""

    field: str
    high_from: FiniteFloat | None = None
    low_up_to: FiniteFloat | None = None


class OwnValues(_Strict):
    """A mapping file."""

    dimensions: dict[Annotated[str, AfterValidator(_without_comma)], str | StatedField] = Field(
        min_length=1
    )
    about: str | None = None
    high_from: FiniteFloat = HIGH_FROM
    low_up_to: FiniteFloat = LOW_UP_TO

    @property
    def fields(self) -> dict[str, StatedField]:
        """Each dimension's field with its thresholds."""
        given = {
            name: StatedField(field=found) if isinstance(found, str) else found
            for name, found in self.dimensions.items()
        }
        return {
            name: StatedField(
                field=one.field,
                high_from=self.high_from if one.high_from is None else one.high_from,
                low_up_to=self.low_up_to if one.low_up_to is None else one.low_up_to,
            )
            for name, one in given.items()
        }

    @property
    def columns(self) -> set[str]:
        """The records' keys that are read."""
        named = [one.field for one in self.fields.values()] + [self.about] * bool(self.about)
        return {str(name).partition(".")[0] for name in named}


def read_own_values(path: str) -> OwnValues:
    """Read a mapping file. Raises UserError where it is missing, of another shape, or has a
    dimension whose Low reaches its High."""
    values = read_yaml(Path(path).expanduser(), OwnValues)
    for name, one in values.fields.items():
        assert one.high_from is not None and one.low_up_to is not None
        if one.low_up_to >= one.high_from:
            raise UserError(
                f"{path}: {name} is Low up to {one.low_up_to:g} and High from {one.high_from:g}:"
                " low_up_to must be below high_from."
            )
    return values


def check_own_values(
    values: OwnValues, path: str | None, format: str, records: Sequence[Mapping[str, Any]]
) -> None:
    """Raise UserError where records bring values of their own format, or lack a mapped field."""
    if not FORMATS[format].profiles_are_text:
        raise UserError(
            f"data.values={path}: records of data.format={format} have fields for what people"
            " state. Leave it out."
        )
    for name, one in values.fields.items():
        if records and all(_look_up(record, one.field) is None for record in records):
            raise UserError(
                f"{path}: no record has the field '{one.field}' of {name}: correct the file."
            )


def stated_of(record: Mapping[str, Any], values: OwnValues) -> tuple[dict[str, str], list[str]]:
    """Return a record's groups by its stated values, and its problems, each as `, field 'F': ...`.

    The groups are `stated_<dimension>` (High or Low), and where the record says what its question
    is about, `dimension` and, if the person states one, `level`.
    """
    levels: dict[str, Level] = {}
    problems = []
    for name, one in values.fields.items():
        score = _look_up(record, one.field)
        if score is None:
            continue
        wrong = isinstance(score, bool) or not isinstance(score, int | float)
        if wrong or (isinstance(score, float) and not math.isfinite(score)):
            problems.append(
                f", field '{one.field}': is {json_kind(score)} where a score of {name} belongs;"
                " write a number, or leave the key out."
            )
        elif score >= (one.high_from or 0):
            levels[name] = "High"
        elif score <= (one.low_up_to or 0):
            levels[name] = "Low"
    groups: dict[str, str] = {f"{STATED}{name}": found for name, found in levels.items()}
    about = _look_up(record, values.about) if values.about else None
    if about is not None and (not isinstance(about, str) or about not in values.dimensions):
        known = ", ".join(values.dimensions)
        problems.append(
            f", field '{values.about}': is {str(about)[:40]!r}; use one of {known}, or leave the"
            " key out."
        )
    elif about is not None:
        groups["dimension"] = about
        if about in levels:
            groups["level"] = levels[about]
    return groups, problems


def _look_up(record: Mapping[str, Any], field: str) -> Any:
    """Return what a dotted field holds; None where it is absent."""
    found: Any = record
    for key in field.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(key)
    return found


def with_stated(pair: PreferencePair, groups: Mapping[str, str]) -> PreferencePair:
    """Give a pair its groups, and its person's values as text, High before Low, in the order of the
    file. The text is the last line of the profile, and what judges go by."""
    stated = [
        f"{level} {name.removeprefix(STATED)}"
        for level in ("High", "Low")
        for name, found in groups.items()
        if name.startswith(STATED) and found == level
    ]
    preference = ", ".join(stated) + "." if stated else ""
    lines = [pair.profile_text.strip(), f"User values: {preference}" if preference else ""]
    return replace(
        pair,
        preference=preference,
        profile_text="\n".join(line for line in lines if line),
        groups={**pair.groups, **groups},
    )
