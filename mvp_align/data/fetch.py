"""Fetch public data: from its source at a pinned commit or a mirror of it, verified file by file.

All files of a source are downloaded beside their places and verified before the first one is moved
into place, so no folder holds a part of them. What its owners say about its use is kept beside it.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import httpx

from mvp_align.data.public_sources import PinnedFile, PublicSource
from mvp_align.errors import UserError, combined_error
from mvp_align.runtime.atomic import FULL, full_disk_cause, move_file, write_text
from mvp_align.runtime.download import Transfer, Watch, git_blob_id, open_client


def missing_files(source: PublicSource) -> list[PinnedFile]:
    """The files of `source` that are not in their places yet.

    Raises UserError if something else is in one of them.
    """
    missing, problems = [], []
    for pinned in source.pinned:
        if not os.path.lexists(pinned.target):
            missing.append(pinned)
        elif not pinned.target.is_file():
            problems.append(f"{pinned.target} is no file: move it away.")
        elif (found := git_blob_id(pinned.target)) != pinned.blob:
            problems.append(
                f"{pinned.target} is another file (git blob id {found}) than the source's"
                f" ({pinned.blob}): move it away."
            )
    if problems:
        raise combined_error(problems, "Nothing was fetched, because it would replace your files:")
    return missing


def notice_path(name: str, source: PublicSource) -> Path:
    """The file beside the data that keeps its terms, and that they were agreed to."""
    return source.folder / f"{name}.licence.txt"


def has_accepted(name: str, source: PublicSource) -> bool:
    """Whether somebody agreed to these very terms in this folder before."""
    path = notice_path(name, source)
    return path.is_file() and path.read_text("utf-8").startswith(source.terms)


def keep_terms(name: str, source: PublicSource) -> None:
    """Write the terms, and that they were accepted now, into the folder of the data."""
    with _writable(source.folder):
        source.folder.mkdir(parents=True, exist_ok=True)
        files = "".join(f"{file.blob}  {file.target.name}\n" for file in source.pinned)
        today = datetime.now(UTC).date()
        write_text(
            notice_path(name, source),
            f"{source.terms}\nAccepted on {today}. Git blob ids of the files:\n{files}",
        )


def fetch_files(
    source: PublicSource, files: list[PinnedFile], mirror: str | None, watch: Watch
) -> None:
    """Bring `files` of `source` to their places: from GitHub, or from `mirror`, an address or a
    folder that stands for the repository at that commit. A folder may also hold the files alone.

    Raises UserError if a file cannot be had whole, or is not the pinned one. Nothing is then in
    place, and what arrived of the right files is kept for the next call.
    """
    with _writable(source.folder), _alone_in(source.folder):
        parts = {pinned: _part(pinned) for pinned in files}
        if mirror is None or _is_url(mirror):
            with open_client() as client:
                for pinned, part in parts.items():
                    url = _address(mirror or source.base_url, pinned)
                    Transfer(client, url, part, pinned.blob, watch).run()
        else:
            for pinned, origin in _find_local(Path(mirror), files).items():
                _copy(origin, parts[pinned], pinned.blob)
        for pinned, part in parts.items():
            move_file(part, pinned.target)


def check_mirror(mirror: str) -> None:
    """Raise UserError if `mirror` is neither an address nor a folder."""
    if _is_url(mirror):
        try:
            host = httpx.URL(mirror).host
        except httpx.InvalidURL as error:
            raise UserError(f"--from {mirror}: {error}") from None
        if not host:
            raise UserError(f"--from {mirror}: names no host.")
    elif not Path(mirror).is_dir():
        raise UserError(
            f"--from {mirror}: no such folder; give one, or an address that begins with https:// or"
            " http://."
        )


def _is_url(mirror: str) -> bool:
    return mirror.lower().startswith(("https://", "http://"))


def _address(base: str, pinned: PinnedFile) -> httpx.URL:
    url = httpx.URL(base)
    return url.copy_with(path=f"{url.path.rstrip('/')}/{pinned.path}")


def _part(pinned: PinnedFile) -> Path:
    """Named after the content, so that what arrived of another version is never continued."""
    return pinned.target.with_name(f".{pinned.target.name}.{pinned.blob[:12]}.part")


def _find_local(folder: Path, files: list[PinnedFile]) -> dict[PinnedFile, Path]:
    """Each file's place in `folder`, as in the repository or at its top. Raises UserError where
    one is missing."""
    found, problems = {}, []
    for pinned in files:
        places = [folder / pinned.path, folder / PurePosixPath(pinned.path).name]
        there = [place for place in places if place.is_file()]
        if there:
            found[pinned] = there[0]
        else:
            problems.append(f"{places[0]}: no such file, nor {places[1]}.")
    if problems:
        raise combined_error(problems, f"--from {folder} lacks files of this source:")
    return found


def _copy(origin: Path, part: Path, blob: str) -> None:
    shutil.copyfile(origin, part)
    found = git_blob_id(part)
    if found != blob:
        part.unlink()
        raise UserError(
            f"{origin} is not the file that was asked for: its git blob id is {found}, not {blob}."
            " Nothing was put in place."
        )


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let one process at a time fetch into `folder`; the lock ends with its process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(
            f"Another process is fetching into {folder}: wait until it is done."
        ) from None
    except OSError:
        pass  # a file system without locks; files are verified anyway
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Tell in words why something in `folder` could not be written."""
    try:
        yield
    except OSError as error:
        problem = f"{error.filename or folder}: {error.strerror or error}"
        remedy = "correct that"
        if error.errno in FULL:
            problem, remedy = full_disk_cause(error, folder)
        raise UserError(
            f"{problem}: {remedy}, then run the same command again: it goes on from there."
        ) from None
