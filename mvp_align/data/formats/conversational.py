"""Messages: TRL's conversational form, with the prompt apart or as the beginning of both
conversations, and what is written like it (UltraFeedback binarised, Tulu's mixtures)."""

from collections.abc import Mapping
from typing import Any

from mvp_align.data.formats.record import Format, LeftOut, PersonRecord, Plain
from mvp_align.data.formats.turns import (
    Prompt,
    Turns,
    begins_with_question,
    is_message,
    last_question,
    last_replies,
    split_conversations,
    with_system,
)
from mvp_align.schema import ChatTurn, PreferencePair


class ConversationalRecord(PersonRecord):
    prompt: Prompt = ()
    system: Plain = ""
    chosen: Turns
    rejected: Turns


def _fits(record: Mapping[str, Any]) -> bool:
    answers = record.get("chosen"), record.get("rejected")
    if not all(map(is_message, answers)):
        return False
    return "prompt" in record or any(map(begins_with_question, answers))


def _to_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
    record = ConversationalRecord.model_validate(value)
    if record.chosen[0].role == "assistant":
        asked, answers = record.prompt, last_replies(record.chosen, record.rejected)
    else:
        asked, answers = split_conversations(record.chosen, record.rejected)
        _check_repeated(record.prompt, asked)
    before, question = last_question(with_system(record.system, asked))
    return record.pair_of_public_file(
        value, fallback_id, question, answers, before=before, shown_as="chat"
    )


def _check_repeated(prompt: tuple[ChatTurn, ...], asked: tuple[ChatTurn, ...]) -> None:
    """A prompt beside whole conversations only repeats what they begin with. Raises LeftOut where
    it says something else, which a model would never be shown."""
    known = [turn.content.strip() for turn in asked]
    if any(turn.content.strip() not in known for turn in prompt):
        raise LeftOut("its prompt is not what its conversations begin with")


FORMAT = Format(
    ConversationalRecord,
    _to_pair,
    texts=("prompt", "chosen", "rejected"),
    title="conversational, as TRL writes it",
    fits=_fits,
    passed_over=("messages", "prompt_id", "score_chosen", "score_rejected"),
    profiles_are_text=True,
    other_tools=True,
)
