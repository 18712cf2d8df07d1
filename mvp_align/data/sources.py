"""Where records come from: files, folders, the bundled sample and Hugging Face datasets, as plain parsed values.

Nothing here knows what a record should hold; `formats` does. What is wrong with a file's bytes comes back as words in
`Records.problems`, so that `readers` can report it together with what is wrong inside the records.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

from mvp_align import hub
from mvp_align.errors import UserError

KINDS = "a .json, .jsonl or .parquet file, a folder of .json files, hf:<dataset id>[:<split>], or sample:<name>"


@dataclass(frozen=True, slots=True)
class Records:
    """One file's records (or one Hugging Face split's), at most the first `limit`, not yet checked.

    `rows` pairs each record's place, as `row 3` (from 0) or `line 4` (from 1, JSON Lines), with its parsed value.
    """

    name: str
    stem: str
    rows: list[tuple[str, object]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Opened:
    """A source's files in order, and the SHA-256 (hex) of their bytes, one after the other."""

    files: list[Records]
    sha256: str
    is_folder: bool = False


def open_source(source: str, limit: int | None = None) -> Opened:
    """Read and parse `source`, one of `KINDS`, keeping the first `limit` records of each file.

    A Hugging Face dataset has no bytes of its own: its hash is over the canonical JSON of the records that are kept.

    Raises:
        UserError: nothing is there, or it is of a kind that cannot be read.
    """
    if source.startswith("hf:"):
        return open_hub(source, limit)
    root = locate(source)
    if not root.is_dir():
        data, records = read_file(root, source, limit)
        return Opened([records], hashlib.sha256(data).hexdigest())
    found = sorted((file for file in root.iterdir() if file.name.lower().endswith(".json")), key=lambda file: file.name)
    if not found:
        raise UserError(f"{source}: this folder holds no .json file; name {KINDS}.")
    digest, parsed = hashlib.sha256(), []
    for file in found:
        data, records = read_file(file, f"{source.rstrip('/')}/{file.name}", limit)
        digest.update(data)
        parsed.append(records)
    return Opened(parsed, digest.hexdigest(), is_folder=True)


def sample_root() -> Traversable:
    return files("mvp_align.data").joinpath("sample")


def is_there(source: str) -> bool:
    """Whether a path or a sample exists; a Hugging Face id counts as there, because only loading it tells."""
    if source.startswith("hf:"):
        return True
    try:
        locate(source)
    except UserError:
        return False
    return True


def locate(source: str) -> Traversable:
    """The file or folder that `source` names. Raises UserError where there is none."""
    if source.startswith("sample:"):
        name = source.removeprefix("sample:")
        root = sample_root()
        bundled = root.joinpath(name)
        if name and (bundled.is_file() or bundled.is_dir()):
            return bundled
        there = [entry.name for entry in root.iterdir() if holds_records(entry)] if root.is_dir() else []
        raise UserError(f"{source}: there is no such sample; use one of: {', '.join(sorted(there)) or '(none here)'}.")
    try:
        path = Path(source).expanduser()
    except RuntimeError:
        raise UserError(f"{source}: no user {source.partition('/')[0][1:]} here; correct the path.") from None
    if path.exists():
        return path
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, siblings, n=1)
    hint = f" Did you mean {path.parent / near[0]}?" if near else ""
    raise UserError(f"{source}: no such file or folder, looked for from {Path.cwd()}; correct the path.{hint}")


def holds_records(entry: Traversable) -> bool:
    inside = entry.iterdir() if entry.is_dir() else [entry]
    return any(PurePath(file.name).suffix.lower() in PARSERS for file in inside)


def read_file(file: Traversable, name: str, limit: int | None) -> tuple[bytes, Records]:
    """A file's bytes and records. Raises UserError for an extension that no parser knows."""
    stem, extension = PurePath(file.name).stem, PurePath(file.name).suffix.lower()
    if extension not in PARSERS:
        raise UserError(f"{name}: cannot read the extension '{extension}'; give {KINDS}.")
    records = Records(name, stem)
    try:
        data = file.read_bytes()
    except OSError as error:
        records.problems.append(f"{name}: cannot be read ({error.strerror}); check its permissions.")
        return b"", records
    if not data.strip():
        records.problems.append(f"{name}: the file is empty; give one with records, or leave it out.")
        return data, records
    PARSERS[extension](data, records, limit)
    if not records.rows and not records.problems:
        records.problems.append(f"{name}: holds no records; give a file with records, or leave it out.")
    return data, records


