"""What every data format is made of: the types of its fields, the ids that stand in for a person,
and `Format`, the value that a format is.

The models are strict (no text where a number belongs) but let extra keys pass: the benchmarks'
files carry more than is used, and `record_checks.unread_keys` names what else there is. A key that
is null counts as absent, because Parquet and Hugging Face datasets write absent keys so.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from mvp_align.data.parsers import json_kind
from mvp_align.schema import DIMENSIONS, ChatTurn, EarlierChoice, PreferencePair, ShownAs


class LeftOut(Exception):
    """A record that is sound, and no pair, as some of any public file are; says why in words that
    are the same for all such records. They are counted by these words."""


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "is blank; write the text, or leave the record out")
    return text


def whole_characters(text: str) -> str:
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


def profile_entries(value: object) -> dict[str, str]:
    """`{"age": 65, "retired": true}` as texts, `{"age": "65", "retired": "yes"}`, without what is
    null or blank; none of what is no object."""
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


def profile_as_text(value: object) -> object:
    """`{"age": "65+", "birth_country": "Chile"}` becomes `Age: 65+, Birth country: Chile.`; a text
    stays as it is."""
    if not isinstance(value, dict):
        return value
    parts = [
        f"{key[:1].upper()}{key[1:].replace('_', ' ')}: {text}"
        for key, text in profile_entries(value).items()
    ]
    return ", ".join(parts) + "." if parts else ""


def _kind_of(value: object) -> str:
    """`json_kind`, and NaN by its name."""
    return "NaN" if isinstance(value, float) and math.isnan(value) else json_kind(value)


def known_dimension(name: str) -> str:
    if name not in DIMENSIONS:
        raise PydanticCustomError(
            "dimension",
            "is '{name}'; use one of {known}",
            {"name": name, "known": ", ".join(DIMENSIONS)},
        )
    return name


Plain = Annotated[str, AfterValidator(whole_characters)]
Text = Annotated[Plain, AfterValidator(_not_blank)]
Identifier = Annotated[Text, BeforeValidator(number_as_text)]
Score = Annotated[int, BeforeValidator(_whole_float_as_int), Field(ge=0, le=100)]


class Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


def _group_entries(value: object) -> object:
    return profile_entries(value) if isinstance(value, dict) else value


class Choice(Record):
    """An earlier choice that a record brings."""

    prompt: Text
    chosen: Text
    rejected: Text

    @property
    def earlier(self) -> EarlierChoice:
        return EarlierChoice(self.prompt, self.chosen, self.rejected)


class PersonRecord(Record):
    """What a record may say beside its texts: whose it is, and what results are broken down by."""

    id: Identifier | None = None
    user_id: Identifier | None = None
    profile: Annotated[Plain, BeforeValidator(profile_as_text)] = ""
    groups: Annotated[dict[str, str], BeforeValidator(_group_entries)] = Field(default={})
    choices: list[Choice] = Field(default=[])

    def pair(
        self,
        value: Mapping[str, Any],
        fallback_id: str,
        question: str,
        chosen: str,
        rejected: str,
        *,
        before: tuple[ChatTurn, ...] = (),
        shown_as: ShownAs,
    ) -> PreferencePair:
        """Make a pair of these texts. `value` is the record before it was parsed.

        Keys of a profile that is an object are groups, and so are those of `groups`, which count
        where both name one.
        """
        of_nobody = PreferencePair(
            id=self.id or fallback_id,
            user_id="",
            question=question,
            chosen=chosen,
            rejected=rejected,
            profile_text=self.profile,
            groups={**profile_entries(value.get("profile")), **self.groups},
            choices=tuple(choice.earlier for choice in self.choices),
            before=before,
            shown_as=shown_as,
        )
        return replace(of_nobody, user_id=self.user_id or prompt_as_user(of_nobody.asked))

    def pair_of_public_file(
        self,
        value: Mapping[str, Any],
        fallback_id: str,
        question: str,
        answers: tuple[str, str],
        *,
        before: tuple[ChatTurn, ...] = (),
        shown_as: ShownAs,
    ) -> PreferencePair:
        """Make a pair of a record that somebody else's tool or project wrote. `answers`: the chosen
        and the rejected one. Raises LeftOut where they make none."""
        if not question.strip():
            raise LeftOut("the question is blank")
        if not all(answer.strip() for answer in answers):
            raise LeftOut("an answer is blank")
        if answers[0].strip() == answers[1].strip():
            raise LeftOut("both answers say the same")
        return self.pair(value, fallback_id, question, *answers, before=before, shown_as=shown_as)


@dataclass(frozen=True, slots=True)
class Format:
    """`to_pair` makes a pair of a record without its null keys, which `record` has to take; the id
    that it is handed is for records that give none. It raises pydantic's ValidationError, and
    LeftOut."""

    record: type[Record]
    to_pair: Callable[[dict[str, Any], str], PreferencePair]
    texts: tuple[str, str, str]
    """The keys of the question, the fitting and the contradicting answer."""
    marks: tuple[str, ...] = ()
    """Keys beside them without which records are of another format."""
    passed_over: tuple[str, ...] = ()
    """Keys that the format's own files carry and that are not read, without a word about it."""
    profiles_are_text: bool = False
    """Whether a profile is free text, which fills no field of a prompt template."""
    names_people: bool = True
    """Whether its records say whose they are."""
    user_types: tuple[str, ...] = ()
    """Names of files, without extension, that are the user type of all their records."""
    title: str = ""
    """What its records are, in words, and whose: `messages, as TRL writes them`."""
    fits: Callable[[Mapping[str, Any]], bool] | None = None
    """Whether a record without its null keys is of this format; by default if it has the keys of
    `texts` and `marks`."""
    other_tools: bool = False
    """Whether it is another tool's or project's, so that records which are no pairs are counted,
    and data.format=pairs takes it too."""

    def is_format_of(self, record: Mapping[str, Any]) -> bool:
        """Whether a record looks like one of this format."""
        record = {key: entry for key, entry in record.items() if entry is not None}
        if self.fits is not None:
            return self.fits(record)
        return all(key in record for key in (*self.texts, *self.marks))

    @property
    def has_ids(self) -> bool:
        return "id" in self.record.model_fields


def has_texts(*keys: str) -> Callable[[Mapping[str, Any]], bool]:
    """Return whether a record has texts under all of `keys`, as a function of the record."""
    return lambda record: all(isinstance(record.get(key), str) for key in keys)


def prompt_as_user(prompt: str) -> str:
    """The `user_id` of records that name no person: rows of one prompt stay together in splits and
    intervals."""
    return f"prompt-{sha256(prompt.strip().encode()).hexdigest()[:8]}"


def names_person(pair: PreferencePair) -> bool:
    return pair.user_id != prompt_as_user(pair.asked)
