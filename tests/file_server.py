"""A file server on loopback that follows a script: each request takes the next behaviour, and is
answered rightly once the script is used up."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = files
        """Content by path, the path without the leading slash."""
        self.script: deque[str] = deque()
        self.asked: list[tuple[str, str]] = []
        """Path and Range header of each request."""
        self.closing = threading.Event()
        self.half = threading.Event()
        """Set when a stalled answer has sent its half."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what these tests do."""


class Answer(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        # a proxy is asked for the whole address
        path = self.path.removeprefix("http://elsewhere.invalid").partition("?")[0].lstrip("/")
        wanted = self.headers.get("range", "")
        self.server.asked.append((path, wanted))
        how = self.server.script.popleft() if self.server.script else "whole"
        moved = path.removeprefix("moved/")
        if how in STATUSES or moved not in self.server.files:
            STATUSES.get(how, not_there)(self)
            return
        content = self.server.files[moved]
        if how == "corrupt":
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if how == "no range":
            start = 0
        if start and start >= len(content):
            self.answer(416, b"", {"content-range": f"bytes */{len(content)}"})
        elif start:
            told = 0 if how == "wrong range" else start
            place = f"bytes {told}-{len(content) - 1}/{len(content)}"
            self.answer(206, content[start:], {"content-range": place}, how)
        else:
            self.answer(200, content, {}, how)

    def answer(self, status: int, body: bytes, headers: dict[str, str], how: str = "") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if how == "ends early":  # so that only the content can tell
            self.send_header("connection", "close")
        else:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        partly = how in ("cut", "ends early", "stall")
        self.wfile.write(body[: len(body) // 2] if partly else body)
        self.wfile.flush()
        if how == "stall":
            self.server.half.set()
            self.server.closing.wait(60)
        self.close_connection = self.close_connection or partly

    def log_message(self, format: str, *args: object) -> None:
        pass


def not_there(answer: Answer) -> None:
    answer.answer(404, b"no such file", {})


def status(number: int, **headers: str) -> Callable[[Answer], None]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda answer: answer.answer(number, b"<p>Sorry</p>", named)


def closed(answer: Answer) -> None:
    answer.close_connection = True
    with suppress(OSError):
        answer.connection.close()


STATUSES: dict[str, Callable[[Answer], None]] = {
    "404": not_there,
    "503": status(503),
    "503 after 0": status(503, retry_after="0"),
    "429 after a day": status(429, retry_after="86400"),
    "login": status(200, content_type="text/html; charset=utf-8"),
    "gzip": status(200, content_encoding="gzip"),
    "closed": closed,
    "redirect": lambda answer: status(302, location=f"/moved{answer.path}")(answer),
    "loop": lambda answer: status(302, location=answer.path)(answer),
    "to ftp": status(302, location="ftp://127.0.0.1/file"),
}


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[FileServer]:
    server = FileServer(files)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
