"""Find the one JSON object that a reply states. Nothing is guessed.

Reasoning is removed first. Words before the object and a Markdown fence around it are allowed,
because models without structured output add them; so is the same object again. Not allowed are
words after it, which may take it back, another object, an unmatched brace, or a repeated key,
because then it is unclear which one counts.
"""

import json
import re
from typing import Any

from mvp_align.generation.completion import Unparsed
from mvp_align.generation.reasoning import CLOSING, strip_reasoning

MARKUP = re.compile(r"<\|\w+\|>|</?(?:answer|response|output)>", re.IGNORECASE)
"""Tags that models put around a reply, and special tokens that servers leave in it."""
WHOLE = re.compile(r"\s*(?:```\w*)?\s*(\{.*\})\s*(?:```)?\s*", re.DOTALL)


def one_object(text: str) -> dict[str, Any]:
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
