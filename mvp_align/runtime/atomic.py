"""Whole files or none: a killed process or a full disk never leaves half of one."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mvp_align.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
QUOTA_WORDS = os.strerror(errno.EDQUOT)
FULL_WORDS = (os.strerror(errno.ENOSPC), QUOTA_WORDS, "PytorchStreamWriter failed writing")
"""What safetensors, tokenizers and torch say, in exception classes of their own, without the
error's number."""


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of `text` in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step that survives a power cut; its folder must exist.

    Raises UserError where the disk is full; the old file, if any, then stays as it was.
    """
    # Not `tempfile`: its files are private to the owner, and a run folder is often read by a whole
    # group.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with full_disk_explained(path):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def full_disk_explained(path: Path) -> Iterator[None]:
    """Turn a full disk (or a used-up quota) while writing `path` into a UserError; other errors
    pass."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) not in FULL and not any(
            words in str(error) for words in FULL_WORDS
        ):
            raise
        full, remedy = what_is_full(error, path.parent)
        raise UserError(
            f"{full} while writing {path}. What was there before is untouched and the last"
            f" checkpoint is whole: {remedy}, then run the same command again to go on."
        ) from None


def what_is_full(error: Exception, folder: Path) -> tuple[str, str]:
    """A disk, its inodes or a quota, and what helps: `df -h` shows plenty of free space in the last
    two cases."""
    if getattr(error, "errno", None) == errno.EDQUOT or QUOTA_WORDS in str(error):
        return (
            "Your quota is used up",
            "delete files of yours on that file system (quota -s, or lfs quota, shows your share)",
        )
    if folder.exists() and os.statvfs(folder).f_files and not os.statvfs(folder).f_favail:
        return "No inodes left on the disk", f"delete some of its many small files (df -i {folder})"
    return "No space left on the disk", f"free some space (df -h {folder})"


def move_folder(written: Path, target: Path) -> None:
    """Make the finished folder `written` the folder `target`, synced to the disk; an older `target`
    is removed."""
    for path in written.rglob("*"):
        if path.is_file():
            _sync(path)
    remove_folder(target)
    written.rename(target)
    _sync_folder(target.parent)


def remove_folder(folder: Path) -> None:
    """Out of sight first: a process killed in the midst leaves nothing that looks like the
    folder."""
    if folder.exists():
        hidden = folder.with_name(f".{folder.name}.gone")
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
        shutil.rmtree(hidden)


def _sync_folder(folder: Path) -> None:
    """Make a new name in `folder` durable, where the file system can: some network ones refuse, and
    the file is whole."""
    with suppress(OSError):
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
