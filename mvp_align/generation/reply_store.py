"""An append-only SQLite store of chat models' replies, so that no reply is paid for twice.

A reply is committed and synced to disk before it is used, so a killed process loses only the
requests in flight. Its key is a hash of the request (`ChatRequest.key`), so no request is sent
twice. Failed attempts go to a separate table, for the record only.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from mvp_align.errors import UserError
from mvp_align.generation.completion import NO_COMPLETION, Completion, parse_completion
from mvp_align.generation.response import Reply
from mvp_align.runtime.atomic import FULL_WORDS, full_disk_cause

SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
  key TEXT PRIMARY KEY, model TEXT NOT NULL, served_by TEXT NOT NULL,
  text TEXT NOT NULL, raw TEXT NOT NULL,
  finish_reason TEXT NOT NULL, response_format TEXT NOT NULL,
  prompt_tokens INTEGER, completion_tokens INTEGER,
  seconds REAL NOT NULL, at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS attempts (
  key TEXT NOT NULL, model TEXT NOT NULL, problem TEXT NOT NULL, at TEXT NOT NULL
) STRICT;
CREATE TRIGGER IF NOT EXISTS replies_are_not_changed BEFORE UPDATE ON replies
  BEGIN SELECT RAISE(ABORT, 'replies are only added'); END;
CREATE TRIGGER IF NOT EXISTS replies_are_not_removed BEFORE DELETE ON replies
  BEGIN SELECT RAISE(ABORT, 'replies are only added'); END;
"""
WAIT_SECONDS = 5.0
"""How long to wait for another process to close the file."""
DISK_FULL = (*FULL_WORDS, "database or disk is full")


class ReplyStore:
    """An open store, from `open_store`. Only one process at a time can open it."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path, self.connection = path, connection

    def known(self, keys: Iterable[str]) -> dict[str, Completion]:
        """Return the stored replies among `keys`, by key."""
        with _explained(self.path):
            found = {}
            for key in dict.fromkeys(keys):
                row = self.connection.execute(
                    "SELECT text, finish_reason, raw FROM replies WHERE key = ?", (key,)
                ).fetchone()
                if row is not None:
                    found[key] = _kept(*row)
            return found

    def add(self, key: str, model: str, reply: Reply) -> None:
        """Store a reply, and the reasons why earlier attempts failed.

        Both are synced to disk before this returns. Raises UserError if the disk is full.
        """
        values = (
            key,
            model,
            reply.model,
            reply.completion.text,
            reply.raw,
            reply.completion.finish_reason,
            reply.response_format,
            reply.prompt_tokens,
            reply.completion_tokens,
            reply.seconds,
            _now(),
        )
        with self.transaction():
            self.connection.execute(
                f"INSERT INTO replies VALUES ({', '.join('?' * len(values))})", values
            )
            self.insert_attempts(key, model, reply.failures)

    def log(self, key: str, model: str, problems: Sequence[str]) -> None:
        """Record why every attempt at a request failed."""
        with self.transaction():
            self.insert_attempts(key, model, problems)

    def insert_attempts(self, key: str, model: str, problems: Sequence[str]) -> None:
        rows = [(key, model, problem, _now()) for problem in problems]
        self.connection.executemany("INSERT INTO attempts VALUES (?, ?, ?, ?)", rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with _explained(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            finally:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")


def _kept(text: str, finish_reason: str, raw: str) -> Completion:
    """Convert a row. The full body tells whether it was a refusal or held only reasoning."""
    try:
        whole = parse_completion(json.loads(raw))
    except NO_COMPLETION:
        whole = Completion("")
    return replace(whole, text=text, finish_reason=finish_reason)


@contextmanager
def open_store(path: Path) -> Iterator[ReplyStore]:
    """Open the store at `path`, or create it.

    Raises UserError if another process uses it, it is not a store, or it cannot be created.
    """
    with _explained(path):
        connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
    try:
        with _explained(path):
            # exclusive before WAL: that needs no shared memory, which network file systems lack
            for setting in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
                connection.execute(f"PRAGMA {setting}")
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
        yield ReplyStore(path, connection)
    finally:
        connection.close()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an SQLite error into a UserError with a remedy."""
    try:
        yield
    except sqlite3.Error as error:
        said = str(error)
        if "locked" in said:
            remedy = "another process is using it: wait for its end."
        elif any(words in said for words in DISK_FULL):
            full, what_helps = full_disk_cause(error, path.parent)
            remedy = f"{full}: {what_helps}, then run the same command again."
        elif "I/O error" in said:  # SQLite reports an exceeded quota in the same way
            remedy = (
                "the disk is failing, or your quota is used up (quota -s, or lfs quota): see to it,"
                " then run the same command again."
            )
        elif "not a database" in said or "malformed" in said:
            remedy = (
                "it is no store of replies, or damaged: move it away; what it held is asked again."
            )
        else:
            remedy = "see whether its folder is there and can be written to."
        raise UserError(f"{path}: {said}; {remedy} Replies that were kept stay.") from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
