"""Open sources of records: files, folders, the bundled sample and Hugging Face datasets."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePath
from typing import Any

from mvp_align.data.parsers import PARSERS, Records, parse, split_name
from mvp_align.data.public_sources import fetch_command
from mvp_align.errors import UserError
from mvp_align.runtime import hub

KINDS = (
    "a .json, .jsonl, .csv, .tsv or .parquet file (or one of them with .gz behind it), a folder of"
    " such files or one that datasets' save_to_disk wrote, hf:<dataset id>[:<split>], or"
    " sample:<name>"
)
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")
"""How datasets and the Hub name the parts of one file."""
SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"
"""What save_to_disk writes for a dataset, and for one of several splits."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A source's files in order, and the SHA-256 (hex) of their concatenated bytes."""

    files: list[Records]
    sha256: str
    is_folder: bool = False

    @property
    def is_sharded(self) -> bool:
        """Whether its files are parts of one."""
        return len({stem_of_shard(file.stem) for file in self.files}) == 1 < len(self.files)


def stem_of_shard(stem: str) -> str:
    """Return `train` of `train-00000-of-00002`; other names as they are."""
    found = SHARD.fullmatch(stem)
    return found[1] if found else stem


def open_source(source: str, limit: int | None = None) -> Opened:
    """Read and parse `source`, one of `KINDS`, keeping the first `limit` records of each file.

    A Hugging Face dataset has no bytes of its own, so its hash covers the canonical JSON of the
    records that are kept.

    Raises:
        UserError: if the source does not exist or is of an unsupported kind.
    """
    if source.startswith("hf:"):
        return _open_hub(source, limit)
    root = locate_source(source)
    if not root.is_dir():
        data, records = _read_file(root, source, limit)
        return Opened([records], hashlib.sha256(data).hexdigest())
    if isinstance(root, Path) and any((root / name).is_file() for name in (SAVED, SAVED_SPLITS)):
        return _open_saved(root, source, limit)
    found = sorted((file for file in root.iterdir() if _is_read(file)), key=lambda file: file.name)
    if not found:
        _refuse_nested(root, source)
        raise UserError(f"{source}: this folder holds no file that can be read; name {KINDS}.")
    digest, parsed = hashlib.sha256(), []
    for file in found:
        data, records = _read_file(file, f"{source.rstrip('/')}/{file.name}", limit)
        digest.update(data)
        parsed.append(records)
    return Opened(parsed, digest.hexdigest(), is_folder=True)


def _refuse_nested(root: Traversable, source: str) -> None:
    """Raise UserError naming folders inside that hold what could be read."""
    inside = [entry.name for entry in root.iterdir() if entry.is_dir() and _holds_records(entry)]
    if inside:
        raise UserError(
            f"{source}: this folder holds no file that can be read; name one of its folders that"
            f" does: {', '.join(sorted(inside))}."
        )


def _open_saved(root: Path, source: str, limit: int | None) -> Opened:
    """Open what datasets' save_to_disk wrote. The hash covers its Arrow files in order of name."""
    if (root / SAVED_SPLITS).is_file():
        splits = sorted(path.parent.name for path in root.glob(f"*/{SAVED}"))
        raise UserError(
            f"{source}: holds the splits {', '.join(splits) or '(none)'}; name one's folder, as"
            f" {source.rstrip('/')}/{splits[0] if splits else 'train'}."
        )
    import datasets  # imported here, as below

    records = Records(source, root.name)
    try:
        loaded: Any = datasets.load_from_disk(str(root))
        _add_rows(loaded, records, limit)
        digest = hashlib.sha256()
        for path in sorted(root.glob("*.arrow")):
            digest.update(path.read_bytes())
    # damaged files raise errors of pyarrow, json, datasets and the system
    except Exception as error:
        raise UserError(
            f"{source}: is not a readable folder of datasets' save_to_disk"
            f" ({_first_line_of(error)}); save it again."
        ) from error
    return Opened([records], digest.hexdigest())


def _add_rows(loaded: Any, records: Records, limit: int | None) -> None:
    """Add the first `limit` rows of a datasets.Dataset."""
    if limit is not None:
        loaded = loaded.select(range(min(limit, len(loaded))))
    records.rows.extend((f"row {index}", dict(row)) for index, row in enumerate(loaded))
    if not records.rows:
        records.problems.append(f"{records.name}: holds no records; name another split.")


