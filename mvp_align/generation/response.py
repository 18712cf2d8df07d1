"""What a server's response means: a reply, a failure of this request that may pass or not, or the
end of all requests."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import SecretStr

from mvp_align.errors import UserError
from mvp_align.generation.completion import NO_COMPLETION, Completion, parse_completion, token_count
from mvp_align.generation.endpoint import Endpoint
from mvp_align.runtime.http_retries import RETRY_STATUSES, parse_retry_after

NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached")
"""OpenAI's error codes that come with 429 and do not pass."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server answered. Token counts are the server's, None where it gave none."""

    completion: Completion
    model: str
    """The model's name as the server reports it, often with a date."""
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    """Of the attempt that succeeded."""
    raw: str
    """The whole body."""
    response_format: str
    """json_schema, json_object or text: what the server was asked for in the end."""
    failures: tuple[str, ...] = ()
    """Why earlier attempts failed."""


class CallFailed(Exception):
    """No reply to this request; the next one may have one. `reason` is short and the same for the
    same cause; `status` is the last HTTP status, None where there was none."""

    def __init__(self, reason: str, failures: Sequence[str], status: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.failures, self.status = reason, tuple(failures), status

    @property
    def words(self) -> str:
        """The reason with what the server said of it."""
        return self.failures[-1] if self.failures else self.reason

    @property
    def may_pass(self) -> bool:
        """Whether the server failed, rather than refuse the request or answer nonsense."""
        return self.status is None or self.status in RETRY_STATUSES


class AttemptFailed(Exception):
    """One request came to nothing. `wait_seconds` is what the server asked for before the next
    one."""

    def __init__(
        self,
        reason: str,
        detail: str = "",
        *,
        again: bool,
        wait_seconds: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.again = reason, detail, again
        self.wait_seconds, self.status = wait_seconds, status


@dataclass(frozen=True, slots=True)
class Response:
    """Status, `Retry-After` header and body of one request."""

    endpoint: Endpoint
    key: SecretStr | None
    """What the request was authorised by; where the server repeats it, it is blotted out."""
    status: int
    retry_after: str
    content: bytes

    def reply(self, response_format: str, seconds: float, failures: tuple[str, ...]) -> Reply:
        """The reply in a body of HTTP 200. Raises AttemptFailed where that is no chat
        completion."""
        raw = self._clean(self.content.decode("utf-8", "replace"))
        try:
            body = json.loads(raw)
            completion = parse_completion(body)
        except NO_COMPLETION:
            start = " ".join(raw.split())[:80]
            problem = "HTTP 200 without a chat completion"
            raise AttemptFailed(problem, start or "empty", again=True, status=200) from None
        usage = body.get("usage")
        return Reply(
            completion=replace(
                completion,
                text=self._clean(completion.text),
                finish_reason=self._clean(completion.finish_reason),
            ),
            model=self._clean(str(body.get("model") or self.endpoint.model)),
            prompt_tokens=token_count(usage, "prompt_tokens"),
            completion_tokens=token_count(usage, "completion_tokens"),
            seconds=seconds,
            raw=raw,
            response_format=response_format,
            failures=failures,
        )

    def refusal(self) -> AttemptFailed:
        """What a status other than 200 means for this request. Raises UserError where it means the
        same for all."""
        who, where, status = self.endpoint.model, self.endpoint.base_url, self.status
        code, said = self._error()
        if status == 401:
            named = (
                f"the key in {self.endpoint.key_env}"
                if self.endpoint.key_env
                else "a request without a key"
            )
            raise UserError(
                f"{who}: {where} does not accept {named} (HTTP 401). Set key_env and that variable."
            )
        if status == 402 or (status == 429 and code in NO_CREDIT):
            raise UserError(
                f"{who}: {where} says that the account has no credit left (HTTP {status}). Nothing"
                " is lost."
            )
        if status == 404:
            raise UserError(
                f"{who}: {where} knows no such address or model (HTTP 404: {said}). See base_url"
                " and model."
            )
        wait = parse_retry_after(self.retry_after) if status in RETRY_STATUSES else None
        if wait is not None and wait > self.endpoint.max_wait_seconds:
            raise UserError(
                f"{who}: {where} asks to be left alone for {wait:,.0f} s (HTTP {status}),"
                f" longer than max_wait_seconds={self.endpoint.max_wait_seconds:,.0f}. What was"
                " answered is kept: run the same command again then."
            )
        return AttemptFailed(
            f"HTTP {status}", said, again=status in RETRY_STATUSES, wait_seconds=wait, status=status
        )

    def _error(self) -> tuple[str, str]:
        """The code and the words of an error's body, the latter on one line of at most 200
        characters."""
        text = self._clean(self.content.decode("utf-8", "replace"))
        try:
            error = json.loads(text)["error"]
            code, said = str(error["code"]), str(error["message"])
        except (ValueError, LookupError, TypeError, RecursionError):
            code, said = "", text
        return code, " ".join(self._clean(said).split())[:200]

    def _clean(self, text: str) -> str:
        """`text` as UTF-8 can hold it (JSON can name half of a surrogate pair), the key blotted
        out."""
        whole = text.encode("utf-8", "replace").decode()
        return (
            whole.replace(self.key.get_secret_value(), "[key]") if self.key is not None else whole
        )
