"""Parse the body of a chat completion, in the variants of OpenAI-compatible servers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FINISHED = ("", "stop", "eos", "eos_token", "end_turn", "stop_sequence")
"""Finish reasons of complete messages. Some servers give none."""
CUT = ("length", "max_tokens", "max_output_tokens", "model_length")
"""Finish reasons of messages cut at the token limit or at the model's context."""
FILTERED = ("content_filter", "safety", "prohibited_content", "refusal")
REASONING_FIELDS = ("reasoning_content", "reasoning")
REASONING_PARTS = ("thinking", "reasoning", "redacted_thinking")
NO_COMPLETION = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""Exceptions from reading a body that is not a chat completion."""


class Unparsed(Exception):
    """The reply is not what was asked for. Equal causes have equal messages."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's message."""

    text: str
    """Empty if the model said nothing."""
    finish_reason: str = "stop"
    refused: bool = False
    """The model declined, in the server's field or part for refusals."""
    reasoned: bool = False
    """The model sent reasoning in a separate field or part, which is not in `text`."""

    @property
    def cut(self) -> bool:
        """Whether the message reached the token limit."""
        return self.finish_reason.lower() in CUT

    @property
    def withheld(self) -> str:
        """Why `text` is not the model's message; empty if it is, even if cut."""
        if self.refused:
            return "the model refused"
        reason = self.finish_reason.lower()
        if reason in FILTERED:
            return "stopped by a content filter"
        return "" if reason in FINISHED or self.cut else f"ended by {reason[:40]}"

    def whole_text(self, longest: int | None) -> str:
        """Return the text of a whole reply to a request for at most `longest` tokens.

        Raises Unparsed. A reply that was cut or stopped never counts, even if it contains what was
        asked for: its end might have taken that back.
        """
        if self.withheld:
            raise Unparsed(self.withheld)
        alone = " in its reasoning" if self.reasoned and not self.text.strip() else ""
        if self.cut:
            raise Unparsed(
                (f"cut at {longest} tokens" if longest else "cut at the server's token limit")
                + alone
            )
        if alone:
            raise Unparsed("nothing behind its reasoning")
        return self.text


def parse_completion(body: Any) -> Completion:
    """Return the first choice's message in a parsed body. Raises NO_COMPLETION if there is none."""
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
    return Completion("".join(texts), str(choice.get("finish_reason") or ""), refused, reasoned)


def token_count(usage: object, name: str) -> int | None:
    """Return a token count reported by a server, or None if it is missing or invalid."""
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and 0 <= value < 2**53 else None
