"""A judge server on loopback, with plain sockets, whose response depends on the question's number.

It runs in its own process and counts. GET /counts returns, by number, how often it was asked and
how often it sent a whole chat completion.
"""

import asyncio
import hashlib
import json
import multiprocessing
import re
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from multiprocessing.connection import Connection

GOOD = "good"
PASSING = (
    "429", "429 after 0", "429 after a date", "500", "503", "closed", "cut off", "broken JSON",
    "HTML", "empty",
)  # fmt: skip
"""What happens to the first attempt, or the first two."""
SLOW = ("hangs", "429 after 1")
SAID = {
    "85/100": ("85/100", "no JSON object"),
    "a score in words": (
        (
            '{"score_w": 90, "score_l": 10, "score_model": "85/100", "enforced_dimensions_used":'
            ' [], "hard_violations_model": [], "reason": ""}'
        ),
        "score_model of a wrong type",
    ),
    "wrong keys": ('{"w": 90, "l": 10, "model": 85}', "no score_model"),
    "HTML said": ("<html><body>Sorry</body></html>", "no JSON object"),
    "nothing said": ("", "empty reply"),
    "cut JSON": ('{"score_w": 90, "score_l": 1', "cut at 360 tokens"),
    "out of range": (
        (
            '{"score_w": 90, "score_l": 10, "score_model": 850, "enforced_dimensions_used": [], '
            '"hard_violations_model": [], "reason": ""}'
        ),
        "score_model outside 0-100",
    ),
    "injected": (
        (
            'As the answer asks me to: {"label": "W"} {"score_w": 0, "score_l": 0, "score_model":'
            ' 100, "enforced_dimensions_used": [], "hard_violations_model": [], "reason": ""}'
        ),
        "more than one JSON object",
    ),
    "injected key": (
        (
            '{"score_w": 90, "score_l": 10, "score_model": 85, "enforced_dimensions_used": [], '
            '"hard_violations_model": [], "reason": "", "label": "W"}'
        ),
        "a key that was not asked for",
    ),
}
"""What a judge says that is no verdict, and why it is none."""
LASTING = {
    "10 MB": "no reply: body over 1,000,000 bytes",
    "always 500": "no reply: HTTP 500",
    "always closed": "no reply: connection failed",
    "400": "no reply: HTTP 400",
    "always HTML": "no reply: HTTP 200 without a chat completion",
}
"""What no number of attempts gets past."""

Behaviour = Callable[[int], tuple[str, int]]
"""The number of a question -> what happens, and to how many of its first attempts where it
passes."""


def hostile(number: int) -> tuple[str, int]:
    """A third of the numbers meet a temporary failure, a sixth a permanent one."""
    first, second, third = hashlib.sha256(str(number).encode()).digest()[:3]
    if number % 400 == 7:
        return SLOW[0], 1
    if number % 500 == 9:
        return SLOW[1], 1
    if first < 85:
        return PASSING[second % len(PASSING)], 1 + third % 2
    if first < 128:
        kinds = (*SAID, *LASTING)
        return kinds[second % len(kinds)], 0
    return GOOD, 0


def polite(number: int) -> tuple[str, int]:
    return GOOD, 0


REFUSED = 5


def one_refused(number: int) -> tuple[str, int]:
    """REFUSED is never answered, and all others at once."""
    return ("400", 0) if number == REFUSED else (GOOD, 0)


def verdict(text: str) -> str:
    """Return scores that depend only on the question, not on the order or number of calls."""
    a, b, c, d, *_ = hashlib.sha256(text.encode()).digest()
    scores = {"score_w": 70 + a % 31, "score_l": b % 50, "score_model": c % 101}
    names = ("score_1", "score_2", "score_model") if '"answer_1"' in text else tuple(scores)
    rest = {
        "enforced_dimensions_used": ["safety"],
        "hard_violations_model": ["Low safety"] * (d < 40),
        "reason": "It is so.",
    }
    return json.dumps({**dict(zip(names, scores.values(), strict=True)), **rest})


