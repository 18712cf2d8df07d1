"""Read records into pairs: check every record, and report all problems of a source at once."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import PurePath
from typing import NoReturn

from mvp_align.data.formats import AUTO_FORMAT, FORMATS
from mvp_align.data.formats.record import LeftOut, number_as_text
from mvp_align.data.recognition import (
    recognise,
    refuse_lacking,
    refuse_unknown,
    refuse_unpaired,
    refuse_unread_columns,
    rename_columns,
    said_form,
)
from mvp_align.data.record_checks import nearest_field, to_pair, unread_keys
from mvp_align.data.sources import Opened, open_source
from mvp_align.data.stated import OwnValues, check_own_values, read_own_values
from mvp_align.errors import UserError, combined_error
from mvp_align.schema import PreferencePair

ColumnNames = Mapping[str, str]
"""`{ours: theirs}`: what records call the columns that we read."""

STANDARD = "standard"
"""The format that records are measured by which cannot be read at all."""
SAME_RECORD = "repeats the id and content of an earlier record"
MISSPELT = 0.85
ALIKE = 0.6
"""Similarity (difflib's ratio) to a known key at which we report an unknown one.

At MISSPELT we reject it as a misspelling, at ALIKE we name the known key next to it.
"""


@dataclass(frozen=True, slots=True)
class PairRow:
    """The record that a pair is read of, its columns under our names, and where it stands."""

    file: str
    """Stem of the file's name."""
    place: str
    value: object


@dataclass(frozen=True, slots=True)
class ReadPairs:
    """Pairs read from one source, and the record of each, in the same order. `records` counts the
    pairs plus all of `left_out`, by reason.

    `sha256` (hex) covers a file's bytes, a folder's files concatenated in order of name, or the
    canonical JSON of the records kept of a Hugging Face dataset. `unread` counts records with a key
    that the format does not read, by the key and, if there is one, a similar known key. `format` is
    a name of FORMATS; `form` says what was recognised, and is empty where the format was named.
    """

    pairs: list[PreferencePair]
    rows: list[PairRow]
    source: str
    records: int
    left_out: dict[str, int]
    sha256: str
    unread: dict[str, int]
    format: str
    is_folder: bool
    form: str = ""


def read_pairs(
    source: str,
    format: str,
    limit: int | None = None,
    columns: ColumnNames | None = None,
    values: str | None = None,
) -> ReadPairs:
    """Read and check `source` (a path, `hf:<id>[:<split>]` or `sample:<name>`) in one of
    FORMATS, or `auto`, which recognises it. `pairs` recognises other tools' formats, too.

    `columns` names the records' columns, `{ours: theirs}`, and `values` a file that says which hold
    what people state (`data.stated`). Texts stay exactly as they stand in the
    file. Only the first `limit` records of each file are looked at at all. In a folder each file's
    stem becomes the group `user_type`, unless the files are shards of one; a single file has one
    where its stem is among its format's `user_types`. Records that name no person get the prompt as
    their user (`prompt-<hash>`). Ids are unique.

    Raises:
        UserError: naming every wrong file, row (from 0) or line (from 1, .jsonl) and field, with
            remedies.
    """
    if format not in (*FORMATS, AUTO_FORMAT):
        near = get_close_matches(format, FORMATS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        known = ", ".join((AUTO_FORMAT, *FORMATS))
        raise UserError(f"data.format={format}: must be one of {known}.{hint}")
    if limit is not None and limit < 1:
        raise UserError(f"data.limit={limit}: must be above 0.")
    opened = open_source(source, limit)
    problems = [problem for file in opened.files for problem in file.problems]
    rename_columns(opened.files, columns or {}, source)
    asked_for, format = format, _format_of(opened, source, format, broken=bool(problems))
    if not problems:
        refuse_unread_columns(columns or {}, source, format)
        refuse_lacking([value for _, value in _objects(opened)], source, format)
    own = read_own_values(values) if values else None
    if own is not None:
        check_own_values(own, values, format, [value for _, value in _objects(opened)])
    unread, misspelt = _other_keys(opened, format, own.columns if own else ())
    kept, left_out, wrong = _checked_pairs(opened, format, own)
    problems += misspelt + wrong
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise combined_error(problems, f"{source} has {count} (read as data.format={format}):")
    if not kept:
        records = sum(len(file.rows) for file in opened.files)
        reasons = "; ".join(f"{why} in {count}" for why, count in left_out.items())
        raise UserError(
            f"{source}: none of {records} records makes a pair (read as data.format={format}):"
            f" {reasons}."
        )
    pairs, rows = [pair for pair, _ in kept], [row for _, row in kept]
    return ReadPairs(
        pairs=pairs,
        rows=rows,
        source=source,
        records=sum(len(file.rows) for file in opened.files),
        left_out=left_out,
        sha256=opened.sha256,
        unread=unread,
        format=format,
        is_folder=opened.is_folder,
        form=said_form(format, pairs) if format != asked_for else "",
    )


def _format_of(opened: Opened, source: str, format: str, *, broken: bool) -> str:
    """Return the format to read by: the one that was named, or the one that records are of.

    Where a file is `broken`, it is only told what to mend there. Raises UserError in one line for
    records of no known format, or of another one than was named.
    """
    records = [value for _, value in _objects(opened)]
    named = FORMATS.get(format)
    if named is not None and (broken or not records or any(map(named.is_format_of, records))):
        return format
    found = recognise(records)
    if found is None:
        refuse_unpaired(records, source)
        if records and not broken and (named is None or not _has_any(records, named.texts)):
            refuse_unknown(records, source)
        return format if named is not None else STANDARD
    if named is None or (format == "pairs" and FORMATS[found].other_tools):
        return found
    _refuse_other_format(opened, source, format, found)


def _has_any(records: Iterable[Mapping[str, object]], keys: Iterable[str]) -> bool:
    return any(key in record for record in records for key in keys)


def _checked_pairs(
    opened: Opened, format: str, own: OwnValues | None
) -> tuple[list[tuple[PreferencePair, PairRow]], dict[str, int], list[str]]:
    """Return the pairs with their records, records left out by reason, and all problems."""
    kept: dict[str, tuple[PreferencePair, PairRow]] = {}
    problems: list[str] = []
    given, left_out = _given_ids(opened, format), Counter[str]()
    for file in opened.files:
        user_type = file.stem if file.stem in FORMATS[format].user_types else None
        if opened.is_folder and not opened.is_sharded:
            user_type = file.stem
        for index, (place, value) in enumerate(file.rows):
            place = f"{file.name} {place}"
            made_up = f"{file.stem}-{index}"
            while made_up in given or made_up in kept:
                made_up += "+"
            pair = to_pair(value, format, fallback_id=made_up, own=own)
            if isinstance(pair, list):
                problems += [place + problem for problem in pair]
                continue
            if isinstance(pair, LeftOut):
                left_out[str(pair)] += 1
                continue
            if user_type is not None:
                pair = replace(pair, groups={**pair.groups, "user_type": user_type})
            if pair.id not in kept:
                kept[pair.id] = (pair, PairRow(PurePath(file.stem).name, place, value))
            elif kept[pair.id][0] == pair:
                left_out[SAME_RECORD] += 1
            else:
                problems.append(
                    f"{place}, field 'id': '{pair.id}' is also the id of"
                    f" {kept[pair.id][1].place}, which holds something else; give each record its"
                    " own id."
                )
    return list(kept.values()), dict(left_out), problems


def _objects(opened: Opened) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield every record that is an object, with its file and place."""
    for file in opened.files:
        yield from (
            (f"{file.name} {place}", value) for place, value in file.rows if isinstance(value, dict)
        )


def _given_ids(opened: Opened, format: str) -> set[object]:
    """The ids that records give themselves: none that is made up may be one of them."""
    if not FORMATS[format].has_ids:  # they are all made up
        return set()
    return {
        name
        for _, value in _objects(opened)
        if isinstance(name := number_as_text(value.get("id")), str)
    }


def _other_keys(
    opened: Opened, format: str, also_read: Collection[str] = ()
) -> tuple[dict[str, int], list[str]]:
    """Count records with unread keys, and return likely misspellings as problems.

    Ignoring a misspelt `userid` would put one user on both sides of a split.
    """
    unread: Counter[str] = Counter()
    misspelt: dict[tuple[str, str], list[str]] = {}
    for place, value in _objects(opened):
        for key, lacking in unread_keys(value, format).items():
            if key in also_read:
                continue
            if near := nearest_field(key, lacking, MISSPELT):
                misspelt.setdefault((key, near), []).append(place)
            else:
                alike = nearest_field(key, lacking, ALIKE)
                unread[f"'{key}' (did you mean '{alike}'?)" if alike else f"'{key}'"] += 1
    problems = [
        f"{places[0]}, field '{key}': is not read; did you mean '{near}'? Rename it, or take it out"
        + (f" (so in {len(places)} records)." if len(places) > 1 else ".")
        for (key, near), places in misspelt.items()
    ]
    return dict(unread), problems


def _refuse_other_format(opened: Opened, source: str, format: str, found: str) -> NoReturn:
    """Raise one plain error for records of another format than was named.

    Otherwise each row would report a dozen missing fields.
    """
    place, _ = next(_objects(opened))
    known, texts = FORMATS[found], FORMATS[format].texts
    others = [
        name
        for name, other in FORMATS.items()
        if all(map(other.is_format_of, (value for _, value in _objects(opened))))
    ]
    are = f" ({known.title})" if known.title else ""
    raise UserError(
        f"{place}, field '{texts[0]}': data.format={format} reads {', '.join(texts)}, but the"
        f" records of {source} hold {', '.join(dict.fromkeys(known.texts))}{are}; set"
        f" data.format={' or data.format='.join(others or [found])}."
    )


def drop_repeats(pairs: Iterable[PreferencePair]) -> tuple[list[PreferencePair], int]:
    """Drop pairs that repeat an earlier one's question, chosen and rejected, and count them."""
    first: dict[tuple[str, str, str], PreferencePair] = {}
    total = 0
    for pair in pairs:
        total += 1
        first.setdefault((pair.asked, pair.chosen, pair.rejected), pair)
    return list(first.values()), total - len(first)
