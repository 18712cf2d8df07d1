"""What the body of a chat completion says, in the shapes that OpenAI-compatible servers give it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FINISHED = ("", "stop", "eos", "eos_token", "end_turn", "stop_sequence")
"""Finish reasons of a message that came to its own end; some servers name none."""
CUT = ("length", "max_tokens", "max_output_tokens", "model_length")
"""Finish reasons of one that met the token limit, or the model's context."""
FILTERED = ("content_filter", "safety", "prohibited_content", "refusal")
REASONING_FIELDS = ("reasoning_content", "reasoning")
REASONING_PARTS = ("thinking", "reasoning", "redacted_thinking")
NO_COMPLETION = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading a body raises that is no chat completion."""


@dataclass(frozen=True, slots=True)
class Said:
    """A model's message."""

    text: str
    """Empty where it said nothing."""
    finish_reason: str = "stop"
    refused: bool = False
    """It declined, in the field or part that servers have for that."""
    reasoned: bool = False
    """It has reasoning in a field or part of its own, which is not in `text`."""

    @property
    def cut(self) -> bool:
        """Whether it met the token limit."""
        return self.finish_reason.lower() in CUT

    @property
    def withheld(self) -> str:
        """Why `text` is not what the model had to say; empty where it is, if perhaps cut."""
        if self.refused:
            return "the model refused"
        reason = self.finish_reason.lower()
        if reason in FILTERED:
            return "stopped by a content filter"
        return "" if reason in FINISHED or self.cut else f"ended by {reason[:40]}"


def said_in(body: Any) -> Said:
    """The first choice's message in a parsed body. Raises NO_COMPLETION where there is none."""
    choice = body["choices"][0]
    message = choice["message"]
    refused = bool(message.get("refusal"))
    reasoned = any(message.get(name) for name in REASONING_FIELDS)
    content = message.get("content") if refused or reasoned else message["content"]
    if not isinstance(content, str | list | None):
        raise TypeError(type(content).__name__)
    texts: list[str] = []
    for part in [content] if isinstance(content, str) else content or []:
        match part:
            case str():
                texts.append(part)
            case {"type": "text" | "output_text", "text": str(text)}:
                texts.append(text)
            case {"type": "refusal"}:
                refused = True
            case {"type": kind} if kind in REASONING_PARTS:
                reasoned = True
            case _:
                raise TypeError("a part that is no text")
    return Said("".join(texts), str(choice.get("finish_reason") or ""), refused, reasoned)


def token_count(usage: object, name: str) -> int | None:
    """A token count as a server reports it; None where it reports none, or nonsense."""
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and 0 <= value < 2**53 else None
