"""Log-probabilities that a model need not compute again: those of the frozen base model, which
every epoch, seed and hyperparameter run asks for anew.

    <root>/<model>/identity.json          what the values were computed with
    <root>/<model>/<sha256>.safetensors   keys [n, 32] uint8, logps [n] float64 (nats), named by
                                          its own content

A value is found by what it was computed from: the model's identity (weights, precision,
quantisation, attention) names the folder, token ids name the entry. Files are written once, never
changed: processes and jobs need no lock, and a file whose bytes do not match its name is removed
and its entries computed again.
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
"""How much scoring a killed process may lose."""


@dataclass(slots=True)
class LogpCache:
    """Summed log-probabilities of answers under one model, kept across runs. Made by
    `open_cache`."""

    folder: Path | None = None
    """None: forgotten with the process."""
    known: dict[bytes, float] = field(default_factory=dict)
    fresh: dict[bytes, float] = field(default_factory=dict)
    flushed: float = field(default_factory=time.monotonic)

    def __contains__(self, answer: Answer) -> bool:
        return _key(answer) in self.known

    def __getitem__(self, answer: Answer) -> float:
        return self.known[_key(answer)]

    def add(self, answer: Answer, logp: float) -> None:
        """Keep `logp` unless there is one already: a value, once seen, does not change by a
        rounding. NaN and infinities are never kept."""
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
        """Write what was added since the last flush as one more file; where that fails, say so and
        go on without."""
        self.flushed = time.monotonic()
        if self.folder is None or not self.fresh:
            return
        content = packed(self.fresh)
        self.fresh.clear()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_bytes(self.folder / f"{hashlib.sha256(content).hexdigest()}.safetensors", content)
        except (OSError, UserError) as error:
            print(f"Log-probabilities are not kept for other runs: {error}")


def open_cache(root: Path, identity: Mapping[str, str]) -> LogpCache:
    """The entries of the model that `identity` describes; says so where a damaged file is thrown
    away.

    Raises UserError where `root` cannot be written to.
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
    """What the log-probability depends on besides the model: all token ids, and where the answer
    starts."""
    return hashlib.sha256(
        struct.pack(f"<{len(answer.ids) + 1}i", answer.start, *answer.ids)
    ).digest()


def packed(entries: Mapping[bytes, float]) -> bytes:
    keys = torch.frombuffer(bytearray(b"".join(entries)), dtype=torch.uint8).view(-1, KEY_BYTES)
    return save({"keys": keys, "logps": torch.tensor(list(entries.values()), dtype=torch.float64)})


def read_folder(folder: Path) -> dict[bytes, float]:
    """The entries of all files in `folder`; none where it is not there."""
    known: dict[bytes, float] = {}
    for path in sorted(folder.glob("*.safetensors")):
        known |= _read(path)
    return known


def _read(path: Path) -> dict[bytes, float]:
    """The finite entries of one file; none, and the file gone, where its content is not what it was
    named by."""
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
class Held:
    """What the cache holds for one model."""

    folder: Path
    identity: dict[str, str]
    answers: int
    size_bytes: int


def held(root: Path) -> list[Held]:
    """Every model's part of the cache, by the identity's model name."""
    parts = []
    for path in sorted(root.glob(f"*/{IDENTITY}")):
        files = sorted(path.parent.glob("*.safetensors"))
        entries = {entry for file in files for entry in _read(file)}
        size = sum(file.stat().st_size for file in files if file.is_file())
        parts.append(Held(path.parent, json.loads(path.read_text()), len(entries), size))
    return sorted(parts, key=lambda part: (part.identity.get("model", ""), part.folder.name))


def clear(part: Held) -> None:
    """Remove one model's part. A run that is using it has its values in memory and goes on."""
    shutil.rmtree(part.folder, ignore_errors=True)
