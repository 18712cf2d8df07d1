"""Records in, pairs out: every record checked, every problem of a source in one message."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches

from mvp_align.data.formats import FORMATS
from mvp_align.data.formats.record import number_as_text
from mvp_align.data.forms import form_of
from mvp_align.data.record_checks import nearest_field, to_pair, unread_keys
from mvp_align.data.sources import Opened, open_source
from mvp_align.errors import UserError, listed
from mvp_align.schema import PreferencePair

SAME_RECORD = "repeats the id and content of an earlier record"
MISSPELT = 0.85
ALIKE = 0.6
"""How alike (difflib's ratio) an unknown key is to a known one to be refused as its misspelling, or
named beside it."""


@dataclass(frozen=True, slots=True)
class ReadPairs:
    """What was read of one source. `records` counts what was looked at: the pairs and what
    `left_out` counts by reason.

    `sha256` (hex) is over the file's bytes; over the concatenation of a folder's files in order of
    name; over the canonical JSON of the records kept of a Hugging Face dataset. `unread` counts the
    records that have a key which the format does not read, by the key and, in words, the known key
    that it is like.
    """

    pairs: list[PreferencePair]
    source: str
    records: int
    left_out: dict[str, int]
    sha256: str
    unread: dict[str, int]


def read_pairs(source: str, format: str, limit: int | None = None) -> ReadPairs:
    """Read and check `source` (a path, `hf:<id>[:<split>]` or `sample:<name>`) in one of
    FORMATS.

    Texts stay exactly as they stand in the file. Only the first `limit` records of each file are
    looked at at all. In a folder each file's stem becomes the group `user_type`; a single file
    has one where its stem is among its format's `user_types`. Records that name no person get the
    prompt as their user (`prompt-<hash>`). Ids are unique.

    Raises:
        UserError: naming every file, row (from 0) or line (from 1, .jsonl) and field that is wrong,
        and what to do.
    """
    if format not in FORMATS:
        near = get_close_matches(format, FORMATS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"data.format={format}: must be one of {', '.join(FORMATS)}.{hint}")
    if limit is not None and limit < 1:
        raise UserError(f"data.limit={limit}: must be above 0.")
    opened = open_source(source, limit)
    problems = [problem for file in opened.files for problem in file.problems]
    if not problems:
        _refuse_other_form(opened, format)
        _refuse_other_format(opened, source, format)
    unread, misspelt = _other_keys(opened, format)
    pairs, same, wrong = _checked_pairs(opened, format)
    problems += misspelt + wrong
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise listed(problems, f"{source} has {count} (read as data.format={format}):")
    records = sum(len(file.rows) for file in opened.files)
    return ReadPairs(
        pairs, source, records, {SAME_RECORD: same} if same else {}, opened.sha256, unread
    )


def _checked_pairs(opened: Opened, format: str) -> tuple[list[PreferencePair], int, list[str]]:
    """The pairs, how many records were left out because they repeat one, and all that is wrong with
    records."""
    kept: dict[str, tuple[PreferencePair, str]] = {}
    problems: list[str] = []
    given, same = _given_ids(opened, format), 0
    for file in opened.files:
        user_type = (
            file.stem if opened.is_folder or file.stem in FORMATS[format].user_types else None
        )
        for index, (place, value) in enumerate(file.rows):
            place = f"{file.name} {place}"
            made_up = f"{file.stem}-{index}"
            while made_up in given or made_up in kept:
                made_up += "+"
            pair, wrong = to_pair(value, format, fallback_id=made_up)
            problems += [place + problem for problem in wrong]
            if pair is None:
                continue
            if user_type is not None:
                pair = replace(pair, groups={**pair.groups, "user_type": user_type})
            if pair.id not in kept:
                kept[pair.id] = (pair, place)
            elif kept[pair.id][0] == pair:
                same += 1
            else:
                problems.append(
                    f"{place}, field 'id': '{pair.id}' is also the id of {kept[pair.id][1]}, which"
                    " holds something else; give each record its own id."
                )
    return [pair for pair, _ in kept.values()], same, problems


def _objects(opened: Opened) -> Iterator[tuple[str, dict[str, object]]]:
    """Every record that is an object, with its file and place."""
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


def _other_keys(opened: Opened, format: str) -> tuple[dict[str, int], list[str]]:
    """How many records have a key that is not read, and, as problems, the keys that are likely
    misspelt: a `userid` that is passed over would put one person on both sides of a split."""
    unread: Counter[str] = Counter()
    misspelt: dict[tuple[str, str], list[str]] = {}
    for place, value in _objects(opened):
        for key, lacking in unread_keys(value, format).items():
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


def _refuse_other_form(opened: Opened, format: str) -> None:
    """One plain sentence where records have the form of another tool."""
    texts = FORMATS[format].texts
    found = [(place, form) for place, value in _objects(opened) if (form := form_of(value, texts))]
    if found:
        place, (field, what) = found[0]
        count = f"{len(found)} of {sum(len(file.rows) for file in opened.files)} records"
        raise UserError(f"{place}, field '{field}' ({count}): {what}.")


def _refuse_other_format(opened: Opened, source: str, format: str) -> None:
    """One plain sentence where the records are of another format, instead of a dozen missing fields
    a row."""
    records = [value for _, value in _objects(opened)]
    texts = FORMATS[format].texts
    if any(key in record for record in records for key in texts):
        return
    fits = [
        name
        for name, known in FORMATS.items()
        if records and all(key in record for record in records for key in known.texts)
    ]
    if fits:
        file, wanted, there = (
            opened.files[0],
            ", ".join(texts),
            ", ".join(FORMATS[fits[0]].texts),
        )
        raise UserError(
            f"{file.name} {file.rows[0][0]}, field '{texts[0]}': data.format={format}"
            f" reads {wanted}, but the records of {source} hold {there}; set"
            f" data.format={' or data.format='.join(fits)}."
        )


def drop_repeats(pairs: Iterable[PreferencePair]) -> tuple[list[PreferencePair], int]:
    """The first of those that share question, chosen and rejected, in their order, and how many
    were dropped."""
    first: dict[tuple[str, str, str], PreferencePair] = {}
    total = 0
    for pair in pairs:
        total += 1
        first.setdefault((pair.question, pair.chosen, pair.rejected), pair)
    return list(first.values()), total - len(first)