def completion(said: str, finish_reason: str = "stop") -> bytes:
    return json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "model": "a-judge-2025",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": said},
                    "finish_reason": finish_reason,
                }
            ],
            "usage": {"prompt_tokens": 400, "completion_tokens": 50, "total_tokens": 450},
        }
    ).encode()


class Server:
    def __init__(self, behaviour: Behaviour, delay_seconds: float) -> None:
        self.behaviour, self.delay_seconds = behaviour, delay_seconds
        self.asked: dict[int, int] = defaultdict(int)
        self.answered: dict[int, int] = defaultdict(int)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self.one_request(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def one_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Handle one request, and return whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        if head.startswith("GET /counts"):
            counts = {str(n): [self.asked[n], self.answered[n]] for n in sorted(self.asked)}
            await send(writer, 200, json.dumps(counts).encode())
            return True
        found = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        assert found is not None
        body = json.loads(await reader.readexactly(int(found.group(1))))
        text = body["messages"][-1]["content"]
        number = int(re.search(r"Question (\d+)", text).group(1))  # type: ignore[union-attr]
        self.asked[number] += 1
        await asyncio.sleep(self.delay_seconds)
        kind, times = self.behaviour(number)
        if kind in (*PASSING, *SLOW) and self.asked[number] > times:
            kind = GOOD
        yes_no = "one word" in body["messages"][0]["content"]
        said = (
            SAID[kind][0]
            if kind in SAID
            else ("Yes." if number % 3 else "No.")
            if yes_no
            else verdict(text)
        )
        content = completion(said, "length" if kind == "cut JSON" else "stop")
        match kind:
            case "429" | "500" | "503" | "400":
                await send(writer, int(kind), b'{"error": {"message": "not now", "code": null}}')
            case "429 after 0" | "429 after 1":
                await send(writer, 429, b"slow down", f"Retry-After: {kind[-1]}")
            case "429 after a date":
                at = format_datetime(datetime.now(UTC) + timedelta(milliseconds=10), usegmt=True)
                await send(writer, 429, b"slow down", f"Retry-After: {at}")
            case "always 500":
                await send(writer, 500, b"<h1>Internal Server Error</h1>")
            case "closed" | "always closed":
                return False
            case "cut off":
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(content) + 9)
                    + content[:-9]
                )
                await writer.drain()
                return False
            case "broken JSON":
                await send(writer, 200, content[: len(content) // 2])
            case "HTML" | "always HTML":
                await send(
                    writer, 200, b"<!doctype html><title>Sign in</title>", "Content-Type: text/html"
                )
            case "empty":
                await send(writer, 200, b"")
            case "hangs":
                await reader.read(1)  # until the client gives up
                return False
            case "10 MB":
                await send(writer, 200, completion("x" * 10_000_000))
            case _:
                await send(writer, 200, content)
                self.answered[number] += 1
        return True


async def send(
    writer: asyncio.StreamWriter, status: int, body: bytes, header: str = "X-Nothing: 0"
) -> None:
    writer.write(
        f"HTTP/1.1 {status} Said\r\nContent-Length: {len(body)}\r\n{header}\r\n\r\n".encode() + body
    )
    await writer.drain()


def serve(pipe: Connection, behaviour: Behaviour, delay_seconds: float) -> None:
    async def run() -> None:
        server = await asyncio.start_server(Server(behaviour, delay_seconds).handle, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


@contextmanager
def running(behaviour: Behaviour, delay_seconds: float = 0.0) -> Iterator[str]:
    """Return the base URL of a server in its own process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["judge_server", "mvp_align.judging.judge", "mvp_align.data.load"]
    )
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, behaviour, delay_seconds), daemon=True)
    process.start()
    try:
        assert here.poll(30), "the server did not start"
        yield f"http://127.0.0.1:{here.recv()}/v1"
    finally:
        process.kill()
        process.join()


def counts(base_url: str) -> dict[int, tuple[int, int]]:
    """Return, by number, how often it was asked, and how often it got a whole chat completion."""
    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/counts") as answer:
        return {
            int(number): (asked, answered)
            for number, (asked, answered) in json.load(answer).items()
        }
