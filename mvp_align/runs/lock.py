"""Lock a run folder for one process.

Its file LOCK records which one, on what machine, since when.

On one machine, containers included, and on file systems that support such locks, the kernel's lock
on that file decides. It ends with its process, however that ends. Not every cluster's file system
supports them, so for processes on other machines the file's modification time decides, which the
owner updates every `BEAT_SECONDS`.
"""

import atexit
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from mvp_align.errors import UserError
from mvp_align.runtime.json_files import from_json, to_json

NAME = "LOCK"
BEAT_SECONDS = 20
SILENT_SECONDS = 120
"""Time without an update after which another machine's process counts as dead."""


@dataclass(frozen=True, slots=True)
class Owner:
    host: str
    machine: str
    """Boot id of the process's kernel, because containers of one machine differ in host name."""
    pid: int
    since: str
    """In UTC."""
    job: str
    """Slurm's job id, or "". A requeued job keeps it."""
    starts: int
    """How often Slurm has restarted that job."""


held: dict[Path, tuple[int, int]] = {}
"""Folders locked by this process: the file descriptor of LOCK, and the process id.

A fork has another process id, so it does not own the lock.
"""


def this_process() -> Owner:
    try:
        machine = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        machine = socket.gethostname()
    return Owner(
        host=socket.gethostname(),
        machine=machine,
        pid=os.getpid(),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        job=os.environ.get("SLURM_JOB_ID", ""),
        starts=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
    )


def lock(folder: Path) -> None:
    """Lock the folder, which must exist, until `release` or the end of this process.

    Locking it again does nothing. Raises UserError if another process has it, and OSError if it is
    not writable.
    """
    folder = folder.resolve()
    if folder in held and _is_at(held[folder][0], folder / NAME):
        return
    release(folder)  # somebody deleted it
    file = _taken(folder)
    held[folder] = (file, os.getpid())
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, (to_json(asdict(this_process())) + "\n").encode(), 0)
    except OSError:
        release(folder)
        raise
    threading.Thread(target=_beat, args=(folder, file), daemon=True).start()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run folder in the one process that writes, if the folder is writable."""
    if os.environ.get("RANK", "0") == "0":
        with suppress(OSError):
            lock(folder)
    try:
        yield
    finally:
        release(folder)


def refuse_if_locked(folder: Path) -> None:
    """Raise UserError if another process has locked the folder. Changes nothing."""
    if folder.resolve() in held:
        return
    with suppress(OSError):
        file = os.open(folder / NAME, os.O_RDWR)
        try:
            _refuse_if_owned(file, folder)
        finally:
            os.close(file)


def release(folder: Path) -> None:
    """Unlock the folder if this process has locked it."""
    folder = folder.resolve()
    file, process = held.pop(folder, (-1, -1))
    if process == os.getpid():
        with suppress(OSError):  # gone, with the folder or by hand
            if _is_at(file, folder / NAME):
                (folder / NAME).unlink()
        os.close(file)


@atexit.register
def release_all() -> None:
    for folder in [*held]:
        release(folder)


def _taken(folder: Path) -> int:
    """Return the open, locked LOCK of `folder`.

    Its last owner may remove it between our opening and our locking it; then we try the next one.
    """
    path = folder / NAME
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            free, there = _refuse_if_owned(file, folder), _is_at(file, path)
            if free and there:
                return file
            if there:
                path.unlink(missing_ok=True)
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _refuse_if_owned(file: int, folder: Path) -> bool:
    """Lock the open LOCK, or raise UserError.

    Returns False if its owner is dead, but a server does not know that yet.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kernel_says = "free"
    except BlockingIOError:
        kernel_says = "taken"
    except OSError:
        kernel_says = "nothing"  # a file system without such locks
    owner = _owner_of(file)
    if kernel_says == "taken" if owner is None else _is_alive(owner, kernel_says, file, folder):
        raise _in_use(folder, owner)
    return kernel_says != "taken"


def _is_alive(owner: Owner, kernel_says: str, file: int, folder: Path) -> bool:
    me = this_process()
    here = owner.machine == me.machine
    if not here and owner.job and owner.job == me.job and owner.starts < me.starts:
        return False  # Slurm ends a job before it starts it again
    if kernel_says == "taken":
        return True
    if here:
        return kernel_says == "nothing" and owner.pid != me.pid and _is_running(owner.pid)
    # A host of one name under another kernel has been started anew.
    return owner.host != me.host and _seconds_silent(file, folder) < SILENT_SECONDS


def _in_use(folder: Path, owner: Owner | None) -> UserError:
    who = (
        f"process {owner.pid} on {owner.host}, since {owner.since} (UTC)"
        if owner
        else "another process"
    )
    job = f", Slurm job {owner.job}" if owner and owner.job else ""
    return UserError(
        f"{folder} is in use by {who}{job}: wait for it, or set another run.name. A process that"
        f" died is found out by itself, on another machine after {SILENT_SECONDS} seconds."
    )


def _owner_of(file: int) -> Owner | None:
    try:
        return Owner(**from_json(os.pread(file, 10_000, 0)))
    except (ValueError, TypeError):  # empty, or half written when its process was killed
        return None


def _is_at(file: int, path: Path) -> bool:
    """Return whether the open file is (still) the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _seconds_silent(file: int, folder: Path) -> float:
    """Return seconds since the file's last update, by the file system's clock, not ours."""
    probe = folder / f".{NAME}.{os.getpid()}.tmp"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        now = time.time()
    return now - os.fstat(file).st_mtime


def _beat(folder: Path, file: int) -> None:
    while True:
        time.sleep(BEAT_SECONDS)
        if held.get(folder, (-1, -1))[0] != file:
            return
        with suppress(OSError):
            os.utime(file)
