"""Estimate the maximum cost of judging, and report the actual cost."""

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
from mvp_align.judging.asking import RunStats
from mvp_align.judging.judges import Judge
from mvp_align.judging.prompts import Request

TOKENS_A_MESSAGE = 8
"""Upper bound of tokens that a chat template adds to a message."""
BYTES_A_TOKEN = 3
"""Used without a tokenizer. English has 4 to 5 bytes per token, so this overestimates the cost."""


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """Requests that remain for a judge, and their tokens.

    `completion_tokens` counts replies of maximum length, and is None if nothing limits them.
    """

    judge: Judge
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
                if self.judge.usd_per_million_output
                else _usd(self.judge, self.prompt_tokens, 0)
            )
        return _usd(self.judge, self.prompt_tokens, self.completion_tokens)

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
            f"{self.judge.name} ({self.judge.endpoint.model}): {self.requests:,} requests"
            f" ({self.kept:,} replies are kept already), about {self.prompt_tokens:,} tokens in,"
            f" {out}, {most} USD"
        )


def _usd(judge: Judge, prompt_tokens: int, completion_tokens: int) -> float:
    return (
        judge.usd_per_million_input * prompt_tokens
        + judge.usd_per_million_output * completion_tokens
    ) / 1e6


def token_counter(run: Path) -> Callable[[str], int]:
    """Return a counter that uses the tokenizer next to the run's adapter, or bytes.

    Loading the judges' own tokenizers would need a network. They have larger vocabularies, so they
    make fewer tokens of the same text.
    """
    path = run / "adapter" / "tokenizer.json"
    if not path.is_file():
        return lambda text: -(-len(text.encode("utf-8", "replace")) // BYTES_A_TOKEN)
    tokenizer = Tokenizer.from_file(str(path))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def estimate(
    judge: Judge,
    ask: str,
    requests: Mapping[str, Request],
    kept: Iterable[str],
    count: Callable[[str], int],
) -> CostEstimate:
    """Estimate the cost of requests of kind `ask` (scores or yes_no) that have no reply yet."""
    known = set(kept)
    todo = [request for key, request in requests.items() if key not in known]
    counted: dict[str, int] = {}  # the task is the same in all
    prompt_tokens = 0
    for message in (message for request in todo for message in request.messages):
        text = message["content"]
        if text not in counted:
            counted[text] = count(text)
        prompt_tokens += counted[text] + TOKENS_A_MESSAGE
    longest = judge.longest(ask)
    completion_tokens = longest * len(todo) if longest is not None else None if todo else 0
    return CostEstimate(
        judge, len(todo), len(requests) - len(todo), prompt_tokens, completion_tokens
    )


def confirm_cost(estimates: Sequence[CostEstimate], limit_usd: float, yes: bool) -> None:
    """Show the maximum cost, and ask for confirmation if it exceeds the limit.

    Raises UserError if the user declines, or if there is no terminal to ask on.
    """
    for one in estimates:
        typer.echo(one)
    total = sum(one.usd for one in estimates)
    if total <= limit_usd or yes:
        return
    most = "any number of" if isinf(total) else f"{total:,.2f}"
    over = f"Judging may cost {most} USD, above --limit-usd {limit_usd:g}"
    if not sys.stdin.isatty():
        raise UserError(f"{over}: nothing was asked. Raise the limit, or add --yes.")
    if not typer.confirm(f"{over}. Go on?"):
        raise UserError("Nothing was asked.")


def usage_summary(judge: Judge, asked: RunStats) -> str:
    """Describe what was used, by the server's own counts."""
    cost = _usd(judge, asked.prompt_tokens, asked.completion_tokens)
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
        f"{judge.name}: {asked.replies:,} replies, {asked.prompt_tokens:,} tokens in,"
        f" {asked.completion_tokens:,} out, {cost:,.2f} USD{uncounted}{failed}"
    )
