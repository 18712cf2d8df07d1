"""Chat completions from any OpenAI-compatible server: polite to it, and never fooled by it.

Built on httpx and tenacity, not on the `openai` package: that one reads a body to its end before
anybody can see how large it is, and retries by rules of its own under ours. Here a body is read up
to a cap, compressed ones are refused (so that the cap means bytes in memory), redirects are not
followed (they would carry the key elsewhere), and each attempt is one request that the limits below
count.

    async with ChatClient(Endpoint("http://localhost:8000/v1", "my-model")) as client:
        reply = await client.complete([{"role": "user", "content": "Hello"}], {"temperature": 0,
        "max_tokens": 360})

The key comes from the environment variable that the endpoint names. It is in no message, and where
a server repeats it in what it sends, it is blotted out.
"""

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx
from aiolimiter import AsyncLimiter
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from mvp_align import __version__
from mvp_align.errors import UserError, listed
from mvp_align.generation.completion import NO_COMPLETION, Said, said_in, token_count
from mvp_align.generation.endpoint import Endpoint

Message = Mapping[str, str]
"""`{"role": "system" | "user" | "assistant", "content": ...}`"""

AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529)
"""HTTP statuses that may pass."""
NOT_UNDERSTOOD = (400, 422)
"""What servers answer to a `response_format` that they do not have (and to an input that they
cannot take)."""
NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached")
"""OpenAI's error codes that come with 429 and do not pass."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server answered. Token counts are the server's, None where it gave none."""

    said: Said
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
        return self.status is None or self.status in AGAIN


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


