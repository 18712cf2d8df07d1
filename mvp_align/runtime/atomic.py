"""Atomic writes: a killed process or a full disk never leaves a partial file."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mvp_align.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
QUOTA_WORDS = os.strerror(errno.EDQUOT)
FULL_WORDS = (os.strerror(errno.ENOSPC), QUOTA_WORDS, "PytorchStreamWriter failed writing")
"""Messages of safetensors, tokenizers and torch for a full disk, whose exceptions have no errno."""


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8 by `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step that survives a power cut. Its folder must exist.

    Raises UserError if the disk is full; an old file then stays unchanged.
    """
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write what becomes `path` at the end, if the block does not raise, by `write_bytes`' rules.

    For content that need not be in memory as a whole.
    """
    # Not `tempfile`: its files are private to the owner, and run folders are often shared by a
    # group.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with full_disk_explained(path):
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def full_disk_explained(path: Path) -> Iterator[None]:
    """Turn a full disk or an exceeded quota while writing `path` into a UserError. Others pass."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) not in FULL and not any(
            words in str(error) for words in FULL_WORDS
        ):
            raise
        full, remedy = full_disk_cause(error, path.parent)
        raise UserError(
            f"{full} while writing {path}. What was there before is untouched and the last"
            f" checkpoint is whole: {remedy}, then run the same command again to go on."
        ) from None


def full_disk_cause(error: Exception, folder: Path) -> tuple[str, str]:
    """Return what is full (the disk, its inodes or the user's quota), and a remedy.

    `df -h` shows plenty of free space if it is the inodes or the quota.
    """
    if getattr(error, "errno", None) == errno.EDQUOT or QUOTA_WORDS in str(error):
        return (
            "Your quota is used up",
            "delete files of yours on that file system (quota -s, or lfs quota, shows your share)",
        )
    if folder.exists() and os.statvfs(folder).f_files and not os.statvfs(folder).f_favail:
        return "No inodes left on the disk", f"delete some of its many small files (df -i {folder})"
    return "No space left on the disk", f"free some space (df -h {folder})"


def move_file(written: Path, target: Path) -> None:
    """Rename the finished file `written` to `target` in the same folder, synced to disk."""
    _sync(written)
    written.replace(target)
    _sync_folder(target.parent)


def move_folder(written: Path, target: Path) -> None:
    """Rename the finished folder `written` to `target`, synced to disk.

    Removes an older `target`.
    """
    for path in written.rglob("*"):
        if path.is_file():
            _sync(path)
    remove_folder(target)
    written.rename(target)
    _sync_folder(target.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder, after hiding it under another name.

    So a process killed half-way leaves nothing that looks like the folder.
    """
    if folder.exists():
        hidden = folder.with_name(f".{folder.name}.gone")
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
        shutil.rmtree(hidden)


def _sync_folder(folder: Path) -> None:
    """Make a new name in `folder` durable, if the file system supports it.

    Some network file systems do not, but the file is complete anyway.
    """
    with suppress(OSError):
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
