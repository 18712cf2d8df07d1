"""Generated answers as files: a line a pair, beside what they were generated with; and those of an
unfinished set.

answers/<stage>-<set>.jsonl          id, user_id, answer, tokens, finished
answers/<stage>-<set>.json           model, adapter, prompt, temperature, seed, hash of the data ...
answers/.<stage>-<set>/*.jsonl       what was written so far: a file a process, synced line by
                                     line, gone at the end
"""

import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from io import BufferedWriter
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from mvp_align.config import Generation
from mvp_align.errors import UserError, listed
from mvp_align.runtime.atomic import full_disk_explained
from mvp_align.runtime.json_files import (
    from_json,
    read_json_lines,
    to_json,
    write_json,
    write_json_lines,
)

UNANSWERED = "unanswered"
"""Where the .json file says which pairs a server gave no answer to: id -> reason."""
DRAWN = "drawn"
"""Where it says how many pairs of the set were drawn, and by which seed; absent where all were
taken."""


@dataclass(frozen=True, slots=True)
class Generated:
    """The answer to one pair's question, as the model wrote it (blanks at its ends included).

    `tokens` counts its tokens without the one that ends it (None where a server does not say);
    `finished` is false where it was cut at the token limit.
    """

    id: str
    user_id: str
    answer: str
    tokens: int | None
    finished: bool

    @property
    def empty(self) -> bool:
        return not self.answer.strip()


def answers_path(run: Path, stage: str, set_name: str) -> Path:
    return run / "answers" / f"{stage}-{set_name.replace('/', '-')}.jsonl"


def write_answers(path: Path, answers: Iterable[Generated], made_with: Mapping[str, Any]) -> None:
    """The answers and, before them, what they were made with. Raises UserError where the disk is
    full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path.with_suffix(".json"), made_with)
    write_json_lines(path, map(asdict, answers))


def read_answers(path: Path) -> list[Generated]:
    """In the file's order. Raises UserError naming the line and field that is wrong, or the missing
    file."""
    return read_json_lines(
        path,
        _generated,
        what="generated answer",
        remedy="Generate the answers first: mvp-align generate RUN, or evals.metrics=[opa,spmr]."
        " Restore a broken file, or delete it before that.",
    )


def _generated(values: Any) -> Generated:
    """Raises ValueError or TypeError where a field is missing, unknown or of another type."""
    answer = Generated(**values)
    types = {"id": str, "user_id": str, "answer": str, "tokens": int | None, "finished": bool}
    for name, kind in types.items():
        value = getattr(answer, name)
        if not isinstance(value, kind) or (name == "tokens" and isinstance(value, bool)):
            raise TypeError(f"field '{name}' is {value!r}")
    return answer


def drawn(generation: Generation, seed: int) -> dict[str, Any]:
    """What the .json file says of the draw."""
    return {} if generation.limit is None else {DRAWN: {"limit": generation.limit, "seed": seed}}


def answers_made_so(
    path: Path, made_with: Mapping[str, Any], wanted: Collection[str]
) -> dict[str, Generated]:
    """The answers in `path` by their pair's id; none where there is no file yet.

    Raises UserError where they were made otherwise, or some are to other pairs while answers to
    `wanted` (ids) are missing: what took hours, or was paid for, is never overwritten.
    """
    if not path.is_file():
        return {}
    answers, how = read_answers(path), path.with_suffix(".json")
    try:
        known = from_json(how.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{how}: what {path.name} was made with cannot be read ({error}). Delete both files."
        ) from None
    problems = [
        f"{key}: {known.get(key)!r} there, {made_with.get(key)!r} now"
        for key in sorted(known.keys() | made_with.keys())
        if key not in (UNANSWERED, DRAWN) and known.get(key) != made_with.get(key)
    ]
    if problems:
        raise listed(
            problems,
            f"{path} holds answers that were made otherwise. Keep them, or delete the file first:",
        )
    ids = {answer.id for answer in answers}
    if not ids <= set(wanted) and not set(wanted) <= ids:
        raise UserError(
            f"{path} holds answers to {len(ids - set(wanted))} pairs that are not among the"
            f" {len(wanted)} drawn now, and lacks some of these (earlier versions took the first"
            " pairs of a set). Keep them, or delete the file first."
        )
    return {answer.id: answer for answer in answers}


@dataclass(slots=True)
class Drafts:
    """The answers of an unfinished set, by a key that says all they depend on. Appended and synced,
    never rewritten: a process killed at any moment loses what it had not handed over, and no
    more."""

    folder: Path | None
    """None: forgotten with the process."""
    known: dict[str, Generated] = field(default_factory=dict)
    file: BufferedWriter | None = None

    def __contains__(self, key: str) -> bool:
        return key in self.known

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def add(self, answers: Mapping[str, Generated]) -> None:
        """Keep these, on the disk before this returns. Raises UserError where it is full."""
        fresh = {key: answer for key, answer in answers.items() if key not in self.known}
        self.known.update(fresh)
        if self.folder is None or not fresh:
            return
        lines = [to_json({"key": key, **asdict(answer)}) for key, answer in fresh.items()]
        with full_disk_explained(self.folder):
            # a file of its own for each process: no lock, and no half line of another before it
            if self.file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.file = (self.folder / f"{uuid4().hex}.jsonl").open("xb")
            self.file.write("".join(f"{line}\n" for line in lines).encode())
            self.file.flush()
            os.fsync(self.file.fileno())

    def discard(self) -> None:
        """Remove them from the disk, once the whole set is written."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def open_drafts(path: Path) -> dict[str, Generated]:
    """What unfinished processes left for the answers file `path`; a line cut off by a kill is
    passed over."""
    known: dict[str, Generated] = {}
    for file in sorted(drafts_folder(path).glob("*.jsonl")):
        for line in file.read_bytes().splitlines():
            try:
                values = from_json(line)
                name = values.pop("key")
                known[name] = _generated(values)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue
    return known


def drafts_folder(path: Path) -> Path:
    return path.with_name(f".{path.stem}")
