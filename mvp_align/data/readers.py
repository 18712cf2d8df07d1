"""Read records into pairs: check every record, and report all problems of a source at once."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches

from mvp_align.data.formats import FORMATS
from mvp_align.data.formats.record import number_as_text
from mvp_align.data.forms import form_of
from mvp_align.data.record_checks import nearest_field, to_pair, unread_keys
from mvp_align.data.sources import Opened, open_source
from mvp_align.errors import UserError, combined_error
from mvp_align.schema import PreferencePair

SAME_RECORD = "repeats the id and content of an earlier record"
MISSPELT = 0.85
ALIKE = 0.6
"""Similarity (difflib's ratio) to a known key at which we report an unknown one.

At MISSPELT we reject it as a misspelling, at ALIKE we name the known key next to it.
"""


@dataclass(frozen=True, slots=True)
class ReadPairs:
    """Pairs read from one source. `records` counts the pairs plus all of `left_out`, by reason.

    `sha256` (hex) covers a file's bytes, a folder's files concatenated in order of name, or the
    canonical JSON of the records kept of a Hugging Face dataset. `unread` counts records with a key
    that the format does not read, by the key and, if there is one, a similar known key.
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
        UserError: naming every wrong file, row (from 0) or line (from 1, .jsonl) and field, with
            remedies.
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
        raise combined_error(problems, f"{source} has {count} (read as data.format={format}):")
    records = sum(len(file.rows) for file in opened.files)
    return ReadPairs(
        pairs, source, records, {SAME_RECORD: same} if same else {}, opened.sha256, unread
    )


def _checked_pairs(opened: Opened, format: str) -> tuple[list[PreferencePair], int, list[str]]:
    """Return the pairs, the number of repeated records left out, and all problems with records."""
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


def _other_keys(opened: Opened, format: str) -> tuple[dict[str, int], list[str]]:
    """Count records with unread keys, and return likely misspellings as problems.

    Ignoring a misspelt `userid` would put one user on both sides of a split.
    """
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
    """Raise one plain error if the records have another tool's format."""
    texts = FORMATS[format].texts
    found = [(place, form) for place, value in _objects(opened) if (form := form_of(value, texts))]
    if found:
        place, (field, what) = found[0]
        count = f"{len(found)} of {sum(len(file.rows) for file in opened.files)} records"
        raise UserError(f"{place}, field '{field}' ({count}): {what}.")


def _refuse_other_format(opened: Opened, source: str, format: str) -> None:
    """Raise one plain error if the records fit another `data.format`.

    Otherwise each row would report a dozen missing fields.
    """
    records = [value for _, value in _objects(opened)]
    texts = FORMATS[format].texts
    if any(key in record for record in records for key in texts):
        return
    fits = [
        name
        for name, known in FORMATS.items()
        if records
        and all(key in record for record in records for key in (*known.texts, *known.marks))
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
    """Drop pairs that repeat an earlier one's question, chosen and rejected, and count them."""
    first: dict[tuple[str, str, str], PreferencePair] = {}
    total = 0
    for pair in pairs:
        total += 1
        first.setdefault((pair.question, pair.chosen, pair.rejected), pair)
    return list(first.values()), total - len(first)
