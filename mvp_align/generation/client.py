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
from dataclasses import dataclass, field
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
from mvp_align.generation.endpoint import Endpoint
from mvp_align.generation.response import AttemptFailed, CallFailed, Reply, Response

Message = Mapping[str, str]
"""`{"role": "system" | "user" | "assistant", "content": ...}`"""

NOT_UNDERSTOOD = (400, 422)
"""What servers answer to a `response_format` that they do not have (and to an input that they
cannot take)."""


@dataclass
class ChatClient:
    """An open connection to an endpoint, to be used as an async context manager in one event
    loop."""

    endpoint: Endpoint
    lacks: int = field(default=0, init=False)
    """How many of the response formats, best first, this server turned out not to have."""

    def __post_init__(self) -> None:
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
            response = await self.exchange(body)
        if response.status == 200:
            return response.reply(response_format, time.monotonic() - began, failures)
        failed = response.refusal()
        if failed.wait_seconds is not None:
            self.resume_at = max(self.resume_at, clock() + failed.wait_seconds)
        raise failed

    async def exchange(self, body: bytes) -> Response:
        """The response to one request. Raises AttemptFailed where there is no whole one within the
        limits."""
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
                return Response(
                    self.endpoint,
                    self.key,
                    response.status_code,
                    response.headers.get("retry-after", ""),
                    bytes(content),
                )
        except (TimeoutError, httpx.TimeoutException) as error:
            raise AttemptFailed("timed out", type(error).__name__, again=True) from None
        except httpx.TransportError as error:
            raise AttemptFailed("connection failed", type(error).__name__, again=True) from None


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
