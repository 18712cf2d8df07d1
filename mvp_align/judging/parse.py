"""Parse a judge's reply into a verdict, or explain why it is none. Nothing is guessed.

Reasoning is removed first. For scores, a reply must hold exactly one JSON object
(`generation.json_reply`), with exactly the requested keys and numbers from 0 to 100.
"""

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mvp_align.generation.completion import Unparsed
from mvp_align.generation.json_reply import MARKUP, one_object
from mvp_align.generation.reasoning import strip_reasoning
from mvp_align.judging.verdicts import Scores, YesNo

Score = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
NO_VIOLATION = ("", "none", "n/a")
"""Entries that models write for an empty list."""


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
    values = one_object(text)
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
