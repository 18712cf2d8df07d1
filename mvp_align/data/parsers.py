"""Parse a file's bytes as JSON, JSON Lines, CSV, TSV or Parquet, gzipped or not.

Nothing here knows what a record should contain; `formats` does. Problems with a file's bytes go
into `Records.problems`, so that `readers` can report them together with problems in the records.
"""

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import PurePath


@dataclass(frozen=True, slots=True)
class Records:
    """Up to `limit` unchecked records of one file, or of one Hugging Face split.

    `rows` holds each record's place, like `row 3` (from 0) or `line 4` (from 1, JSON Lines and
    tables), and its parsed value.
    """

    name: str
    stem: str
    rows: list[tuple[str, object]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def split_name(name: str) -> tuple[str, str]:
    """Split `dvb.jsonl.gz` into ("dvb", ".jsonl"). The extension selects a parser."""
    path = PurePath(name[:-3] if name.lower().endswith(".gz") else name)
    return path.stem, path.suffix.lower()


def parse(data: bytes, records: Records, extension: str, limit: int | None) -> None:
    """Add the first `limit` records of a file, or its problems. `extension` is a key of PARSERS."""
    if data[:2] == GZIP and records.name.lower().endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            records.problems.append(
                f"{records.name}: cannot be unpacked ({error}); compress it again."
            )
            return
    if not data.strip():
        records.problems.append(
            f"{records.name}: the file is empty; give one with records, or leave it out."
        )
        return
    PARSERS[extension](data, records, limit)
    if not records.rows and not records.problems:
        records.problems.append(
            f"{records.name}: holds no records; give a file with records, or leave it out."
        )


def _parse_json(data: bytes, records: Records, limit: int | None) -> None:
    text = _decode(data, records)
    if text is None:
        return
    value = _decode_json(
        text, records, "give a list of objects; a file with one object a line is named .jsonl"
    )
    if records.problems:
        return
    if isinstance(value, list):
        records.rows.extend((f"row {index}", record) for index, record in enumerate(value[:limit]))
        return
    lists = (
        [f"'{key}'" for key, inner in value.items() if isinstance(inner, list)]
        if isinstance(value, dict)
        else []
    )
    remedy = "put the records between [ and ], or use .jsonl for one object a line"
    if lists:
        remedy = f"give the list under {' or '.join(lists)} alone, as a file of its own"
    records.problems.append(
        f"{records.name}: the top level is {json_kind(value)}, not a list of records; {remedy}."
    )


def _parse_jsonl(data: bytes, records: Records, limit: int | None) -> None:
    text = _decode(data, records)
    if text is None:
        return
    # not splitlines(): JSON strings may contain U+2028 and the like, which do not end a line
    filled = (
        (number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()
    )
    for number, line in islice(filled, limit):
        if not records.rows and not records.problems and (form := _spread_out(line)):
            records.problems.append(f"{records.name} line {number}: {form}.")
            return
        before = len(records.problems)
        value = _decode_json(line, records, "put one whole object on each line", first_line=number)
        if len(records.problems) == before:
            records.rows.append((f"line {number}", value))


def _spread_out(first: str) -> str:
    """Describe a .jsonl file whose first line is not a whole record; empty if it is."""
    opens = first.strip()
    if opens.startswith("[") and not opens.endswith("]"):
        return "holds one list, not an object on each line; name the file .json"
    if opens == "{":
        return "holds records that go over several lines; write each on one line"
    return ""


def _parse_table(data: bytes, records: Records, limit: int | None, delimiter: str) -> None:
    """Parse a table whose first line names the columns.

    Every cell is kept as text, unchanged. Empty cells count as absent.
    """
    text = _decode(data, records)
    if text is None:
        return
    try:
        lines = _table_lines(text, delimiter)
        _, header = next(lines)
        if wrong := _header_problem(header, delimiter):
            records.problems.append(f"{records.name} line 1: {wrong}.")
            return
        for number, cells in islice(lines, limit):
            if len(cells) == len(header):
                filled = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
                records.rows.append((f"line {number}", filled))
            else:
                records.problems.append(
                    f"{records.name} line {number}: has {len(cells)} cells where line 1 names"
                    f" {len(header)} columns; put cells that hold the delimiter or a line break in"
                    " double quotes."
                )
    except csv.Error as error:
        records.problems.append(
            f"{records.name}: is no readable table ({error}); mend the quotes, or give .jsonl."
        )


def _table_lines(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each non-empty row with the line that it starts on."""
    reader, began = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), 1
    for cells in reader:
        if cells:
            yield began, cells
        began = reader.line_num + 1


def _header_problem(header: list[str], delimiter: str) -> str:
    twice = [f"'{name}'" for name, count in Counter(header).items() if count > 1]
    if twice:
        return f"names {', '.join(twice)} more than once; give each column a name of its own"
    if len(header) == 1 and any(mark in header[0] for mark in ",;\t"):
        kind = "commas" if delimiter == "," else "tabs (or name the file .csv)"
        return f"names one column, '{header[0]}'; separate columns by {kind}"
    return ""


def _parse_parquet(data: bytes, records: Records, limit: int | None) -> None:
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
    import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

    try:
        table = pq.read_table(pa.BufferReader(data))
        rows = table.slice(0, limit).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        records.problems.append(
            f"{records.name}: is not a readable Parquet file ({str(error).splitlines()[0]}); write"
            " it again."
        )
        return
    records.rows.extend((f"row {index}", row) for index, row in enumerate(rows))


PARSERS: dict[str, Callable[[bytes, Records, int | None], None]] = {
    ".json": _parse_json,
    ".jsonl": _parse_jsonl,
    ".csv": partial(_parse_table, delimiter=","),
    ".tsv": partial(_parse_table, delimiter="\t"),
    ".parquet": _parse_parquet,
}
GZIP = b"\x1f\x8b"
OTHER_KINDS = {
    GZIP: "gzipped: name it .gz",
    b"PAR1": "Parquet: name it .parquet",
    b"PK\x03\x04": "a ZIP archive: unpack it",
}
"""First bytes of common files that are not text."""


def _decode(data: bytes, records: Records) -> str | None:
    encoding = json.detect_encoding(data)  # by the byte order mark and the positions of zero bytes
    if not encoding.startswith("utf-8"):
        name = encoding.upper().removesuffix("-LE").removesuffix("-BE")
        records.problems.append(
            f"{records.name}: is {name} text, not UTF-8; save the file as UTF-8."
        )
        return None
    try:
        # accept a byte order mark, which Windows tools write
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = next((what for begin, what in OTHER_KINDS.items() if data.startswith(begin)), None)
        if kind is not None:
            records.problems.append(f"{records.name}: is {kind}.")
            return None
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start : error.start + 1]
        records.problems.append(
            f"{records.name} line {line}: byte 0x{byte.hex()} is not UTF-8 (in Windows-1252, much"
            f" like Latin-1, it is {byte.decode('cp1252', 'replace')!r}); save the file as UTF-8."
        )
        return None


def _decode_json(text: str, records: Records, remedy: str, first_line: int = 1) -> object:
    """Parse `text`. If it is broken, add a problem to `records` and return None."""
    try:
        value: object = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        place = f"line {first_line + error.lineno - 1}, column {error.colno}"
        records.problems.append(
            f"{records.name} {place}: broken JSON ({error.msg}); mend it there, and {remedy}."
        )
    except KeyError as error:
        records.problems.append(
            f"{records.name} line {first_line}: an object has the key {error} twice; leave one of"
            " the two out."
        )
    # a number with thousands of digits, or lists nested a thousand deep
    except (ValueError, RecursionError) as error:
        records.problems.append(
            f"{records.name} line {first_line}: JSON that cannot be read ({error}); {remedy}."
        )
    else:
        return value
    return None


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build a dict. Raises KeyError for a repeated key, which `json` would silently overwrite."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise KeyError(
            next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        )
    return found


def json_kind(value: object) -> str:
    """Name the type of a parsed value in the words of JSON: `an object`, `a list`, `a text`, ..."""
    kinds = {
        type(None): "null",
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
    }
    kinds |= {int: "a number", float: "a number"}
    return kinds.get(type(value), f"a value of type {type(value).__name__}")
