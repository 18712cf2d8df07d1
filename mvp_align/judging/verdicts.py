"""Verdicts of judges, and the files that keep them: `judgements/<stage>-<set>-<judge>.jsonl`.

A line is `{"id", "user_id", "replies": [keys in the store], "scores": {...}}`, with `yes_no` or
`nearness` instead of `scores` if that was asked, or with `"unscored": "why"` if there is no
verdict. Labels depend on these lines only. Lines with replies also record the version of the
parsing rules (`"reading": 2`).
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mvp_align.runtime.json_files import read_json_lines, write_json_lines


@dataclass(frozen=True, slots=True)
class Scores:
    """Fit to the user's stated preferences, 0-100, of answer_w, answer_l and the model's answer."""

    w: float
    l: float  # noqa: E741
    model: float
    dimensions: tuple[str, ...] = ()
    """The dimensions that the judge says it used."""
    violations: tuple[str, ...] = ()
    """Preferences that the model's answer plainly breaks."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class YesNo:
    """Whether the model's answer matches answer_w."""

    yes: bool


@dataclass(frozen=True, slots=True)
class Nearness:
    """Cosine of the model's answer with each reference, from -1 to 1.

    Both are 0 for an empty answer.
    """

    to_w: float
    to_l: float


READING = 2
"""Version of parse.py. The first took a verdict drafted in reasoning for the final one."""
Verdict = Scores | YesNo | Nearness
KINDS: dict[str, type[Verdict]] = {"scores": Scores, "yes_no": YesNo, "nearness": Nearness}


@dataclass(frozen=True, slots=True)
class Judgement:
    """One judge's verdict on one answer. If `verdict` is None, `unscored` says why."""

    id: str
    user_id: str
    verdict: Verdict | None
    unscored: str = ""
    replies: tuple[str, ...] = ()


def judgement_file(run: Path, stage: str, set_name: str, judge: str) -> Path:
    return run / "judgements" / f"{stage}-{set_name.replace('/', '-')}-{judge}.jsonl"


def write_judgements(path: Path, judgements: Iterable[Judgement]) -> None:
    """Replace `path`. Raises UserError if the disk is full."""
    path.parent.mkdir(exist_ok=True)
    write_json_lines(path, map(_as_line, judgements))


def _as_line(judgement: Judgement) -> dict[str, Any]:
    line: dict[str, Any] = {
        "id": judgement.id,
        "user_id": judgement.user_id,
        "replies": list(judgement.replies),
    }
    if judgement.replies:
        line["reading"] = READING
    if judgement.verdict is None:
        return line | {"unscored": judgement.unscored}
    kind = next(kind for kind, shape in KINDS.items() if isinstance(judgement.verdict, shape))
    return line | {kind: asdict(judgement.verdict)}


def read_judgements(path: Path) -> list[Judgement]:
    """Read a file's judgements in order.

    Raises UserError if the file is missing, or naming the line that is invalid or was parsed by
    earlier rules.
    """
    return read_json_lines(
        path,
        _from_line,
        what="judgement",
        remedy="Run mvp-align judge with the same judges again: replies are kept, so nobody is"
        " asked.",
    )


def _from_line(line: dict[str, Any]) -> Judgement:
    known = line["id"], line["user_id"]
    replies = tuple(line["replies"])
    if replies and line.get("reading") != READING:
        raise ValueError(
            "its replies were read by an earlier version, which took what a judge drafted while it"
            " reasoned for its verdict"
        )
    for kind, shape in KINDS.items():
        if kind in line:
            return Judgement(
                *known, TypeAdapter[Verdict](shape).validate_python(line[kind]), replies=replies
            )
    return Judgement(*known, None, line["unscored"], replies)
