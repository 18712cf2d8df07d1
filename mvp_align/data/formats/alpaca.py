"""LLaMA-Factory's alpaca form: an instruction with an input, perhaps a system prompt and earlier
turns, and two answers, in an older version as the list `output`, the chosen one first."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from mvp_align.data.formats.record import Format, LeftOut, PersonRecord, Plain
from mvp_align.data.formats.turns import with_system
from mvp_align.schema import ChatTurn, PreferencePair


class AlpacaRecord(PersonRecord):
    instruction: Plain
    input: Plain = ""
    system: Plain = ""
    history: list[list[Plain]] = Field(default=[])
    chosen: Plain
    rejected: Plain


def _fits(record: Mapping[str, Any]) -> bool:
    answers = {"chosen", "rejected"} <= record.keys() or _is_ranking(record.get("output"))
    return isinstance(record.get("instruction"), str) and answers


def _is_ranking(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2


def _to_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
    if _is_ranking(value.get("output")):
        chosen, rejected = value["output"]
        value = {"chosen": chosen, "rejected": rejected, **value}
    record = AlpacaRecord.model_validate(value)
    if any(len(turn) != 2 for turn in record.history):
        raise LeftOut("an entry of 'history' is no question with its answer")
    earlier = (
        turn
        for asked, answered in record.history
        for turn in (ChatTurn("user", asked), ChatTurn("assistant", answered))
    )
    question = "\n".join(text for text in (record.instruction, record.input) if text)
    return record.pair_of_public_file(
        value,
        fallback_id,
        question,
        (record.chosen, record.rejected),
        before=with_system(record.system, tuple(earlier)),
        shown_as="chat",
    )


FORMAT = Format(
    AlpacaRecord,
    _to_pair,
    texts=("instruction", "chosen", "rejected"),
    title="instructions with two answers, as LLaMA-Factory (alpaca) writes them",
    fits=_fits,
    passed_over=("output",),
    profiles_are_text=True,
    other_tools=True,
)