def parse_json(data: bytes, records: Records, limit: int | None) -> None:
    text = decode(data, records)
    if text is None:
        return
    value = decode_json(text, records, "give a list of objects; a file with one object a line is named .jsonl")
    if records.problems:
        return
    if not isinstance(value, list):
        records.problems.append(
            f"{records.name}: the top level is {json_kind(value)}, not a list of records; put the records between "
            "[ and ], or use .jsonl for one object a line."
        )
        return
    records.rows.extend((f"row {index}", record) for index, record in enumerate(value[:limit]))


def parse_jsonl(data: bytes, records: Records, limit: int | None) -> None:
    text = decode(data, records)
    if text is None:
        return
    # Not splitlines(): JSON texts may hold U+2028 and the like unescaped, and those end no line.
    filled = ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
    for number, line in islice(filled, limit):
        before = len(records.problems)
        value = decode_json(line, records, "put one whole object on each line", first_line=number)
        if len(records.problems) == before:
            records.rows.append((f"line {number}", value))


def parse_parquet(data: bytes, records: Records, limit: int | None) -> None:
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
    import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

    try:
        table = pq.read_table(pa.BufferReader(data))
        rows = table.slice(0, limit).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        records.problems.append(
            f"{records.name}: is not a readable Parquet file ({str(error).splitlines()[0]}); write it again."
        )
        return
    records.rows.extend((f"row {index}", row) for index, row in enumerate(rows))


PARSERS: dict[str, Callable[[bytes, Records, int | None], None]] = {
    ".json": parse_json,
    ".jsonl": parse_jsonl,
    ".parquet": parse_parquet,
}


def decode(data: bytes, records: Records) -> str | None:
    try:
        return data.decode("utf-8-sig")  # a byte order mark, as Windows tools write it, is no mistake
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        records.problems.append(f"{records.name} line {line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8.")
        return None


def decode_json(text: str, records: Records, remedy: str, first_line: int = 1) -> object:
    """The parsed value; where `text` is broken, a problem is added to `records` and None comes back."""
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {first_line + error.lineno - 1}, column {error.colno}"
        records.problems.append(f"{records.name} {place}: broken JSON ({error.msg}); mend it there, and {remedy}.")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists nested a thousand deep
        records.problems.append(f"{records.name} line {first_line}: JSON that cannot be read ({error}); {remedy}.")
    else:
        return value
    return None


def json_kind(value: object) -> str:
    """What a parsed value is, in the words of JSON: `an object`, `a list`, `a text`, ..."""
    kinds = {type(None): "null", dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    kinds |= {int: "a number", float: "a number"}
    return kinds.get(type(value), f"a value of type {type(value).__name__}")


def open_hub(source: str, limit: int | None) -> Opened:
    # Late: it takes seconds to import, and files do not need it.
    import datasets  # type: ignore[import-untyped, unused-ignore]

    name, _, split = source.removeprefix("hf:").partition(":")
    if not datasets.config.HF_HUB_OFFLINE:  # which HF_DATASETS_OFFLINE sets as well
        hub.ask_first()
    try:
        loaded: Any = datasets.load_dataset(name, split=split or None)
    except Exception as error:  # the hub, the network and the dataset's files fail in many libraries' classes
        if datasets.config.HF_HUB_OFFLINE:
            raise UserError(f"{source}: {hub.absent(name, dataset=True)}. Or give a file's path.") from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{source}: the dataset could not be loaded ({reason}); check the id and the split, log in with "
            "`hf auth login` where it is gated, or download it and give the file's path."
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        splits: Sequence[str] = list(loaded)
        if len(splits) != 1:
            raise UserError(f"{source}: has the splits {', '.join(splits)}; name one, as hf:{name}:{splits[0]}.")
        split = splits[0]
        loaded = loaded[split]
    if limit is not None:
        loaded = loaded.select(range(min(limit, len(loaded))))
    rows = [dict(row) for row in loaded]
    canonical = json.dumps(rows, sort_keys=True, ensure_ascii=False, default=str).encode()
    records = Records(source, PurePath(split or name).name, [(f"row {index}", row) for index, row in enumerate(rows)])
    if not rows:
        records.problems.append(f"{source}: holds no records; name another split.")
    return Opened([records], hashlib.sha256(canonical).hexdigest())
