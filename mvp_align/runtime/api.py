"""Where a model without weights is asked: a part of the config."""

from dataclasses import dataclass, field


@dataclass
class Api:
    """A server with an OpenAI-compatible interface, for `mvp-align answer` (docs/answers.md)."""

    base_url: str | None = None
    """Up to and including /v1. null: the model has weights, which this machine loads."""
    key_env: str | None = None
    """The NAME of the environment variable that holds the server's key."""
    max_tokens_parameter: str = "max_tokens"
    """The server's name for `generation.max_new_tokens`: max_completion_tokens for OpenAI's
    reasoning models."""
    leave_out: list[str] = field(
        default_factory=list, metadata={"choices": ("temperature", "seed")}
    )
    """Parameters that the server refuses, which are then not sent."""
    concurrency: int = 8
    """Requests in flight at once."""
    requests_per_minute: float = 600.0
    """Attempts that may start in a minute, evenly spaced."""
    reply_seconds: float = 60.0
    """Longest silence of the server; a whole reply may take twice as long."""
    usd_per_million_input: float = 0.0
    """USD for a million tokens of prompts. 0: nothing, or not known."""
    usd_per_million_output: float = 0.0
    """USD for a million tokens of answers."""
    limit_usd: float = 5.0
    """Answers that may cost more are asked for only after consent."""
