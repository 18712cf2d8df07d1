"""Rows of a survey and of conversations in PRISM's shape, for tests."""

from collections.abc import Sequence
from typing import Any

from mvp_align.schema import DIMENSIONS

Row = dict[str, Any]


def person(user_id: str, score: float | None = 90, **changes: Any) -> Row:
    """A row of the survey; `score` is that of every dimension, apart from creativity's 20."""
    row: Row = {
        "user_id": user_id,
        "age": "25-34 years old",
        "gender": "Female",
        "employment_status": "Student",
        "education": "Vocational",
        "marital_status": "Married",
        "english_proficiency": "Fluent",
        "location": {"birth_country": "Chile", "reside_country": "Peru"},
        "self_description": "I sing.",
        "system_string": "Be brief.",
        "stated_prefs": dict.fromkeys(DIMENSIONS, score) | {"creativity": 20, "values": "x"},
    }
    return row | changes


def conversation(
    name: str, user_id: str, scores: Sequence[float | None] = (90, 40), later: int = 0
) -> Row:
    """A row of the conversations: replies to its first message have `scores`."""
    opening = f"What of {name}?"
    history: list[Row] = [{"turn": 0, "role": "user", "content": opening}]
    history += [
        {"turn": 0, "role": "model", "content": f"Reply {n} to {name}.", "score": score}
        for n, score in enumerate(scores)
    ]
    for turn in range(1, later + 1):
        history.append({"turn": turn, "role": "user", "content": f"And {turn}?"})
        history += [
            {"turn": turn, "role": "model", "content": f"More {n}.", "score": 10 + 80 * n}
            for n in range(2)
        ]
    return {
        "conversation_id": name,
        "user_id": user_id,
        "conversation_type": "unguided",
        "opening_prompt": opening,
        "conversation_history": history,
    }
