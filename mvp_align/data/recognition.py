"""Recognise the format of records, rename their columns, and say in one line what they are."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from mvp_align.data.formats import FORMATS
from mvp_align.data.parsers import Records
from mvp_align.errors import UserError
from mvp_align.schema import PreferencePair

ALSO_CALLED = {
    "prompt": ("question", "instruction", "query", "input", "context", "post", "asked"),
    "chosen": (
        "best", "better", "preferred", "accepted", "winner", "good", "positive", "response_chosen",
        "chosen_response", "answer_w", "win", "response_w",
    ),
    "rejected": (
        "worst", "worse", "dispreferred", "loser", "bad", "negative", "response_rejected",
        "rejected_response", "answer_l", "lose", "response_l", "other",
    ),
}  # fmt: skip
"""What people call the columns of pairs: only to suggest `data.columns`, never to read by."""


def recognise(records: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the format that most records are of, the first of FORMATS for each; None where no
    record is of any."""
    found: Counter[str] = Counter()
    for record in records:
        name = next((name for name, known in FORMATS.items() if known.is_format_of(record)), None)
        if name is not None:
            found[name] += 1
    return max(FORMATS, key=lambda name: found[name]) if found else None


def refuse_unknown(records: Sequence[Mapping[str, Any]], source: str) -> NoReturn:
    """Raise one line about records of no known format: what they hold, and what would help."""
    keys = keys_of(records)
    raise UserError(
        f"{source}: its records are of no format that is known here. They hold"
        f" {', '.join(keys) or 'nothing'}. {_columns_hint(keys)} docs/data.md lists the formats."
    )


def refuse_unpaired(records: Sequence[Mapping[str, Any]], source: str) -> None:
    """Raise one line about records of one answer each."""
    keys = keys_of(records)
    if "completion" in keys and not {"chosen", "rejected"} & {*keys}:
        raise UserError(
            f"{source}: holds one answer a record ({', '.join(keys)}; unpaired preference data)."
            " Give pairs: one record with 'prompt', 'chosen' and 'rejected' for two answers to one"
            " prompt."
        )


def refuse_lacking(records: Sequence[Mapping[str, Any]], source: str, format: str) -> None:
    """Raise one line where not one of several records has a column that the format needs, and all
    have others that it does not read: a renamed column, and no mistake of each row."""
    known = FORMATS[format]
    needed = {*known.texts} & {
        name for name, field in known.record.model_fields.items() if field.is_required()
    }
    keys = keys_of(records)
    lacking = [name for name in known.texts if name in needed and name not in keys]
    others = [key for key in keys if key not in known.record.model_fields]
    if len(records) < 2 or not lacking or not others or any(map(known.is_format_of, records)):
        return
    names = " and ".join(f"'{name}'" for name in dict.fromkeys(lacking))
    raise UserError(
        f"{source}: none of {len(records)} records has {names}, which data.format={format} reads."
        f" They hold {', '.join(keys)}. {_columns_hint(keys)}"
    )


def may_be_conversations(format: str) -> bool:
    """Return whether records read by `data.format` may be shown by a chat template unasked."""
    return format not in FORMATS or format == "pairs" or FORMATS[format].other_tools


def keys_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the keys under which some record holds something, in order of appearance."""
    return list(
        dict.fromkeys(
            str(key) for record in records for key, entry in record.items() if entry is not None
        )
    )


def _columns_hint(keys: Sequence[str]) -> str:
    """Suggest `data.columns` for what people call the three columns."""
    found = {}
    for name, others in ALSO_CALLED.items():
        if name in keys:
            continue
        plain = {key.casefold(): key for key in keys}
        near = next((plain[other] for other in others if other in plain), None)
        near = near or next(iter(get_close_matches(name, keys, n=1, cutoff=0.7)), None)
        found[name] = near or "..."
    mapping = ", ".join(f"{name}: {key}" for name, key in found.items())
    return f"'data.columns={{{mapping}}}' names the columns."


def rename_columns(files: Iterable[Records], columns: Mapping[str, str], source: str) -> None:
    """Put what records hold under a column's name under ours, in place: `columns` is
    `{ours: theirs}`. Raises UserError for a column that no record has."""
    if not columns:
        return
    found: Counter[str] = Counter()
    records = [value for file in files for _, value in file.rows if isinstance(value, dict)]
    keys = keys_of(records)
    for record in records:
        taken = {ours: record[theirs] for ours, theirs in columns.items() if theirs in record}
        found.update(theirs for theirs in columns.values() if theirs in record)
        for theirs in columns.values():
            record.pop(theirs, None)
        record.update(taken)
    for ours, theirs in columns.items():
        if not found[theirs] and records:
            near = get_close_matches(theirs, keys, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UserError(
                f"{source}: data.columns takes '{ours}' from '{theirs}', which no record has. They"
                f" hold {', '.join(keys)}.{hint}"
            )


def refuse_unread_columns(columns: Mapping[str, str], source: str, format: str) -> None:
    """Raise UserError if the format reads no such field as `columns` fills."""
    fields = FORMATS[format].record.model_fields
    for ours in columns:
        if ours not in fields:
            near = get_close_matches(ours, fields, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UserError(
                f"{source}: data.columns fills '{ours}', which data.format={format} does not read:"
                f" it reads {', '.join(fields)}.{hint}"
            )


def said_form(format: str, pairs: Sequence[PreferencePair]) -> str:
    """Say what was recognised: `conversational, as TRL writes it: 1 to 3 turns, 4 of 9 with a
    system prompt`."""
    title = FORMATS[format].title or f"{format} records"
    turns = sorted({1 + sum(turn.role == "user" for turn in pair.before) for pair in pairs} or {1})
    systems = sum(any(turn.role == "system" for turn in pair.before) for pair in pairs)
    details = []
    if turns != [1]:
        several = f"{turns[0]} to {turns[-1]}" if len(turns) > 1 else f"{turns[0]}"
        details.append(f"{several} turns")
    if systems:
        details.append(f"{systems} of {len(pairs)} with a system prompt")
    return f"{title}: {', '.join(details)}" if details else title
