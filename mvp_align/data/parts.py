"""The parts of a data set (train, val, test) as a command line names them, read one by one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable

from mvp_align.data.parsers import PARSERS, split_name
from mvp_align.data.readers import ColumnNames, ReadPairs, read_pairs
from mvp_align.data.sources import locate_source, open_source
from mvp_align.errors import UserError
from mvp_align.schema import PreferencePair

PARTS = ("train", "val", "test")
SPELLINGS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "eval": "test",
}  # fmt: skip
"""The last word of a file's or folder's name -> the part that it holds."""
WHOLE = "all"
"""The part of a source whose name says none."""
NAME_IT = "Write train=, val= or test= before it, as in test=FILE."


@dataclass(frozen=True, slots=True)
class DataPart:
    """What was read of a part.

    `problem` is the reader's message where it refused the source; then there are no pairs.
    `records` counts all that the source holds, and `read` says what became of them.
    """

    name: str
    source: str
    records: int
    read: ReadPairs | None
    problem: str = ""

    @property
    def pairs(self) -> list[PreferencePair]:
        return self.read.pairs if self.read else []


def find_parts(words: Sequence[str]) -> dict[str, str]:
    """Return sources by part, in the order of PARTS.

    A word is a source, or `train=SOURCE`, `val=SOURCE`, `test=SOURCE`. A folder that holds a file
    or folder for each of at least two parts (`DVB-train.json`, `val.jsonl`, `test/`) stands for
    those. Other sources are the part that their name ends with, or, given alone, `all`.

    Raises:
        UserError: if two sources are one part, a source does not exist, or of several sources one
            is no part.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, source = word.partition("=")
        inner = {name: source} if equals and name in PARTS else _parts_inside(word)
        for part, path in (inner or {_part_of(word) or WHOLE: word}).items():
            _add(found, part, path)
    if WHOLE in found and len(found) > 1:
        raise UserError(f"{found[WHOLE]}: its name does not say which part it is. {NAME_IT}")
    for source in found.values():
        if not source.startswith("hf:"):
            locate_source(source)
    return {part: found[part] for part in (*PARTS, WHOLE) if part in found}


def _add(found: dict[str, str], part: str, source: str) -> None:
    if part in found:
        both = f"{found[part]} and {source}"
        raise UserError(
            f"{both}: their names do not say which parts they are. {NAME_IT}"
            if part == WHOLE
            else f"{both} are both the part '{part}': leave one out."
        )
    found[part] = source


def _part_of(source: str) -> str | None:
    """Return the part that a source's name ends with: `test` for data/DVB-test.json.gz."""
    name = source.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    stem = split_name(name)[0] if split_name(name)[1] in PARSERS else name
    return SPELLINGS.get(re.split(r"[^A-Za-z]+", stem)[-1].casefold())


def _parts_inside(source: str) -> dict[str, str]:
    """Return the parts that a folder holds, if they are two or more."""
    inner: dict[str, str] = {}
    for entry, path in _entries(source):
        if (part := _part_of(entry.name)) and (entry.is_dir() or _is_records(entry)):
            _add(inner, part, path)
    return inner if len(inner) > 1 else {}


def passed_over(words: Sequence[str]) -> list[str]:
    """Return files of records that lie beside the parts in a folder and are none of them."""
    return [
        path
        for word in words
        if (inner := _parts_inside(word))
        for entry, path in _entries(word)
        if _is_records(entry) and path not in inner.values()
    ]


def _entries(source: str) -> list[tuple[Traversable, str]]:
    """Return what a folder or bundled sample holds, each with the source that names it."""
    if source.startswith("hf:") or source.partition("=")[0] in PARTS:
        return []
    folder = locate_source(source)
    found = sorted(folder.iterdir(), key=lambda entry: entry.name) if folder.is_dir() else []
    return [(entry, f"{source.rstrip('/')}/{entry.name}") for entry in found]


def _is_records(entry: Traversable) -> bool:
    return entry.is_file() and split_name(entry.name)[1] in PARSERS


def read_part(name: str, source: str, format: str, columns: ColumnNames | None = None) -> DataPart:
    """Read a part. What the reader refuses becomes the part's `problem`.

    Raises:
        UserError: if the source does not exist or cannot be opened, or there is no such format.
    """
    records = sum(len(file.rows) for file in open_source(source).files)
    try:
        read = read_pairs(source, format, columns=columns)
    except UserError as error:
        if str(error).startswith("data.format="):  # there is no such format: not the file's fault
            raise
        return DataPart(name, source, records, None, str(error))
    return DataPart(name, source, read.records, read)
