"""Parse a judge's reply into a verdict, or explain why it is none. Nothing is guessed.

Reasoning is removed first. For scores, a reply must hold exactly one JSON object, with exactly the
requested keys and numbers from 0 to 100. Words before it and a Markdown fence around it are
allowed, because models without structured output add them; so is the same object again. Not allowed
are words after it, which may take it back, another object, an unmatched brace, or a repeated key,
because then it is unclear which one counts.
"""

import json
import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mvp_align.judging.reasoning import CLOSING, strip_reasoning
from mvp_align.judging.verdicts import Scores, Unparsed, YesNo

Score = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
NO_VIOLATION = ("", "none", "n/a")
"""Entries that models write for an empty list."""
MARKUP = re.compile(r"<\|\w+\|>|</?(?:answer|response|output)>", re.IGNORECASE)
"""Tags that models put around a reply, and special tokens that servers leave in it."""
WHOLE = re.compile(r"\s*(?:```\w*)?\s*(\{.*\})\s*(?:```)?\s*", re.DOTALL)


class Assessment(BaseModel):
    """Fields of every reply with scores.

    Types are strict: "85", "85/100" and true are not scores.
    """

    model_config = ConfigDict(strict=True, extra="forbid")
    score_model: Score
    enforced_dimensions_used: list[str]
    hard_violations_model: list[str]
    reason: str


class OpenAssessment(Assessment):
    """Scores from a judge who knows which reference is meant to fit."""

    score_w: Score
    score_l: Score


class BlindAssessment(Assessment):
    """Scores from a judge who does not know."""

    score_1: Score
    score_2: Score


def parse_scores(text: str, *, blind: bool, w_first: bool) -> Scores:
    """Parse a reply with scores. Raises Unparsed.

    In a blind reply, `w_first` says whether answer_w was the first reference.
    """
    values = _one_object(text)
    try:
        if blind:
            found: OpenAssessment | BlindAssessment = BlindAssessment.model_validate(values)
        else:
            found = OpenAssessment.model_validate(values)
    except ValidationError as error:
        raise Unparsed(_first_problem(error)) from None
    if isinstance(found, BlindAssessment):
        w, l = (found.score_1, found.score_2) if w_first else (found.score_2, found.score_1)  # noqa: E741
    else:
        w, l = found.score_w, found.score_l  # noqa: E741
    violations = tuple(
        name for name in found.hard_violations_model if name.strip().lower() not in NO_VIOLATION
    )
    return Scores(
        w, l, found.score_model, tuple(found.enforced_dimensions_used), violations, found.reason
    )


def parse_yes_no(text: str) -> YesNo:
    """Parse a reply that is just Yes or No after any reasoning. Raises Unparsed.

    Case and punctuation do not matter.
    """
    if not text.strip():
        raise Unparsed("empty reply")
    said = re.fullmatch(
        r"[\W_]*(yes|no)[\W_]*", MARKUP.sub("", strip_reasoning(text)), re.IGNORECASE
    )
    if said is None:
        raise Unparsed("neither Yes nor No alone")
    return YesNo(said.group(1).lower() == "yes")


def _one_object(text: str) -> dict[str, Any]:
    """Return the one JSON object that `text` states. Raises Unparsed."""
    if not text.strip():
        raise Unparsed("empty reply")
    for start in (0, *(mark.end() for mark in CLOSING.finditer(text))):
        if found := _whole_object(text, start):  # its strings may contain any marker
            return found
    values, rest = _repeated_object(strip_reasoning(text))
    if re.search(r"[^\W_]", MARKUP.sub("", rest)):
        raise Unparsed("words behind the JSON object")
    return values


def _whole_object(text: str, start: int) -> dict[str, Any] | None:
    """Return the JSON object that fills `text` from `start`, apart from whitespace and a fence."""
    fenced = WHOLE.fullmatch(text, start)
    try:
        return dict(DECODER.decode(fenced.group(1))) if fenced else None
    except (ValueError, RecursionError):
        return None


def _repeated_object(text: str) -> tuple[dict[str, Any], str]:
    """Return the JSON object that occurs in `text`, maybe repeatedly, and the text after the last.

    Raises Unparsed.
    """
    first, end = "", 0
    values: dict[str, Any] = {}
    while (start := text.find("{", end)) >= 0:
        try:
            values, end = DECODER.raw_decode(text, start)
            said = repr(values)
        except (ValueError, RecursionError) as error:
            if first:
                raise Unparsed("more than one JSON object") from None
            raise Unparsed(
                "a key named twice" if isinstance(error, KeyNamedTwice) else "broken JSON"
            ) from None
        if said != (first := first or said):
            raise Unparsed("more than one JSON object")
    if not first:
        raise Unparsed("no JSON object")
    if "}" in text[end:]:
        raise Unparsed("more than one JSON object")
    return values, text[end:]


class KeyNamedTwice(ValueError):
    """A JSON object with two values under one key."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise KeyNamedTwice
    return values


DECODER = json.JSONDecoder(object_pairs_hook=_each_once)


def _first_problem(error: ValidationError) -> str:
    """Describe the first error, without quoting the reply."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    key = str(problem["loc"][0])
    kind = problem["type"]
    if kind == "missing":
        return f"no {key}"
    if kind == "extra_forbidden":
        return "a key that was not asked for"
    if kind in ("greater_than_equal", "less_than_equal"):
        return f"{key} outside 0-100"
    return f"{key} of a wrong type"
