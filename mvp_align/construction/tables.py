"""Read columns of a table, whatever its form, in bounded memory (polars).

Every value comes out as text, so that nothing is guessed from a column's first rows: `95`, `"95"`
and `95.0` are told apart by whoever needs a number.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from mvp_align.errors import UserError, combined_error

CHUNK = 2048
"""Rows that are in memory at once, beside those that polars reads ahead."""
LOOKED_AT = 100
"""Rows of a .jsonl file in one of which a column has to occur."""
KINDS = ".jsonl, .csv, .tsv or .parquet (text files also with .gz behind)"
BROKEN_GZIP = (OSError, EOFError, zlib.error)

Row = dict[str, Any]


def scan_table(
    path: Path, columns: Mapping[str, str], lists: Mapping[str, Sequence[str]]
) -> pl.LazyFrame:
    """Return the columns of `path` (our name -> its name) as texts, without reading them yet.

    `lists` names those that hold a list of objects, with the objects' keys; a text is taken as JSON
    there. Raises UserError for a file of another kind, and where a column is missing.
    """
    kind = "".join(Path(path.name.removesuffix(".gz")).suffixes[-1:])
    match kind:
        case ".jsonl":
            found = _names_in_lines(path)
            _check_columns(path, columns, found)
            frame = pl.scan_ndjson(path, schema=_schema(path, columns, lists))
        case ".csv" | ".tsv":
            frame = pl.scan_csv(path, separator="\t" if kind == ".tsv" else ",", infer_schema=False)
        case ".parquet":
            frame = pl.scan_parquet(path)
        case _:
            raise UserError(f"{path}: a table has to be {KINDS}.")
    if kind != ".jsonl":
        with explained(path):
            _check_columns(path, columns, _names_in_schema(frame.collect_schema()))
    schema = frame.collect_schema()
    return frame.select(
        _column(schema, theirs, lists.get(ours)).alias(ours) for ours, theirs in columns.items()
    )


def table_rows(frame: pl.LazyFrame, path: Path) -> Iterator[Row]:
    """Yield the rows in the file's order. Raises UserError naming the first line that is broken."""
    with explained(path):
        for batch in frame.collect_batches(
            chunk_size=CHUNK, maintain_order=True, engine="streaming"
        ):
            yield from batch.iter_rows(named=True)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what polars raises about `path` into a UserError that says where it is broken."""
    try:
        yield
    except (pl.exceptions.PolarsError, *BROKEN_GZIP) as error:
        said = " ".join(str(error).split("\n\n")[0].split())[:200]
        raise UserError(f"{path}{_broken_line(path)}: cannot be read ({said}).") from None


def _broken_line(path: Path) -> str:
    """Return `, line 4` for the first line of a .jsonl file that holds no object, else nothing."""
    if not path.name.removesuffix(".gz").endswith(".jsonl"):
        return ""
    try:
        for number, line in enumerate(_lines(path), start=1):
            if line.strip() and not isinstance(_parsed(line), dict):
                return f", line {number}"
    except BROKEN_GZIP:
        pass
    return ""


def _lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as lines:
        yield from lines


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _names_in_lines(path: Path) -> set[str]:
    """Return the columns of the first lines, with entries of objects as `column.entry`."""
    with explained(path):
        return {
            name
            for line in islice(_lines(path), LOOKED_AT)
            if isinstance(row := _parsed(line), dict)
            for name in _names(row)
        }


def _names(row: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    for key, value in row.items():
        if "." in key:  # in a .jsonl file, a dot leads into an object
            continue
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{key}.")


def _names_in_schema(schema: Mapping[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, kind in schema.items():
        found.add(f"{prefix}{name}")
        if isinstance(kind, pl.Struct):
            found |= _names_in_schema(dict(kind), f"{prefix}{name}.")
    return found


def _check_columns(path: Path, columns: Mapping[str, str], found: set[str]) -> None:
    problems = []
    for ours, theirs in columns.items():
        if theirs not in found:
            near = get_close_matches(theirs, found, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            problems.append(f"{ours}: {theirs}: there is no such column.{hint}")
    if problems:
        heading = (
            f"{path} lacks columns that the population's file names (null leaves out what people"
            " need not have):"
        )
        raise combined_error(problems, heading)


def _schema(
    path: Path, columns: Mapping[str, str], lists: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return what to read of each line: texts, objects of texts, and lists of objects of texts."""
    tree: dict[str, Any] = {}
    for ours, theirs in columns.items():
        *parents, leaf = theirs.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UserError(f"{path}: {parent} cannot be both a text and an object.")
        if leaf in place and isinstance(place[leaf], dict):
            raise UserError(f"{path}: {leaf} cannot be both a text and an object.")
        place[leaf] = _objects(lists[ours]) if ours in lists else pl.String()
    return {name: _kind(part) for name, part in tree.items()}


def _kind(part: Any) -> Any:
    if isinstance(part, dict):
        return pl.Struct({name: _kind(inner) for name, inner in part.items()})
    return part


def _objects(keys: Sequence[str]) -> pl.List:
    return pl.List(pl.Struct(dict.fromkeys(keys, pl.String())))


def _column(schema: pl.Schema, theirs: str, keys: Sequence[str] | None) -> pl.Expr:
    first, *entries = [theirs] if theirs in schema else theirs.split(".")
    column, kind = pl.col(first), schema[first]  # type: pl.Expr, Any
    for entry in entries:
        assert isinstance(kind, pl.Struct)  # _check_columns found it
        column, kind = column.struct.field(entry), dict(kind)[entry]
    if keys is None:
        return column.cast(pl.String)
    return column.str.json_decode(_objects(keys)) if kind == pl.String() else column
