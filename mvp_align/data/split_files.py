"""Write a split: the records of a source, as they are, in a file or folder for each part."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from os import getpid
from pathlib import Path

from mvp_align.data.formats import FORMATS
from mvp_align.data.manifest import (
    MANIFEST,
    PartRecord,
    SplitManifest,
    people_hashes,
    write_manifest,
)
from mvp_align.data.overlaps import pairs_in_both
from mvp_align.data.partition import Wishes, partition
from mvp_align.data.readers import ColumnNames, PairRow, ReadPairs, read_pairs
from mvp_align.data.sources import open_source
from mvp_align.errors import UserError
from mvp_align.runtime.atomic import full_disk_explained, move_folder, write_text
from mvp_align.runtime.json_files import to_json


@dataclass(frozen=True, slots=True)
class WrittenSplit:
    """`seen` counts the pairs of a part that are in `train`, too: the same texts, preferred alike
    by other people."""

    manifest: SplitManifest
    seen: dict[str, int]


def write_split(
    source: str, format: str, folder: Path, wishes: Wishes, columns: ColumnNames | None = None
) -> WrittenSplit:
    """Split `source` into `folder`, which appears when it is whole.

    A part is `train.jsonl`, or, where files are named after user types, `train/` with a file for
    each of them. Records are written as they were read, one a line, their columns under our names
    where `columns` names them.

    Raises:
        UserError: if the source is refused by its reader or cannot be split, `folder` is there
            already, or a record holds what JSON cannot.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already: name a new folder, or remove it first.")
    read = read_pairs(source, format, columns=columns)
    divided = partition(read.pairs, wishes)
    user_types = FORMATS[read.format].user_types
    by_file = read.is_folder or any(row.file in user_types for row in read.rows)
    written = folder.with_name(f".{folder.name}.{getpid()}.tmp")
    try:
        with full_disk_explained(folder):
            written.mkdir(parents=True)
            parts = {
                part: _write_part(written, part, read, divided.parts, by_file)
                for part in wishes.shares
            }
            manifest = SplitManifest(
                format=read.format,
                source=source,
                source_sha256=read.sha256,
                seed=wishes.seed,
                shares=dict(wishes.shares),
                apart=["user", *wishes.apart],
                stratify=list(wishes.stratify),
                records=read.records,
                left_out={**read.left_out, **divided.left_out},
                parts=parts,
            )
            write_manifest(written, manifest)
            move_folder(written, folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}.") from None
    finally:
        shutil.rmtree(written, ignore_errors=True)
    pairs_of = {
        part: [p for p, own in zip(read.pairs, divided.parts, strict=True) if own == part]
        for part in parts
    }
    seen = {
        part: len(pairs_in_both(pairs_of["train"], pairs))
        for part, pairs in pairs_of.items()
        if part != "train"
    }
    return WrittenSplit(manifest, seen)


def _write_part(
    folder: Path,
    part: str,
    read: ReadPairs,
    parts: Sequence[str | None],
    by_file: bool,
) -> PartRecord:
    chosen = [number for number, own in enumerate(parts) if own == part]
    lines: dict[str, list[str]] = {}
    for number in chosen:
        row = read.rows[number]
        lines.setdefault(row.file if by_file else part, []).append(_line(row))
    path = folder / part if by_file else folder / f"{part}.jsonl"
    if by_file:
        path.mkdir()
    for name, found in lines.items():
        write_text(path / f"{name}.jsonl" if by_file else path, "".join(found))
    people = people_hashes(read.pairs[number] for number in chosen)
    return PartRecord(path.name, open_source(str(path)).sha256, len(chosen), people)


def _line(row: PairRow) -> str:
    try:
        line = to_json(row.value) + "\n"
        line.encode()  # JSON can spell half of a surrogate pair, which UTF-8 cannot
        return line
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{row.place}: cannot be written as JSON ({error}); take that column out."
        ) from None


def split_lines(folder: Path, written: WrittenSplit) -> list[str]:
    """Say in lines what was written."""
    manifest = written.manifest
    lines = [
        f"{folder / record.path}: {record.pairs:,} pairs of {len(record.people):,} people"
        for record in manifest.parts.values()
    ]
    lines += [
        f"left out: {count:,} of {manifest.records:,} records ({reason})"
        for reason, count in manifest.left_out.items()
    ]
    lines += [
        f"{part}: {count:,} pairs are in train, too, of other people (--apart question keeps them"
        " apart)"
        for part, count in written.seen.items()
        if count
    ]
    return [*lines, f"{folder / MANIFEST}: hashes of files and people, which training checks"]