def _first_line_of(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def sample_root() -> Traversable:
    return files("mvp_align.data").joinpath("sample")


def source_exists(source: str) -> bool:
    """Return whether a path or sample exists.

    A Hugging Face id counts as existing, because only loading it can tell.
    """
    if source.startswith("hf:"):
        return True
    try:
        locate_source(source)
    except UserError:
        return False
    return True


def locate_source(source: str) -> Traversable:
    """Return the file or folder that `source` names. Raises UserError if there is none."""
    if source.startswith("sample:"):
        name = source.removeprefix("sample:")
        root = sample_root()
        bundled = root.joinpath(name)
        if name and (bundled.is_file() or bundled.is_dir()):
            return bundled
        there = (
            [entry.name for entry in root.iterdir() if _holds_records(entry)]
            if root.is_dir()
            else []
        )
        raise UserError(
            f"{source}: there is no such sample; use one of:"
            f" {', '.join(sorted(there)) or '(none here)'}."
        )
    try:
        path = Path(source).expanduser()
    except RuntimeError:
        raise UserError(
            f"{source}: no user {source.partition('/')[0][1:]} here; correct the path."
        ) from None
    if path.exists():
        return path
    if command := fetch_command(path):
        raise UserError(
            f"{source}: no such file or folder, looked for from {Path.cwd()}. `{command}` fetches"
            " it."
        )
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, siblings, n=1)
    hint = f" Did you mean {path.parent / near[0]}?" if near else ""
    if not hint and re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        hint = f" A dataset of the Hub is hf:{source}."
    raise UserError(
        f"{source}: no such file or folder, looked for from {Path.cwd()}; correct the path.{hint}"
    )


def _holds_records(entry: Traversable) -> bool:
    return any(map(_is_read, entry.iterdir() if entry.is_dir() else [entry]))


def _is_read(file: Traversable) -> bool:
    return file.is_file() and split_name(file.name)[1] in PARSERS


def _read_file(file: Traversable, name: str, limit: int | None) -> tuple[bytes, Records]:
    """Return a file's bytes and records. Raises UserError for an unknown extension."""
    stem, extension = split_name(file.name)
    if extension not in PARSERS:
        raise UserError(f"{name}: cannot read the extension '{extension}'; give {KINDS}.")
    records = Records(name, stem)
    try:
        data = file.read_bytes()
    except OSError as error:
        records.problems.append(
            f"{name}: cannot be read ({error.strerror}); check its permissions."
        )
        return b"", records
    parse(data, records, extension, limit)
    return data, records


def _open_hub(source: str, limit: int | None) -> Opened:
    # imported here: it takes seconds, and files do not need it
    import datasets  # type: ignore[import-untyped, unused-ignore]

    name, _, split = source.removeprefix("hf:").partition(":")
    if not datasets.config.HF_HUB_OFFLINE:  # also set by HF_DATASETS_OFFLINE
        hub.go_offline_if_unreachable()
    try:
        loaded: Any = datasets.load_dataset(name, split=split or None)
    # the Hub, the network and the dataset's files raise errors of many libraries
    except Exception as error:
        if datasets.config.HF_HUB_OFFLINE:
            raise UserError(
                f"{source}: {hub.not_cached_hint(name, dataset=True)}. Or give a file's path."
            ) from error
        raise UserError(
            f"{source}: the dataset could not be loaded ({_first_line_of(error)}); check the id"
            " and the split, log in with `hf auth login` where it is gated, or download it and give"
            " the file's path."
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        splits: Sequence[str] = list(loaded)
        if len(splits) != 1:
            raise UserError(
                f"{source}: has the splits {', '.join(splits)}; name one, as hf:{name}:{splits[0]}."
            )
        split = splits[0]
        loaded = loaded[split]
    records = Records(source, PurePath(split or name).name)
    _add_rows(loaded, records, limit)
    rows = [row for _, row in records.rows]
    canonical = json.dumps(rows, sort_keys=True, ensure_ascii=False, default=str).encode()
    return Opened([records], hashlib.sha256(canonical).hexdigest())
