"""Atomic checkpoints: written to a temporary folder, synced, renamed, and verified by hashes.

A run folder contains:

    checkpoints/checkpoint-40/            what the Trainer saves: adapter, optimizer, scheduler, and
                                          one random state per process
    checkpoints/checkpoint-40/files.json  bytes and SHA-256 of each of these files
    checkpoints/.writing/                 left behind by a killed process; nothing reads it
"""

import hashlib
import json
from pathlib import Path

from mvp_align.runtime.atomic import move_folder, remove_folder, write_text

WRITING = ".writing"
MANIFEST = "files.json"
KEPT = 2
"""The latest, and one more in case its bytes rot. And what either knows as the best (`best_step`),
so that a run which goes on from it finds that."""


def add_checkpoint(written: Path, checkpoints: Path) -> None:
    """Move the finished folder `written` (`.writing/checkpoint-N`) to `checkpoints`.

    Removes all but the last two and their best ones. Raises OSError if the disk fails; existing
    checkpoints stay valid.
    """
    files = sorted(path for path in written.rglob("*") if path.is_file())
    listed = {
        str(path.relative_to(written)): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in files
    }
    write_text(written / MANIFEST, json.dumps(listed, indent=1, allow_nan=False))
    move_folder(written, checkpoints / written.name)
    found = list_checkpoints(checkpoints)
    best = {best_step(folder) for _, folder in found[:KEPT]}
    for step, old in found[KEPT:]:
        if step not in best:
            remove_folder(old)


def best_step(checkpoint: Path) -> int | None:
    """Return the step of the best evaluation that the run had seen by this checkpoint, if any."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # broken: nothing goes on from it
    step = state.get("best_global_step")
    return int(step) if step is not None else None


def latest_valid(checkpoints: Path) -> Path | None:
    """Return the latest checkpoint whose files are unchanged, and report invalid ones."""
    for _, folder in list_checkpoints(checkpoints):
        damage = damage_of(folder)
        if damage is None:
            return folder
        print(f"{folder} is broken and passed over: {damage}")
    return None


def is_final(checkpoint: Path) -> bool:
    """Return whether the run had taken all its steps at this checkpoint."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["global_step"] >= state["max_steps"])


def damage_of(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint's files, or None."""
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{MANIFEST} is missing or cannot be read, so nobody knows whether it is whole"
    for name, known in listed.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != known["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, not {known['bytes']}"
        if _sha256(path) != known["sha256"]:
            return f"{name} is not what was written"
    return None


def list_checkpoints(checkpoints: Path) -> list[tuple[int, Path]]:
    """Return every `checkpoint-N`, latest first."""
    found = [
        (path.name.removeprefix("checkpoint-"), path) for path in checkpoints.glob("checkpoint-*")
    ]
    return sorted(((int(number), path) for number, path in found if number.isdigit()), reverse=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
