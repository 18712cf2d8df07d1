"""What a judge is asked about a pair: what no count of words can tell.

The judge is not told which answer is meant to fit, and sees nothing of the profile.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mvp_align.construction.pair_checks import CONTRADICTING, FITTING, PairFinding
from mvp_align.generation.chat_request import ChatRequest, material_messages, object_schema
from mvp_align.generation.completion import Unparsed
from mvp_align.generation.json_reply import one_object
from mvp_align.judging.judges import Judge
from mvp_align.judging.prompts import w_comes_first
from mvp_align.schema import DIMENSIONS, PreferencePair

CHECK_PROMPT = Path(__file__).with_name("prompts") / "check_pair.txt"
PLACES = ("answer_1", "answer_2")
ASKED_OF_EACH = {
    "answers_question": (False, "answer", "{which} does not answer the question"),
    "language": (False, "language", "{which} is in another language than the question wants"),
    "names_person": (True, "person", "{which} speaks of the person as the question does not"),
    "unsafe": (True, "unsafe", "{which} could lead to serious harm"),
}
"""What the reply says of each answer -> what is a finding, of which check, in which words."""


class PairVerdict(BaseModel):
    """A judge's reply about a pair. Types are strict: "true" and 1 are not booleans."""

    model_config = ConfigDict(strict=True, extra="forbid")
    fits_better: Literal["answer_1", "answer_2", "neither"]
    differ_in: list[str]
    answers_question_1: bool
    answers_question_2: bool
    language_1: bool
    language_2: bool
    names_person_1: bool
    names_person_2: bool
    unsafe_1: bool
    unsafe_2: bool
    reason: str


@dataclass(frozen=True, slots=True)
class PairQuestion:
    """A pair, and the request for a judge's verdict on it."""

    pair: PreferencePair
    request: ChatRequest

    def findings(self, text: str) -> list[PairFinding]:
        """Return what the judge's reply holds against the pair.

        Raises Unparsed if the reply is not what was asked for.
        """
        try:
            verdict = PairVerdict.model_validate(one_object(text))
        except ValidationError as error:
            wrong = error.errors(include_url=False, include_input=False, include_context=False)[0]
            raise Unparsed(f"{wrong['loc'][0]}: {wrong['type'].replace('_', ' ')}") from None
        order = (FITTING, CONTRADICTING) if w_comes_first(self.pair) else (CONTRADICTING, FITTING)
        which = dict(zip(PLACES, order, strict=True))
        return [
            *_contrast_findings(self.pair, verdict, which),
            *_answer_verdicts(verdict, order),
        ]


def pair_question(pair: PreferencePair, judge: Judge) -> PairQuestion:
    """Return what the judge is asked about the pair.

    Raises Unparsed if the record states no preferences that an answer could fit.
    """
    preferences = pair.preference.strip() or pair.profile_text.strip()
    if not preferences:
        raise Unparsed("the record states no preferences")
    answers = (pair.chosen, pair.rejected)
    shown = answers if w_comes_first(pair) else answers[::-1]
    material = {
        "preferences": preferences,
        "question": pair.asked,
        **dict(zip(PLACES, shown, strict=True)),
    }
    return PairQuestion(
        pair,
        ChatRequest(
            material_messages(CHECK_PROMPT.read_text("utf-8").strip(), material),
            judge.parameters("scores"),
            _verdict_schema(),
        ),
    )


def check_prompt_sha256() -> str:
    return hashlib.sha256(CHECK_PROMPT.read_bytes()).hexdigest()


def _verdict_schema() -> dict[str, Any]:
    each = [f"{name}_{place}" for name in ASKED_OF_EACH for place in (1, 2)]
    return object_schema(
        {
            "fits_better": {"type": "string", "enum": [*PLACES, "neither"]},
            "differ_in": {"type": "array", "items": {"type": "string", "enum": [*DIMENSIONS]}},
            **{key: {"type": "boolean"} for key in each},
            "reason": {"type": "string"},
        }
    )


def _contrast_findings(
    pair: PreferencePair, verdict: PairVerdict, which: dict[str, str]
) -> Iterator[PairFinding]:
    """Yield a contrast that is not there, runs the other way, or is on something else."""
    better = which.get(verdict.fits_better, "neither answer")
    if better != FITTING:
        yield PairFinding("contrast", f"by the judge {better} fits better ({verdict.reason})")
    stated = _stated_dimensions(pair)
    if stated and not any(name in verdict.differ_in for name in stated):
        differ = ", ".join(verdict.differ_in) or "nothing"
        yield PairFinding(
            "contrast", f"by the judge the answers differ in {differ}, not {' or '.join(stated)}"
        )


def _stated_dimensions(pair: PreferencePair) -> list[str]:
    """Return the dimension that the pair is about, or those that the person said something of."""
    if named := pair.groups.get("dimension"):
        return [named]
    values = pair.stated_values
    return [name for name in DIMENSIONS if values and values.level(name)]


def _answer_verdicts(verdict: PairVerdict, order: tuple[str, str]) -> Iterator[PairFinding]:
    for name, (bad, check, words) in ASKED_OF_EACH.items():
        for place, which in enumerate(order, start=1):
            if getattr(verdict, f"{name}_{place}") is bad:
                yield PairFinding(check, f"by the judge {words.format(which=which)}")
