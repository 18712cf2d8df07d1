"""Remove the reasoning that a model wrote before its reply. Drafts in it do not count.

Servers that know a model's reasoning format return it in a separate field. Otherwise it is part of
the text, between markers that differ by model. The opening marker may be part of the prompt, so
sometimes only the closing one appears.
"""

import re

from mvp_align.generation.completion import Unparsed

NAMES = r"(?:seed:|ant)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad)"
OPENING = re.compile(
    rf"<\|?{NAMES}\b[^<>]*>|\[think\]|◁think▷|<\|(?:start_|begin_of_){NAMES}\|>|<\|inner_prefix\|>|<\|channel>thought"
    r"|here(?:'s| is) my thought process:",
    re.IGNORECASE,
)
CLOSING = re.compile(
    rf"</\|?{NAMES}\|?>|\[/think\]|◁/think▷|<\|(?:end_|end_of_){NAMES}\|>(?:\s*<\|\w+\|>)?|<\|inner_suffix\|>|<channel\|>"
    r"|here(?:'s| is) my response:",
    re.IGNORECASE,
)
"""Formats of reasoning models.

DeepSeek-R1, Qwen, GLM and most others; Magistral; Kimi; Command A, OpenThinker; Apertus; Gemma;
Granite.
"""
CHANNEL = re.compile(
    r"<\|channel\|>\s*(\w+)(?:\s+to=[^<]*)?(?:\s*<\|constrain\|>\s*\w*)?(?:\s*<\|message\|>)?"
)
"""gpt-oss names a channel for every part of a message; the reply is in `final`."""
STRIPPED = re.compile(r"\s*(?:analysis|commentary)(?=\w|\s*\{)(.*assistantfinal)?", re.DOTALL)
"""The same, if a server removed the special tokens but left their words."""


def strip_reasoning(text: str) -> str:
    """Return what a model says after its reasoning, or the whole text if it has none.

    Raises Unparsed if the reasoning never ends, or if nothing follows it.
    """
    rest = _behind_channels(text)
    opened, closed = len(OPENING.findall(rest)), list(CLOSING.finditer(rest))
    if opened > len(closed) or (closed and OPENING.search(rest, closed[-1].end())):
        raise Unparsed("unfinished reasoning")
    if closed:
        rest = rest[closed[-1].end() :]
    if not rest.strip() and text.strip():
        raise Unparsed("nothing behind its reasoning")
    return rest


def _behind_channels(text: str) -> str:
    channels = list(CHANNEL.finditer(text))
    if channels:
        if channels[-1].group(1) != "final":
            raise Unparsed("unfinished reasoning")
        return text[channels[-1].end() :]
    stripped = STRIPPED.match(text)
    if stripped is None:
        return text
    if stripped.group(1) is None:
        raise Unparsed("unfinished reasoning")
    return _behind_channels(text[stripped.end() :])
