"""Estimate the maximum cost of requests to chat models, and report the actual cost."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isinf
from pathlib import Path

import typer
from tokenizers import Tokenizer
from typing_extensions import override

from mvp_align.errors import UserError
from mvp_align.generation.asking import RunStats
from mvp_align.generation.chat_model import ChatModel
from mvp_align.generation.chat_request import ChatRequest

TOKENS_A_MESSAGE = 8
"""Upper bound of tokens that a chat template adds to a message."""
BYTES_A_TOKEN = 3
"""Used without a tokenizer. English has 4 to 5 bytes per token, so this overestimates the cost."""


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """Requests that remain for a model, and their tokens.

    `completion_tokens` counts replies of maximum length, and is None if nothing limits them.
    """

    model: ChatModel
    requests: int
    kept: int
    prompt_tokens: int
    completion_tokens: int | None

    @property
    def usd(self) -> float:
        """The maximum cost in USD.

        Infinite if replies cost money and nothing limits their length.
        """
        if self.completion_tokens is None:
            return (
                inf
                if self.model.usd_per_million_output
                else _usd(self.model, self.prompt_tokens, 0)
            )
        return _usd(self.model, self.prompt_tokens, self.completion_tokens)

    def __add__(self, other: "CostEstimate") -> "CostEstimate":
        """Return the estimate of both parts of the same model's requests."""
        mine, theirs = self.completion_tokens, other.completion_tokens
        return CostEstimate(
            self.model,
            self.requests + other.requests,
            self.kept + other.kept,
            self.prompt_tokens + other.prompt_tokens,
            None if mine is None or theirs is None else mine + theirs,
        )

    @override
    def __str__(self) -> str:
        bounded = self.completion_tokens is not None
        out = (
            f"at most {self.completion_tokens:,} out"
            if bounded
            else "any number out (no limit is sent)"
        )
        most = "any number of" if isinf(self.usd) else f"at most {self.usd:,.2f}"
        return (
            f"{self.model.name} ({self.model.endpoint.model}): {self.requests:,} requests"
            f" ({self.kept:,} replies are kept already), about {self.prompt_tokens:,} tokens in,"
            f" {out}, {_price(self.model, most)}"
        )


def _price(model: ChatModel, usd: str) -> str:
    """Return an amount in words. Without any price it would always be zero, so it is none."""
    priced = model.usd_per_million_input or model.usd_per_million_output
    return f"{usd} USD" if priced else "no price known"


def _usd(model: ChatModel, prompt_tokens: int, completion_tokens: int) -> float:
    return (
        model.usd_per_million_input * prompt_tokens
        + model.usd_per_million_output * completion_tokens
    ) / 1e6


def tokens_by_bytes(text: str) -> int:
    """Return how many tokens `text` has at most, in practice, if each has BYTES_A_TOKEN bytes."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_A_TOKEN)


def token_counter(run: Path) -> Callable[[str], int]:
    """Return a counter that uses the tokenizer next to the run's adapter, or bytes.

    Loading the models' own tokenizers would need a network. They have larger vocabularies, so they
    make fewer tokens of the same text.
    """
    path = run / "adapter" / "tokenizer.json"
    if not path.is_file():
        return tokens_by_bytes
    tokenizer = Tokenizer.from_file(str(path))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def estimate(
    model: ChatModel,
    longest: int | None,
    requests: Mapping[str, ChatRequest],
    kept: Iterable[str],
    count: Callable[[str], int],
) -> CostEstimate:
    """Estimate the cost of requests that have no reply yet. `longest` limits a reply's tokens."""
    known = set(kept)
    todo = [request for key, request in requests.items() if key not in known]
    counted: dict[str, int] = {}  # the task is the same in all
    prompt_tokens = 0
    for message in (message for request in todo for message in request.messages):
        text = message["content"]
        if text not in counted:
            counted[text] = count(text)
        prompt_tokens += counted[text] + TOKENS_A_MESSAGE
    completion_tokens = longest * len(todo) if longest is not None else None if todo else 0
    return CostEstimate(
        model, len(todo), len(requests) - len(todo), prompt_tokens, completion_tokens
    )


def confirm_cost(
    estimates: Sequence[CostEstimate],
    limit_usd: float,
    *,
    yes: bool,
    task: str,
    limit: str = "--limit-usd",
) -> None:
    """Show the maximum cost of `task` (Judging), and ask for confirmation above the limit.

    `limit` is what the user sets it by.

    Raises UserError if the user declines, or if there is no terminal to ask on.
    """
    for one in estimates:
        typer.echo(one)
    total = sum(one.usd for one in estimates)
    if total <= limit_usd or yes:
        return
    most = "any number of" if isinf(total) else f"{total:,.2f}"
    over = f"{task} may cost {most} USD, above {limit} {limit_usd:g}"
    if not sys.stdin.isatty():
        consent = ", or add --yes" if limit.startswith("--") else ""
        raise UserError(f"{over}: nothing was asked. Raise the limit{consent}.")
    if not typer.confirm(f"{over}. Go on?"):
        raise UserError("Nothing was asked.")


def usage_summary(model: ChatModel, asked: RunStats) -> str:
    """Describe what was used, by the server's own counts."""
    cost = _usd(model, asked.prompt_tokens, asked.completion_tokens)
    uncounted = (
        f", not counting {asked.uncounted:,} replies whose tokens the server did not tell"
        if asked.uncounted
        else ""
    )
    reasons = Counter(asked.unanswered.values()).most_common()
    failed = "".join(
        f"; {number:,} requests got no reply: {asked.words[reason]}" for reason, number in reasons
    )
    return (
        f"{model.name}: {asked.replies:,} replies, {asked.prompt_tokens:,} tokens in,"
        f" {asked.completion_tokens:,} out, {_price(model, f'{cost:,.2f}')}{uncounted}{failed}"
    )
