"""Recognise preference records in other tools' formats, to name the format and a remedy."""

import re
from collections.abc import Sequence
from typing import Any

TURNS = re.compile(r"\s*Human:.*\n\s*Assistant:", re.DOTALL)
AS_TEXTS = (
    "write the question as a text under 'prompt', and the two last replies as texts under 'chosen'"
    " and 'rejected'"
)


def form_of(record: dict[str, Any], texts: Sequence[str]) -> tuple[str, str] | None:
    """The field that gives the form of a record away, and what to say of it; None for a record of
    no such form, or one that has all `texts`, the keys that its format reads."""
    if all(isinstance(record.get(key), str) for key in texts):
        return None
    chosen, rejected = record.get("chosen"), record.get("rejected")
    for key in ("prompt", "chosen", "rejected"):
        if _is_message(record.get(key)):
            return (
                key,
                (
                    "holds messages with a role each, where a text belongs (conversational"
                    f" preference data); {AS_TEXTS}"
                ),
            )
    if "prompt" in record:
        if isinstance(record.get("label"), bool) and "completion" in record:
            remedy = (
                "give pairs: one record with 'prompt', 'chosen' and 'rejected' for two answers to"
                " one prompt"
            )
            return "completion", f"is one answer with a label (unpaired preference data); {remedy}"
        return None
    if all(isinstance(text, str) and TURNS.match(text) for text in (chosen, rejected)):
        return (
            "chosen",
            f"holds a whole dialogue of Human: and Assistant: turns (as HH-RLHF does); {AS_TEXTS}",
        )
    if isinstance(record.get("instruction"), str) and {"chosen", "rejected"} <= record.keys():
        remedy = "write both as one text under 'prompt'"
        return (
            "instruction",
            f"is a prompt in two parts, 'instruction' and 'input' (Alpaca's form); {remedy}",
        )
    if _is_message(record.get("conversations")):
        return (
            "conversations",
            f"holds messages, where a text belongs (ShareGPT's form); {AS_TEXTS}",
        )
    return None


def _is_message(value: object) -> bool:
    """Return whether `value` is a message, or a list that starts with one.

    A message is `{"role": ..., "content": ...}` or `{"from": ..., "value": ...}`.
    """
    if isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, dict) and (
        {"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()
    )
