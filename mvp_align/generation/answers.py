"""Files of generated answers, their settings, and drafts of an unfinished set.

One answer per line:

    answers/<stage>-<set>.jsonl          id, user_id, answer, tokens, finished
    answers/<stage>-<set>.json           model, adapter, prompt, temperature, seed, data hash ...
    answers/.<stage>-<set>/*.jsonl       drafts: one file per process, synced after every batch or
                                         reply, removed at the end
"""

import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from io import BufferedWriter
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from mvp_align.config import Generation, Prompt
from mvp_align.errors import UserError, combined_error
from mvp_align.runtime.atomic import full_disk_explained
from mvp_align.runtime.json_files import (
    from_json,
    read_json_lines,
    to_json,
    write_json,
    write_json_lines,
)

UNANSWERED = "unanswered"
"""Key of the .json file for pairs that a server did not answer: id -> reason."""
DRAWN = "drawn"
"""Key of the .json file for how many pairs were drawn, and with which seed.

Absent if all were used.
"""


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated answer, exactly as the model wrote it, including surrounding whitespace.

    `tokens` does not count the final stop token, and is None if a server does not report it.
    `finished` is false if the answer was cut at the token limit.
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
    """Write the settings, then the answers. Raises UserError if the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path.with_suffix(".json"), made_with)
    write_json_lines(path, map(asdict, answers))


def read_answers(path: Path) -> list[Generated]:
    """Read answers in the file's order.

    Raises UserError if the file is missing or a line is invalid, naming the line and the field.
    """
    return read_json_lines(
        path,
        _generated,
        what="generated answer",
        remedy="Generate the answers first: mvp-align generate RUN, or evals.metrics=[opa,spmr]."
        " Restore a broken file, or delete it before that.",
    )


def _generated(values: Any) -> Generated:
    """Parse one answer.

    Raises ValueError or TypeError for a missing, unknown or wrongly typed field.
    """
    answer = Generated(**values)
    types = {"id": str, "user_id": str, "answer": str, "tokens": int | None, "finished": bool}
    for name, kind in types.items():
        value = getattr(answer, name)
        if not isinstance(value, kind) or (name == "tokens" and isinstance(value, bool)):
            raise TypeError(f"field '{name}' is {value!r}")
    return answer


def draw_record(generation: Generation, seed: int) -> dict[str, Any]:
    """Return what the .json file records about the draw."""
    return {} if generation.limit is None else {DRAWN: {"limit": generation.limit, "seed": seed}}


def engine_record(generation: Generation) -> dict[str, str]:
    """Return what answers record about their engine; nothing for `plain`, as before there were two.

    Engines round differently, so their answers are not mixed.
    """
    return {} if generation.engine == "plain" else {"engine": generation.engine}


def prompt_record(prompt: Prompt) -> dict[str, Any]:
    """Return what answers record about their prompt; of earlier choices nothing if it shows none.

    So answers from before there were any still match.
    """
    return {
        key: value
        for key, value in asdict(prompt).items()
        if prompt.choices or key not in ("choices", "choice")
    }


def read_matching_answers(
    path: Path, made_with: Mapping[str, Any], wanted: Collection[str]
) -> dict[str, Generated]:
    """Return the answers in `path` by pair id, or nothing if there is no file yet.

    Raises UserError if they were made with other settings, or if some belong to other pairs while
    answers to `wanted` (ids) are missing. Answers took hours or money, so we never overwrite them.
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
        raise combined_error(
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
    """Answers of an unfinished set, by a key that covers everything they depend on.

    They are appended and synced, never rewritten, so a killed process loses only answers that were
    not yet added.
    """

    folder: Path | None
    """None keeps them in memory only."""
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
        """Add answers, and sync them to disk before returning.

        Raises UserError if the disk is full.
        """
        fresh = {key: answer for key, answer in answers.items() if key not in self.known}
        self.known.update(fresh)
        if self.folder is None or not fresh:
            return
        lines = [to_json({"key": key, **asdict(answer)}) for key, answer in fresh.items()]
        with full_disk_explained(self.folder):
            # one file per process: no lock, and no partial line of another process before ours
            if self.file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.file = (self.folder / f"{uuid4().hex}.jsonl").open("xb")
            self.file.write("".join(f"{line}\n" for line in lines).encode())
            self.file.flush()
            os.fsync(self.file.fileno())

    def discard(self) -> None:
        """Remove the drafts from disk, once the whole set is written."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def read_drafts(path: Path) -> dict[str, Generated]:
    """Return what unfinished processes left for the answers file `path`.

    Skips lines that were cut off when a process was killed.
    """
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
