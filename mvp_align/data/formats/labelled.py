"""Public files that number two answers and say which one is preferred: PKU-SafeRLHF, HelpSteer2's
preferences, SHP and Chatbot Arena's conversations."""

from typing import Any

from mvp_align.data.formats.record import Format, LeftOut, PersonRecord, Plain
from mvp_align.data.formats.turns import Turns, last_question, split_conversations
from mvp_align.schema import PreferencePair


class PkuSafeRlhfRecord(PersonRecord):
    prompt: Plain
    response_0: Plain
    response_1: Plain
    better_response_id: int


def _pku_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
    record = PkuSafeRlhfRecord.model_validate(value)
    if record.better_response_id not in (0, 1):
        raise LeftOut("'better_response_id' is neither 0 nor 1")
    answers = _ordered(record.response_0, record.response_1, record.better_response_id == 0)
    return record.pair_of_public_file(
        value, fallback_id, record.prompt, answers, shown_as="verbatim"
    )


class HelpSteerRecord(PersonRecord):
    prompt: Plain
    response_1: Plain
    response_2: Plain
    preference_strength: int


def _helpsteer_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
    record = HelpSteerRecord.model_validate(value)
    if record.preference_strength == 0:
        raise LeftOut("neither answer is preferred")
    answers = _ordered(record.response_1, record.response_2, record.preference_strength < 0)
    return record.pair_of_public_file(
        value, fallback_id, record.prompt, answers, shown_as="verbatim"
    )


class ShpRecord(PersonRecord):
    history: Plain
    human_ref_A: Plain  # noqa: N815 (SHP's own names)
    human_ref_B: Plain  # noqa: N815
    labels: int


def _shp_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
    record = ShpRecord.model_validate(value)
    if record.labels not in (0, 1):
        raise LeftOut("'labels' is neither 0 nor 1")
    answers = _ordered(record.human_ref_A, record.human_ref_B, record.labels == 1)
    return record.pair_of_public_file(
        value, fallback_id, record.history, answers, shown_as="verbatim"
    )


class ArenaRecord(PersonRecord):
    conversation_a: Turns
    conversation_b: Turns
    winner: Plain


def _arena_pair(value: dict[str, Any], fallback_id: str) -> PreferencePair:
    record = ArenaRecord.model_validate(value)
    if record.winner not in ("model_a", "model_b"):
        raise LeftOut("neither answer is preferred")
    asked, answers = split_conversations(record.conversation_a, record.conversation_b)
    before, question = last_question(asked)
    answers = _ordered(*answers, record.winner == "model_a")
    return record.pair_of_public_file(
        value, fallback_id, question, answers, before=before, shown_as="chat"
    )


def _ordered(one: str, other: str, one_is_chosen: bool) -> tuple[str, str]:
    return (one, other) if one_is_chosen else (other, one)


PKU_SAFERLHF = Format(
    PkuSafeRlhfRecord,
    _pku_pair,
    texts=("prompt", "response_0", "response_1"),
    marks=("better_response_id",),
    title="two numbered answers, as in PKU-SafeRLHF",
    profiles_are_text=True,
    other_tools=True,
)
HELPSTEER = Format(
    HelpSteerRecord,
    _helpsteer_pair,
    texts=("prompt", "response_1", "response_2"),
    marks=("preference_strength",),
    title="two numbered answers, as in HelpSteer2",
    profiles_are_text=True,
    other_tools=True,
)
SHP = Format(
    ShpRecord,
    _shp_pair,
    texts=("history", "human_ref_A", "human_ref_B"),
    marks=("labels",),
    title="two comments on a post, as in SHP",
    profiles_are_text=True,
    other_tools=True,
)
ARENA = Format(
    ArenaRecord,
    _arena_pair,
    texts=("conversation_a", "conversation_b", "winner"),
    title="two conversations and a winner, as in Chatbot Arena",
    profiles_are_text=True,
    other_tools=True,
)