@dataclass
class ChatClient:
    """An open connection to an endpoint, to be used as an async context manager in one event
    loop."""

    endpoint: Endpoint
    lacks: int = field(default=0, init=False)
    """How many of the response formats, best first, this server turned out not to have."""

    def __post_init__(self) -> None:
        if found := self.endpoint.problems():
            raise listed(found, f"The endpoint of {self.endpoint.model} cannot work:")
        self.key = self.endpoint.key()

    async def __aenter__(self) -> Self:
        limits = self.endpoint
        self.slots = asyncio.Semaphore(limits.concurrency)
        per_second = limits.requests_per_minute / 60
        self.limiter = AsyncLimiter(max(1.0, per_second), max(1.0, 1 / per_second))
        self.resume_at = 0.0
        headers = {"accept-encoding": "identity", "user-agent": f"mvp-align/{__version__}"}
        if self.key is not None:
            headers["authorization"] = f"Bearer {self.key.get_secret_value()}"
        self.http = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(limits.read_seconds, connect=limits.connect_seconds, pool=None),
            limits=httpx.Limits(max_connections=limits.concurrency),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.http.aclose()

    async def complete(
        self,
        messages: Sequence[Message],
        parameters: Mapping[str, Any],
        json_schema: Mapping[str, Any] | None = None,
    ) -> Reply:
        """One reply to `messages`. `parameters` are sent as they are (temperature, max_tokens,
        seed, ...).

        With `json_schema` the server is asked for JSON of that shape; one that answers 400 or 422
        to it is asked for any JSON, then for text, and not asked for more again once that worked;
        not where it says that one of `parameters` is what it refuses. What comes back is not
        checked against the schema.

        Raises:
            CallFailed: the request was refused for good, or `attempts` came to nothing.
            UserError: nothing can come of further requests either (key refused, no credit, unknown
            model).
        """
        formats = _response_formats(json_schema)
        failures: list[str] = []
        for level in range(min(self.lacks, len(formats) - 1), len(formats)):
            name, extra = formats[level]
            body = {
                "model": self.endpoint.model,
                "messages": list(messages),
                **parameters,
                **extra,
                "stream": False,
            }
            try:
                reply = await self.persist(
                    json.dumps(body, allow_nan=False).encode(), name, failures
                )
            except AttemptFailed as failed:
                of_format = "response_format" in failed.detail or not any(
                    name in failed.detail for name in parameters
                )
                if failed.status in NOT_UNDERSTOOD and of_format and level + 1 < len(formats):
                    continue
                raise CallFailed(failed.reason, failures, failed.status) from None
            if json_schema is not None:
                self.lacks = max(self.lacks, level)
            return reply
        raise AssertionError("the last format returns or raises")

    async def persist(self, body: bytes, response_format: str, failures: list[str]) -> Reply:
        """Attempts until one succeeds or none may follow; adds to `failures` why each failed."""

        async def attempt() -> Reply:
            try:
                return await self.attempt(body, response_format, tuple(failures))
            except AttemptFailed as failed:
                failures.append(
                    f"{failed.reason}: {failed.detail}" if failed.detail else failed.reason
                )
                raise

        retrying = AsyncRetrying(
            retry=retry_if_exception(
                lambda error: isinstance(error, AttemptFailed) and error.again
            ),
            stop=stop_after_attempt(self.endpoint.attempts),
            wait=self.wait_seconds,
            reraise=True,
        )
        return await retrying(attempt)

    def wait_seconds(self, state: RetryCallState) -> float:
        """Full jitter (Brooker 2015, "Exponential Backoff And Jitter"), or what the server asked
        for and a little."""
        first = self.endpoint.backoff_seconds
        failed = state.outcome.exception() if state.outcome else None
        if isinstance(failed, AttemptFailed) and failed.wait_seconds is not None:
            return failed.wait_seconds + random.uniform(0, first)
        return float(wait_random_exponential(multiplier=first, max=60)(state))

    async def attempt(self, body: bytes, response_format: str, failures: tuple[str, ...]) -> Reply:
        async with self.slots:
            clock = asyncio.get_running_loop().time
            # another request was told to wait: that holds for all
            while (pause := self.resume_at - clock()) > 0:
                await asyncio.sleep(pause + random.uniform(0, self.endpoint.backoff_seconds))
            await self.limiter.acquire()
            began = time.monotonic()
            status, headers, content = await self.exchange(body)
        if status != 200:
            raise self.refusal(status, headers, content)
        return self.read(content, response_format, time.monotonic() - began, failures)

    async def exchange(self, body: bytes) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and body of one request. Raises AttemptFailed where there is no whole
        answer within the limits."""
        url = f"{self.endpoint.base_url.rstrip('/')}/chat/completions"
        cap = self.endpoint.max_body_bytes
        content = bytearray()
        try:
            async with (
                asyncio.timeout(self.endpoint.total_seconds),
                self.http.stream(
                    "POST", url, content=body, headers={"content-type": "application/json"}
                ) as response,
            ):
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise AttemptFailed("compressed body", again=False, status=response.status_code)
                async for chunk in response.aiter_raw():
                    content += chunk
                    if len(content) > cap:
                        raise AttemptFailed(
                            f"body over {cap:,} bytes", again=False, status=response.status_code
                        )
                return response.status_code, response.headers, bytes(content)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise AttemptFailed("timed out", type(error).__name__, again=True) from None
        except httpx.TransportError as error:
            raise AttemptFailed("connection failed", type(error).__name__, again=True) from None

    def refusal(self, status: int, headers: httpx.Headers, content: bytes) -> AttemptFailed:
        """What a status other than 200 means for this request. Raises UserError where it means the
        same for all."""
        who, where = self.endpoint.model, self.endpoint.base_url
        code, said = self.error_of(content)
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
        wait = retry_after(headers.get("retry-after", "")) if status in AGAIN else None
        if wait is not None:
            if wait > self.endpoint.max_wait_seconds:
                raise UserError(
                    f"{who}: {where} asks to be left alone for {wait:,.0f} s (HTTP {status}),"
                    f" longer than max_wait_seconds={self.endpoint.max_wait_seconds:,.0f}. What was"
                    " answered is kept: run the same command again then."
                )
            self.resume_at = max(self.resume_at, asyncio.get_running_loop().time() + wait)
        return AttemptFailed(
            f"HTTP {status}", said, again=status in AGAIN, wait_seconds=wait, status=status
        )

    def error_of(self, content: bytes) -> tuple[str, str]:
        """The code and the words of an error's body, the latter on one line of at most 200
        characters."""
        text = self.clean(content.decode("utf-8", "replace"))
        try:
            error = json.loads(text)["error"]
            code, said = str(error["code"]), str(error["message"])
        except (ValueError, LookupError, TypeError, RecursionError):
            code, said = "", text
        return code, " ".join(self.clean(said).split())[:200]

    def read(
        self, content: bytes, response_format: str, seconds: float, failures: tuple[str, ...]
    ) -> Reply:
        """The reply in a body of HTTP 200. Raises AttemptFailed where that is no chat
        completion."""
        raw = self.clean(content.decode("utf-8", "replace"))
        try:
            body = json.loads(raw)
            said = said_in(body)
        except NO_COMPLETION:
            start = " ".join(raw.split())[:80]
            problem = "HTTP 200 without a chat completion"
            raise AttemptFailed(problem, start or "empty", again=True, status=200) from None
        usage = body.get("usage")
        return Reply(
            said=replace(
                said, text=self.clean(said.text), finish_reason=self.clean(said.finish_reason)
            ),
            model=self.clean(str(body.get("model") or self.endpoint.model)),
            prompt_tokens=token_count(usage, "prompt_tokens"),
            completion_tokens=token_count(usage, "completion_tokens"),
            seconds=seconds,
            raw=raw,
            response_format=response_format,
            failures=failures,
        )

    def clean(self, text: str) -> str:
        """`text` as UTF-8 can hold it (JSON can name half of a surrogate pair), the key blotted
        out."""
        whole = text.encode("utf-8", "replace").decode()
        return (
            whole.replace(self.key.get_secret_value(), "[key]") if self.key is not None else whole
        )


def _response_formats(json_schema: Mapping[str, Any] | None) -> list[tuple[str, dict[str, Any]]]:
    """Ways to ask for the shape of a reply, best first."""
    plain: list[tuple[str, dict[str, Any]]] = [("text", {})]
    if json_schema is None:
        return plain
    shape = {
        "type": "json_schema",
        "json_schema": {"name": "reply", "strict": True, "schema": json_schema},
    }
    return [
        ("json_schema", {"response_format": shape}),
        ("json_object", {"response_format": {"type": "json_object"}}),
        *plain,
    ]


def retry_after(value: str) -> float | None:
    """Seconds from now on that a Retry-After header asks for, given in seconds or as a date; None
    where it is neither."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds == seconds and seconds != float("inf") else None
