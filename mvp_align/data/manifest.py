"""The manifest of a split: hashes of its files and people, which training checks.

It lies beside the parts, as JSON under a name that no reader of records takes up.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mvp_align.data.readers import ReadPairs
from mvp_align.errors import UserError
from mvp_align.runtime.json_files import from_json, write_json
from mvp_align.schema import PreferencePair

MANIFEST = "split.manifest"
TRAINED_ON = ("train", "val")
"""What people of a test part may not be in: `val` decides which checkpoint is kept."""


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A part as it was written: a file, or a folder of files.

    `sha256` is that of its bytes, as `data.sources.open_source` computes it. `people` has a short
    hash of each user id.
    """

    path: str
    sha256: str
    pairs: int
    people: list[str]


@dataclass(frozen=True, slots=True)
class SplitManifest:
    """How a source was split. `left_out` counts records that are in no part, by reason."""

    format: str
    source: str
    source_sha256: str
    seed: int
    shares: dict[str, float]
    apart: list[str]
    stratify: list[str]
    records: int
    left_out: dict[str, int]
    parts: dict[str, PartRecord]


def people_hashes(pairs: Iterable[PreferencePair]) -> list[str]:
    """Return a hash (64 bits, hex) of each person of `pairs`, sorted."""
    return sorted({_person_hash(pair.user_id) for pair in pairs})


def _person_hash(user_id: str) -> str:
    return sha256(user_id.encode()).hexdigest()[:16]


def write_manifest(folder: Path, manifest: SplitManifest) -> None:
    write_json(folder / MANIFEST, asdict(manifest))


def read_manifest(path: Path) -> SplitManifest:
    """Read a manifest. Raises UserError if it is none."""
    try:
        content = from_json(path.read_bytes())
        return TypeAdapter(SplitManifest).validate_python(content)
    except (OSError, ValueError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"{path}: no readable manifest of a split ({first}). Restore it, or split again with"
            " `mvp-align data split`."
        ) from None


def check_manifests(sources: Mapping[str, str], read: Mapping[str, ReadPairs]) -> list[str]:
    """Check what was read of `sources` against the manifests that lie beside them.

    Returns a note for each source that is a part of a split.

    Raises:
        UserError: if a part is not what the split wrote, or a person of a test part is in `train`
            or `val`.
    """
    notes, tested = [], {}
    for name, source in sources.items():
        for path in _manifests_beside(source):
            manifest = read_manifest(path)
            if "test" in manifest.parts:
                tested[path] = manifest.parts["test"]
            for part, record in manifest.parts.items():
                if record.path == Path(source).name and path.parent == _folder_of(source):
                    _check_unchanged(source, path, record, read[name])
                    notes.append(
                        f"{name}: the part '{part}' of {path} (seed {manifest.seed}), unchanged."
                    )
    for path, record in tested.items():
        for name in TRAINED_ON:
            if name in read:
                _check_untested(name, read[name].pairs, path, record.people)
    return notes


def _folder_of(source: str) -> Path:
    return Path(source).expanduser().parent


def _manifests_beside(source: str) -> Iterator[Path]:
    """Yield the manifests beside a file or folder, and in that folder."""
    if source.startswith(("hf:", "sample:")):
        return
    for folder in (_folder_of(source), Path(source).expanduser()):
        if (folder / MANIFEST).is_file():
            yield folder / MANIFEST


def _check_unchanged(source: str, path: Path, record: PartRecord, read: ReadPairs) -> None:
    if read.sha256 != record.sha256:
        raise UserError(
            f"{source} is not what the split wrote: {path} has another hash of it. Split again with"
            " `mvp-align data split`, or take the file out of that folder, if it is no part of the"
            " split any more."
        )


def _check_untested(
    name: str, pairs: Sequence[PreferencePair], path: Path, tested: Sequence[str]
) -> None:
    held_out = {*tested}
    found = sorted({p.user_id for p in pairs if _person_hash(p.user_id) in held_out})
    if found:
        named = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        raise UserError(
            f"{len(found)} people of the test part of {path} are in data.{name}: {named}. A score"
            " on people who were trained on says nothing about others: take them out of"
            f" data.{name}. (Records that name no person have their prompt as user, prompt-<hash>.)"
        )
