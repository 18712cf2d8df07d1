"""Cache of log-probabilities, for scores of the frozen base model.

Every epoch, seed and hyperparameter run needs the same ones.

    <root>/<model>/identity.json          what the values were computed with
    <root>/<model>/<sha256>.safetensors   keys [n, 32] uint8, logps [n] float64 (nats), named by
                                          the hash of its content

The model's identity (weights, precision, quantisation, attention) names the folder, and the hash of
the token ids is an entry's key. Files are written once and never changed, so processes and jobs
need no lock. A file whose content does not match its name is removed and its entries are computed
again.
"""

import hashlib
import json
import math
import shutil
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load, save

from mvp_align.errors import UserError
from mvp_align.runtime.atomic import write_bytes, write_text
from mvp_align.scoring.tokens import Answer

KEY_BYTES = 32
IDENTITY = "identity.json"
FLUSH_SECONDS = 60
"""Longest interval between flushes, and so the most scoring that a killed process can lose."""


@dataclass(slots=True)
class LogpCache:
    """Summed log-probabilities of answers under one model, kept across runs.

    Open one with `open_cache`.
    """

    folder: Path | None = None
    """None keeps the entries in memory only."""
    known: dict[bytes, float] = field(default_factory=dict)
    fresh: dict[bytes, float] = field(default_factory=dict)
    flushed: float = field(default_factory=time.monotonic)

    def __contains__(self, answer: Answer) -> bool:
        return _key(answer) in self.known

    def __getitem__(self, answer: Answer) -> float:
        return self.known[_key(answer)]

    def add(self, answer: Answer, logp: float) -> None:
        """Add `logp` unless the answer already has one.

        The first value is kept, so that a score never changes by a rounding error. NaN and
        infinities are ignored.
        """
        entry = _key(answer)
        if entry not in self.known and math.isfinite(logp):
            self.known[entry] = self.fresh[entry] = logp
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def flush(self) -> None:
        """Write the entries added since the last flush to a new file.

        If that fails, print a note and go on without writing.
        """
        self.flushed = time.monotonic()
        if self.folder is None or not self.fresh:
            return
        content = to_safetensors(self.fresh)
        self.fresh.clear()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_bytes(self.folder / f"{hashlib.sha256(content).hexdigest()}.safetensors", content)
        except (OSError, UserError) as error:
            print(f"Log-probabilities are not kept for other runs: {error}")


def open_cache(root: Path, identity: Mapping[str, str]) -> LogpCache:
    """Open the entries of the model that `identity` describes, and report damaged files.

    Raises UserError if `root` is not writable.
    """
    text = json.dumps(dict(sorted(identity.items())), indent=1, allow_nan=False)
    folder = root / hashlib.sha256(text.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / IDENTITY).is_file():
            write_text(folder / IDENTITY, text + "\n")
    except OSError as error:
        raise UserError(
            f"cannot keep log-probabilities in {root}: {error}. Set MVP_ALIGN_CACHE to a folder"
            " that can be written to, or run.logp_cache=false."
        ) from error
    return LogpCache(folder, read_folder(folder))


def _key(answer: Answer) -> bytes:
    """Hash what the log-prob depends on besides the model: all token ids and the answer's start."""
    return hashlib.sha256(
        struct.pack(f"<{len(answer.ids) + 1}i", answer.start, *answer.ids)
    ).digest()


def to_safetensors(entries: Mapping[bytes, float]) -> bytes:
    keys = torch.frombuffer(bytearray(b"".join(entries)), dtype=torch.uint8).view(-1, KEY_BYTES)
    return save({"keys": keys, "logps": torch.tensor(list(entries.values()), dtype=torch.float64)})


def read_folder(folder: Path) -> dict[bytes, float]:
    """Return the entries of all files in `folder`, or nothing if it does not exist."""
    known: dict[bytes, float] = {}
    for path in sorted(folder.glob("*.safetensors")):
        known |= _read(path)
    return known


def _read(path: Path) -> dict[bytes, float]:
    """Return the finite entries of one file.

    Delete the file and return nothing if its content does not match its name.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:  # another process cleared it
        return {}
    if hashlib.sha256(content).hexdigest() != path.stem:
        print(f"{path} is damaged: removed, its log-probabilities are computed again.")
        path.unlink(missing_ok=True)
        return {}
    tensors = load(content)
    data = tensors["keys"].numpy().tobytes()
    keys: Iterable[bytes] = (data[at : at + KEY_BYTES] for at in range(0, len(data), KEY_BYTES))
    entries = zip(keys, tensors["logps"].tolist(), strict=True)
    return {entry: logp for entry, logp in entries if math.isfinite(logp)}


@dataclass(frozen=True, slots=True)
class CachedModel:
    """One model's entries in the cache."""

    folder: Path
    identity: dict[str, str]
    answers: int
    size_bytes: int


def cached_models(root: Path) -> list[CachedModel]:
    """Return every model's entries in the cache, sorted by model name."""
    parts = []
    for path in sorted(root.glob(f"*/{IDENTITY}")):
        files = sorted(path.parent.glob("*.safetensors"))
        entries = {entry for file in files for entry in _read(file)}
        size = sum(file.stat().st_size for file in files if file.is_file())
        parts.append(CachedModel(path.parent, json.loads(path.read_text()), len(entries), size))
    return sorted(parts, key=lambda part: (part.identity.get("model", ""), part.folder.name))


def clear(part: CachedModel) -> None:
    """Remove one model's entries. Running jobs keep theirs in memory and are not affected."""
    shutil.rmtree(part.folder, ignore_errors=True)
