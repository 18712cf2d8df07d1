"""What people decided about pairs: one file a person, to which lines are only added.

A decision is on disk before the page says so. A process that is killed while it writes leaves half
a line, which counts as nothing and is cut off when that person goes on. Files of several machines
are brought together by copying them into one folder.
"""

import errno
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import BaseModel, ConfigDict

from mvp_align.construction.pair_records import PairRecord, Texts
from mvp_align.errors import UserError
from mvp_align.runtime.atomic import full_disk_explained
from mvp_align.runtime.json_files import from_json, to_json

FOLDER = "decisions"
REVIEWER = re.compile(r"[A-Za-z0-9_]+")
Choice = Literal["accept", "reject", "edit", "withdraw"]


class Decision(BaseModel):
    """One person's decision about a record, known by its id and its SHA-256 (hex) as JSON.

    `texts` are the question and both answers as that person edited them. `at` is in UTC. A later
    decision replaces an earlier one; `withdraw` leaves none.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    id: str
    record_sha256: str
    reviewer: str
    decision: Choice
    texts: list[str] | None = None
    at: str

    def outcome(self, record: PairRecord) -> Texts | None:
        """Return the texts that this person would keep; None to reject the pair."""
        if self.decision == "reject":
            return None
        if self.texts is None:
            return record.texts
        question, fitting, contradicting = self.texts
        return question, fitting, contradicting


def decision_file(out: Path, reviewer: str) -> Path:
    """Return where a person's decisions stand. Raises UserError if the name makes no file name."""
    if not REVIEWER.fullmatch(reviewer):
        raise UserError(f"--reviewer {reviewer}: letters, digits and _ make a name.")
    return out / FOLDER / f"{reviewer}.jsonl"


class DecisionLog:
    """A person's decisions, open for more; from `open_log`."""

    def __init__(self, path: Path, file: BinaryIO, decisions: Iterable[Decision]) -> None:
        self.path, self._file = path, file
        self.decisions = list(decisions)

    def add(self, record: PairRecord, choice: Choice, texts: Texts | None) -> Decision:
        """Keep a decision. It is synced to disk when this returns.

        Raises UserError if the disk is full; then nothing of it stays.
        """
        decision = Decision(
            id=record.pair.id,
            record_sha256=record.sha256,
            reviewer=self.path.stem,
            decision=choice,
            texts=list(texts) if texts else None,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        line = (to_json(decision.model_dump(exclude_none=True)) + "\n").encode()
        end = self._file.seek(0, os.SEEK_END)
        try:
            with full_disk_explained(self.path):
                if self._file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._file.fileno())
        except BaseException:
            self._file.truncate(end)
            raise
        self.decisions.append(decision)
        return decision


@contextmanager
def open_log(path: Path) -> Iterator[DecisionLog]:
    """Open a person's decisions, or begin them.

    Raises UserError if another process has them open, or a line is no decision.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{path}: another `mvp-align data review` has it open; end that one first, or name"
                " another --reviewer."
            ) from None
        except OSError:  # a file system without such locks
            pass
        whole, decisions = _read(path)
        file.truncate(whole)
        yield DecisionLog(path, file, decisions)


def read_decisions(out: Path) -> dict[str, list[Decision]]:
    """Return all decisions in a folder, by person, in the order in which they were taken.

    Raises UserError if a line is no decision, or one of another person.
    """
    return {path.stem: _read(path)[1] for path in sorted((out / FOLDER).glob("*.jsonl"))}


def _read(path: Path) -> tuple[int, list[Decision]]:
    """Return how many bytes of the file are whole lines, and the decisions in them."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    decisions = []
    for number, line in enumerate(content[:whole].split(b"\n")[:-1], start=1):
        try:
            decision = Decision.model_validate(from_json(line))
            if decision.reviewer != path.stem:
                raise ValueError(f"it is {decision.reviewer}'s")
            if decision.texts is not None and len(decision.texts) != 3:
                raise ValueError("three texts belong there")
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{path}, line {number}: no decision of {path.stem} ({reason}). Lines are written"
                " by `mvp-align data review` alone: restore the file from a copy."
            ) from None
        decisions.append(decision)
    return whole, decisions


def standing(
    decisions: Iterable[Decision], records: Iterable[PairRecord]
) -> tuple[dict[str, Decision], int]:
    """Return the last decision about each of these records, by id, and how many concern others.

    Others are records that are no longer there, or that say something else by now.
    """
    last = {one.id: one for one in decisions}
    hashes = {one.pair.id: one.sha256 for one in records}
    valid = {name: one for name, one in last.items() if one.decision != "withdraw"}
    kept = {name: one for name, one in valid.items() if hashes.get(name) == one.record_sha256}
    return kept, len(valid) - len(kept)
