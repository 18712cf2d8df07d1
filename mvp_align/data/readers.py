"""Records in, pairs out: every record checked, every problem of a source in one message."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches

from mvp_align.data.formats import FORMATS, TEXT_KEYS, UFP4_USER_TYPES, to_pair
from mvp_align.data.sources import Opened, open_source
from mvp_align.errors import UserError, listed
from mvp_align.schema import PreferencePair

SAME_RECORD = "repeats the id and content of an earlier record"


@dataclass(frozen=True, slots=True)
class ReadPairs:
    """What was read of one source. `records` counts what was looked at: the pairs and what `left_out` counts by reason.

    `sha256` (hex) is over the file's bytes; over the concatenation of a folder's files in order of name; over the
    canonical JSON of the records kept of a Hugging Face dataset.
    """

    pairs: list[PreferencePair]
    source: str
    records: int
    left_out: dict[str, int]
    sha256: str


def read_pairs(source: str, format: str, limit: int | None = None) -> ReadPairs:
    """Read and check `source` (a path, `hf:<id>[:<split>]` or `sample:<name>`) as `mvpbench`, `ufp4` or `pairs`.

    Texts stay exactly as they stand in the file. Only the first `limit` records of each file are looked at at all.
    In a folder each file's stem becomes the group `user_type`; a single UF-P-4 file has one where its stem is one of
    UF-P-4's four. Records that name no person get the prompt as their user (`prompt-<hash>`). Ids are unique.

    Raises:
        UserError: naming every file, row (from 0) or line (from 1, .jsonl) and field that is wrong, and what to do.
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
        refuse_other_format(opened, source, format)

    kept: dict[str, tuple[PreferencePair, str]] = {}
    records = same = 0
    for file in opened.files:
        user_type = file.stem if opened.is_folder or (format == "ufp4" and file.stem in UFP4_USER_TYPES) else None
        for index, (place, value) in enumerate(file.rows):
            records += 1
            place = f"{file.name} {place}"
            pair, wrong = to_pair(value, format, fallback_id=f"{file.stem}-{index}")
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
                    f"{place}, field 'id': '{pair.id}' is also the id of {kept[pair.id][1]}, which holds something "
                    f"else; give each record its own id."
                )
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise listed(problems, f"{source} has {count} (read as data.format={format}):")
    left_out = {SAME_RECORD: same} if same else {}
    return ReadPairs([pair for pair, _ in kept.values()], source, records, left_out, opened.sha256)


def refuse_other_format(opened: Opened, source: str, format: str) -> None:
    """One plain sentence where the records are of another format, instead of a dozen missing fields a row."""
    objects = [value for file in opened.files for _, value in file.rows if isinstance(value, dict)]
    if any(key in record for record in objects for key in TEXT_KEYS[format]):
        return
    fits = [name for name, keys in TEXT_KEYS.items() if objects and all(k in r for r in objects for k in keys)]
    if fits:
        file, wanted, there = opened.files[0], ", ".join(TEXT_KEYS[format]), ", ".join(TEXT_KEYS[fits[0]])
        raise UserError(
            f"{file.name} {file.rows[0][0]}, field '{TEXT_KEYS[format][0]}': data.format={format} reads {wanted}, but "
            f"the records of {source} hold {there}; set data.format={' or data.format='.join(fits)}."
        )


def drop_repeats(pairs: Iterable[PreferencePair]) -> tuple[list[PreferencePair], int]:
    """The first of those that share question, chosen and rejected, in their order, and how many were dropped."""
    first: dict[tuple[str, str, str], PreferencePair] = {}
    total = 0
    for pair in pairs:
        total += 1
        first.setdefault((pair.question, pair.chosen, pair.rejected), pair)
    return list(first.values()), total - len(first)
