"""A server on loopback that writes pairs: what it says depends on the conversation alone.

It counts how often it was asked for each, and can keep its replies back for a while.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from typing_extensions import override


def good(opening: str, count: int) -> str:
    pairs = [
        {
            "question": f"{opening} Part {number}?",
            "answer_w": f"It fits, {number}: {opening}",
            "answer_l": f"It does not, {number}: {opening}",
        }
        for number in range(1, count + 1)
    ]
    return json.dumps({"pairs": pairs})


class WriterServer(ThreadingHTTPServer):
    """`say(opening prompt, number of questions)` is the text of a reply; an int an HTTP status."""

    daemon_threads = True

    def __init__(self, say: Callable[[str, int], str | int], delay_seconds: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.say, self.delay_seconds = say, delay_seconds
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.lock = Lock()

    @override
    def handle_error(self, *_: object) -> None:
        """A client that was killed resets its connection."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WriterServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        material = json.loads(body["messages"][1]["content"])
        opening = material.get("opening_prompt") or material["question"]  # a judge is asked so
        with self.server.lock:
            self.server.asked[opening] += 1
            self.server.bodies.append(body)
        time.sleep(self.server.delay_seconds)
        said = self.server.say(opening, 2)
        if isinstance(said, int):
            self.send(said, {"error": {"code": "", "message": "not now"}})
        else:
            message = {"role": "assistant", "content": said}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 300, "completion_tokens": 90}
            self.send(200, {"model": "writer-1", "choices": [choice], "usage": usage})

    def send(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def writing(
    say: Callable[[str, int], str | int] = good, delay_seconds: float = 0.0
) -> Iterator[WriterServer]:
    server = WriterServer(say, delay_seconds)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
