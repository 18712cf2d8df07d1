"""The chat client against server errors: retries, refusals, timeouts, and secrets."""

import asyncio
import json
import logging
import math
import re
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from judge_server import completion
from pydantic import ValidationError

from mvp_align.errors import UserError
from mvp_align.generation.client import ChatClient
from mvp_align.generation.completion import Completion
from mvp_align.generation.endpoint import Endpoint
from mvp_align.generation.response import CallFailed, Reply
from mvp_align.runtime.yaml_files import validate_settings

CANARY = "canary-d41f-key"
ASK = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}

Answer = Callable[[dict, str, asyncio.StreamWriter], Awaitable[None]]
"""Takes the request's body and head, and writes the response."""


@asynccontextmanager
async def served(answer: Answer, **settings: object) -> AsyncIterator[ChatClient]:
    """A client of a server that answers so, with one connection per request."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            body = json.loads(await reader.readexactly(int(length.group(1)))) if length else {}
            await answer(body, head, writer)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    quick = {
        "attempts": 3,
        "backoff_seconds": 0.01,
        "read_seconds": 5.0,
        "requests_per_minute": 1e6,
    }
    try:
        async with ChatClient(Endpoint(url, "m", **(quick | settings))) as client:
            yield client
    finally:
        server.close()


def respond(writer: asyncio.StreamWriter, status: int, body: bytes, *headers: str) -> None:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *headers]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def ask_once(answer: Answer, schema: dict | None = None, **settings: object) -> Reply:
    async def run() -> Reply:
        async with served(answer, **settings) as client:
            return await client.complete(ASK, {"temperature": 0}, schema)

    return asyncio.run(run())


def always(status: int, body: bytes, *headers: str) -> Answer:
    async def answer(_: dict, __: str, writer: asyncio.StreamWriter) -> None:
        respond(writer, status, body, *headers)

    return answer


def first_then_good(status: int, body: bytes, *headers: str) -> tuple[Answer, list[float]]:
    times: list[float] = []

    async def answer(_: dict, __: str, writer: asyncio.StreamWriter) -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            respond(writer, status, body, *headers)
        else:
            respond(writer, 200, completion("Hi."))

    return answer, times


def test_a_reply_is_parsed_completely() -> None:
    seen: list[dict] = []

    async def answer(body: dict, head: str, writer: asyncio.StreamWriter) -> None:
        seen.append(body)
        assert "accept-encoding: identity" in head.lower()
        assert "authorization" not in head.lower()
        respond(writer, 200, completion("Hi."))

    reply = ask_once(answer)
    assert (reply.completion, reply.model) == (Completion("Hi.", "stop"), "a-judge-2025")
    assert (reply.prompt_tokens, reply.completion_tokens, reply.response_format) == (
        400,
        50,
        "text",
    )
    assert json.loads(reply.raw)["id"] == "x"
    assert seen == [{"model": "m", "messages": ASK, "temperature": 0, "stream": False}]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_temporary_failures_are_retried(status: int) -> None:
    answer, times = first_then_good(status, b'{"error": {"message": "later", "code": 3}}')
    assert ask_once(answer).failures == (f"HTTP {status}: later",)
    assert len(times) == 2


@pytest.mark.parametrize("status", [301, 400, 403, 413, 422])
def test_permanent_failures_are_not_retried(status: int) -> None:
    answer, times = first_then_good(status, b"no", "Location: http://127.0.0.1:9/v1")
    with pytest.raises(CallFailed, match=f"HTTP {status}"):
        ask_once(answer)
    assert len(times) == 1


def test_attempts_are_counted() -> None:
    with pytest.raises(CallFailed) as error:
        ask_once(always(500, b"broken"), attempts=4)
    assert error.value.failures == ("HTTP 500: broken",) * 4


def test_retry_after_in_seconds_is_obeyed() -> None:
    answer, times = first_then_good(429, b"", "Retry-After: 1")
    ask_once(answer)
    assert 1.0 <= times[1] - times[0] < 5


def test_retry_after_as_a_date_is_obeyed() -> None:
    # whole seconds: 2 to 3 from now
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    answer, times = first_then_good(503, b"", f"Retry-After: {at}")
    ask_once(answer)
    assert 1.0 <= times[1] - times[0] < 8


def test_retry_after_delays_all_requests() -> None:
    times: list[float] = []

    async def answer(_: dict, __: str, writer: asyncio.StreamWriter) -> None:
        times.append(time.monotonic())
        (
            respond(writer, 429, b"", "Retry-After: 1")
            if len(times) == 1
            else respond(writer, 200, completion("Hi."))
        )

    async def run() -> None:
        async with served(answer, concurrency=1) as client:
            await asyncio.gather(*(client.complete(ASK, {}) for _ in range(3)))

    asyncio.run(run())
    assert len(times) == 4
    assert times[1] - times[0] >= 1.0  # the second and third, too, which nobody told


def test_a_retry_after_over_the_limit_ends_the_command() -> None:
    with pytest.raises(UserError, match="left alone for 3,600 s"):
        ask_once(always(429, b"", "Retry-After: 3600"))


def test_backoff_grows_and_is_random() -> None:
    async def run() -> list[float]:
        waits: list[float] = []
        async with served(always(500, b""), attempts=7, backoff_seconds=0.001) as client:
            plain = client.wait_seconds
            client.wait_seconds = lambda state: waits.append(plain(state)) or waits[-1]  # type: ignore[method-assign]
            with pytest.raises(CallFailed):
                await client.complete(ASK, {})
        return waits

    runs = [asyncio.run(run()) for _ in range(5)]
    assert all(wait <= 0.001 * 2**n for waits in runs for n, wait in enumerate(waits))
    assert len({wait for waits in runs for wait in waits}) == 35  # no two alike
    assert max(waits[5] for waits in runs) > 0.004


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": 85}}]}',
        b"[" * 50_000,
        completion("Hi.")[:-20],
        b"\xff\xfe{",
    ],
)
def test_a_body_without_completion_is_retried_then_fails(body: bytes) -> None:
    with pytest.raises(CallFailed, match="HTTP 200 without a chat completion") as error:
        ask_once(always(200, body))
    assert len(error.value.failures) == 3


def test_a_large_body_is_refused_before_it_is_read() -> None:
    sent = 0

    async def answer(_: dict, __: str, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        for _ in range(1000):
            writer.write(b"x" * 1_000_000)
            await writer.drain()
            sent += 1

    with pytest.raises(CallFailed, match="body over 1,000,000 bytes") as error:
        ask_once(answer)
    assert len(error.value.failures) == 1
    assert sent < 20  # the rest of the gigabyte stayed where it was


def test_a_compressed_body_is_refused() -> None:
    with pytest.raises(CallFailed, match="compressed body"):
        ask_once(always(200, b"\x1f\x8b", "Content-Encoding: gzip"))


def test_a_trickling_response_hits_the_total_timeout() -> None:
    async def answer(_: dict, __: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(100):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    began = time.monotonic()
    with pytest.raises(CallFailed, match="timed out"):
        ask_once(answer, total_seconds=0.4, attempts=1)
    assert time.monotonic() - began < 3


def test_silence_hits_the_read_timeout() -> None:
    async def answer(_: dict, __: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2)

    with pytest.raises(CallFailed, match="timed out") as error:
        ask_once(answer, read_seconds=0.2, attempts=1)
    assert error.value.failures == ("timed out: ReadTimeout",)


def test_a_refused_connection() -> None:
    async def run() -> None:
        async with ChatClient(
            Endpoint("http://127.0.0.1:9/v1", "m", attempts=2, backoff_seconds=0.01)
        ) as client:
            await client.complete(ASK, {})

    with pytest.raises(CallFailed, match="connection failed"):
        asyncio.run(run())


def only(*formats: str) -> tuple[Answer, list[str]]:
    """A server that accepts only these response formats."""
    asked: list[str] = []

    async def answer(body: dict, _: str, writer: asyncio.StreamWriter) -> None:
        asked.append(body.get("response_format", {"type": "text"})["type"])
        known = asked[-1] in formats
        respond(
            writer,
            200 if known else 400,
            completion("{}") if known else b'{"error": {"message": "no such format"}}',
        )

    return answer, asked


@pytest.mark.parametrize(
    ("formats", "once", "twice"),
    [
        (("json_schema",), ["json_schema"], ["json_schema"]),
        (("json_object", "text"), ["json_schema", "json_object"], ["json_object"]),
        (("text",), ["json_schema", "json_object", "text"], ["text"]),
    ],
)
def test_the_response_format_steps_down_once(
    formats: tuple[str, ...], once: list[str], twice: list[str]
) -> None:
    answer, asked = only(*formats)

    async def run() -> list[str]:
        async with served(answer) as client:
            return [(await client.complete(ASK, {}, SCHEMA)).response_format for _ in range(2)]

    assert asyncio.run(run()) == [once[-1]] * 2
    assert asked == once + twice


def test_an_input_that_is_refused_in_every_format_takes_none_away() -> None:
    asked: list[str] = []

    async def answer(body: dict, _: str, writer: asyncio.StreamWriter) -> None:
        asked.append(body.get("response_format", {"type": "text"})["type"])
        bad = body["messages"][0]["content"] == "bad"
        respond(writer, 400 if bad else 200, b"" if bad else completion("{}"))

    async def run() -> None:
        async with served(answer) as client:
            with pytest.raises(CallFailed):
                await client.complete([{"role": "user", "content": "bad"}], {}, SCHEMA)
            await client.complete(ASK, {}, SCHEMA)

    asyncio.run(run())
    assert asked == ["json_schema", "json_object", "text", "json_schema"]


def test_no_more_requests_at_once_than_allowed() -> None:
    now, most = 0, 0

    async def answer(_: dict, __: str, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1
        respond(writer, 200, completion("Hi."))

    async def run() -> None:
        async with served(answer, concurrency=3) as client:
            await asyncio.gather(*(client.complete(ASK, {}) for _ in range(20)))

    asyncio.run(run())
    assert most == 3


def test_no_more_attempts_a_minute_than_allowed() -> None:
    times: list[float] = []

    async def answer(_: dict, __: str, writer: asyncio.StreamWriter) -> None:
        times.append(time.monotonic())
        respond(writer, 200, completion("Hi."))

    async def run() -> None:
        async with served(answer, requests_per_minute=600) as client:  # 10 a second
            await asyncio.gather(*(client.complete(ASK, {}) for _ in range(30)))

    asyncio.run(run())
    assert times[-1] - times[0] > 1.8  # the first ten may come at once
    assert all(sum(start <= at < start + 1 for at in times) <= 21 for start in times)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, b"Incorrect API key: " + CANARY.encode(), "does not accept the key in JUDGE_KEY"),
        (402, b"", "no credit left"),
        (
            429,
            b'{"error": {"message": "You exceeded", "code": "insufficient_quota"}}',
            "no credit left",
        ),
        (
            404,
            b'{"error": {"message": "model m does not exist", "code": "x"}}',
            "model m does not exist",
        ),
    ],
)
def test_statuses_that_apply_to_all_requests_end_the_command(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, words: str
) -> None:
    monkeypatch.setenv("JUDGE_KEY", CANARY)
    with pytest.raises(UserError) as error:
        ask_once(always(status, body), key_env="JUDGE_KEY")
    assert words in str(error.value)
    assert CANARY not in str(error.value)


def test_the_key_is_sent_but_never_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in replies of a server that repeats it, nor in failures, logs or tracebacks with all
    local variables."""
    monkeypatch.setenv("JUDGE_KEY", CANARY)
    caplog.set_level(logging.DEBUG)
    heads: list[str] = []

    async def answer(_: dict, head: str, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        status = 500 if len(heads) == 1 else 400 if len(heads) == 3 else 200
        respond(writer, status, completion(head) if status == 200 else head.encode())

    async def run() -> tuple[Reply, str]:
        async with served(answer, key_env="JUDGE_KEY") as client:
            reply = await client.complete(ASK, {})
            try:
                await client.complete(ASK, {})
            except CallFailed as error:
                told = traceback.TracebackException.from_exception(error, capture_locals=True)
                return reply, "".join(told.format()) + repr(client) + repr(vars(client)) + str(
                    error.failures
                )
        raise AssertionError

    reply, told = asyncio.run(run())
    assert f"Bearer {CANARY}" in heads[0]
    assert "[key]" in reply.completion.text
    for text in (repr(reply), told, caplog.text):
        assert CANARY not in text


@pytest.mark.parametrize("value", ["", "  ", "two words", "schlüssel", "line\nline"])
def test_a_key_that_cannot_be_sent_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(UserError, match="JUDGE_KEY") as error:
        ChatClient(Endpoint("https://host/v1", "m", key_env="JUDGE_KEY"))
    assert not value.strip() or value not in str(error.value)


def test_all_errors_of_an_endpoint_come_in_one_message() -> None:
    given = {
        "base_url": f"https://user:{CANARY}@host/v1",
        "model": "",
        "key_env": f"sk-{CANARY}",
        "attempts": 0,
        "read_seconds": math.nan,
    }
    with pytest.raises(UserError) as error:
        validate_settings(Endpoint, given, "The endpoint")
    for word in ("base_url", "model", "key_env: the NAME", "attempts=0", "read_seconds=nan"):
        assert word in str(error.value)
    assert CANARY not in str(error.value)
    with pytest.raises(ValidationError) as shown:
        Endpoint(**given)
    assert CANARY not in str(shown.value)
