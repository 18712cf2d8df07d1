"""The page of `mvp-align data review`, served to this machine alone.

The server is bound to 127.0.0.1, and answers only under a path that is drawn anew at each start.
Nothing of the data is executed: the page sets texts as texts, and its policy forbids scripts,
styles and connections but the page's own. Requests that name another host are refused, so that no
web page can reach it under a name of its own (DNS rebinding).
"""

import secrets
import sys
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError
from typing_extensions import override

from mvp_align.construction.review_session import ReviewSession
from mvp_align.errors import UserError
from mvp_align.runtime.json_files import from_json, to_json

PAGE = Path(__file__).with_name("review_page")
FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
HOSTS = ("127.0.0.1", "localhost")
"""Names under which a browser reaches this machine, through a tunnel too, whatever the port."""
MAX_BODY_BYTES = 1_000_000
SILENT_SECONDS = 60


class ReviewServer(ThreadingHTTPServer):
    """Serves one person's review on 127.0.0.1; `port` 0 takes a free one.

    Raises UserError if the port is taken.
    """

    daemon_threads = True

    def __init__(self, session: ReviewSession, port: int = 0) -> None:
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((HOSTS[0], port), partial(ReviewRequest, session, self.token))
        except OSError as error:
            raise UserError(
                f"--port {port}: {error.strerror}; name another, or leave it out for a free one."
            ) from None

    @property
    def url(self) -> str:
        return f"http://{HOSTS[0]}:{self.server_address[1]}/{self.token}/"

    @override
    def handle_error(self, *_: object) -> None:
        """Pass over a browser that closed its connection; print what is a fault of ours."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(*_)  # type: ignore[arg-type]


class ReviewRequest(BaseHTTPRequestHandler):
    """One connection of a browser."""

    protocol_version = "HTTP/1.1"
    timeout = SILENT_SECONDS

    def __init__(self, session: ReviewSession, token: str, *connection: object) -> None:
        self.session, self.token = session, token
        super().__init__(*connection)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        asked = self._asked_for()
        if asked is None:
            return
        if asked in FILES:
            name, kind = FILES[asked]
            self._send(HTTPStatus.OK, (PAGE / name).read_bytes(), kind)
        elif asked == "overview":
            self._send_object(HTTPStatus.OK, self.session.overview())
        elif asked.startswith("pair/") and asked[5:].isdecimal():
            try:
                self._send_object(HTTPStatus.OK, self.session.pair(int(asked[5:])))
            except ValueError as error:
                self._send_problem(HTTPStatus.NOT_FOUND, str(error))
        else:
            self._send_problem(HTTPStatus.NOT_FOUND, "there is no such page")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        short = length.isdecimal() and int(length) <= MAX_BODY_BYTES
        # read even where it is refused: a connection that is closed before may lose the answer
        body = self.rfile.read(int(length)) if short else b""
        self.close_connection = self.close_connection or not short
        asked = self._asked_for()
        if asked is None:
            return
        if asked != "decision" or not short:
            self._send_problem(HTTPStatus.BAD_REQUEST, "no decision, or too long a one")
            return
        try:
            self._send_object(HTTPStatus.OK, self.session.decide(from_json(body)))
        except ValidationError as error:
            self._send_problem(HTTPStatus.BAD_REQUEST, error.errors()[0]["msg"])
        except ValueError as error:
            self._send_problem(HTTPStatus.BAD_REQUEST, str(error))
        except (UserError, OSError) as error:
            self._send_problem(HTTPStatus.INSUFFICIENT_STORAGE, f"Nothing was kept. {error}")

    def _asked_for(self) -> str | None:
        """Return the path behind the token; None where the request was refused."""
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        token, slash, rest = urlsplit(self.path).path.removeprefix("/").partition("/")
        if host in HOSTS and slash and secrets.compare_digest(token.encode(), self.token.encode()):
            return rest
        self.close_connection = True
        self._send_problem(HTTPStatus.FORBIDDEN, "open the address that the command printed")
        return None

    def _send_object(self, status: HTTPStatus, value: object) -> None:
        self._send(status, to_json(value).encode(), "application/json")

    def _send_problem(self, status: HTTPStatus, problem: str) -> None:
        self._send_object(status, {"problem": problem})

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    @override
    def version_string(self) -> str:
        return "mvp-align"

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: addresses hold the token."""
