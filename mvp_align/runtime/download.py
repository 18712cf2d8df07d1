"""Download a file whose content is known beforehand by its git blob id.

What arrives is kept in a partial file, so another attempt, or another process after a kill, asks
for the rest alone (HTTP Range). Whatever a server does to it, it counts as downloaded only when it
has the id. Proxies and certificates come from the usual variables (HTTPS_PROXY, NO_PROXY,
SSL_CERT_FILE).
"""

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type

from mvp_align import __version__
from mvp_align.errors import UserError
from mvp_align.runtime.http_retries import RETRY_STATUSES, parse_retry_after

ATTEMPTS = 6
"""Attempts in a row that bring nothing new, after which we give up."""
WRONG_ATTEMPTS = 2
"""Times that what arrived may turn out to be of another file: once may be an accident."""
FIRST_WAIT_SECONDS = 1.0
"""Upper limit of the first random wait; it doubles with each fruitless attempt."""
MAX_WAIT_SECONDS = 300.0
"""Longest wait that a server may ask for."""
CONNECT_SECONDS = 20.0
READ_SECONDS = 30.0
"""Longest silence within an answer."""


class TransferBroken(Exception):
    """An attempt brought no whole file; another one may. `wait_seconds` is what the server asked
    for before it."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told of a download."""

    progress: Callable[[str, int, int | None], None]
    """A file's name, its bytes that are there, and all of its bytes where the server says so."""
    say: Callable[[str], None]
    """A sentence on an attempt that failed."""


def open_client() -> httpx.Client:
    """An HTTP client that follows redirects. Raises UserError if a proxy variable is unusable."""
    try:
        return httpx.Client(
            # a compressed body could not be continued
            headers={"accept-encoding": "identity", "user-agent": f"mvp-align/{__version__}"},
            follow_redirects=True,
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
        )
    # a package for SOCKS that is not there, and an address that is none
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise UserError(
            f"A proxy variable (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY) cannot be used: {error}"
        ) from None


def git_blob_id(path: Path) -> str:
    """The id that git gives a file's content: SHA-1 (hex) of `blob <size in bytes>\\0<content>`."""
    header = f"blob {path.stat().st_size}\0".encode()
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.sha1(header, usedforsecurity=False)
        ).hexdigest()


def shown_url(url: httpx.URL) -> str:
    """`url` without what may be secret in it: password and query."""
    return str(url.copy_with(userinfo=b"", query=None))


@dataclass
class Transfer:
    """The download of `url` into `part`, which holds what an earlier try brought."""

    client: httpx.Client
    url: httpx.URL
    part: Path
    blob: str
    """The git blob id that the file must have."""
    watch: Watch
    best: int = field(default=0, init=False)
    """The most bytes that were there since the last start from zero."""
    fruitless: int = field(default=0, init=False)
    """Attempts in a row that brought nothing new."""
    wrong: int = field(default=0, init=False)
    """Starts from zero because what was there was of another file."""

    @property
    def name(self) -> str:
        return self.url.path.rpartition("/")[2]

    def run(self) -> None:
        """Return when `part` is the file.

        Raises UserError if the source refuses it, holds another file, or stays silent, and OSError
        if `part` cannot be written; what arrived is then kept, unless it is of another file.
        """
        self.best = self._size()
        if self.best and git_blob_id(self.part) == self.blob:
            return
        attempts = Retrying(
            retry=retry_if_exception_type(TransferBroken),
            stop=lambda state: self.fruitless >= ATTEMPTS or self.wrong >= WRONG_ATTEMPTS,
            wait=self._wait_seconds,
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            attempts(self._attempt)
        except TransferBroken as broken:
            raise self._given_up(broken) from None

    def _attempt(self) -> None:
        try:
            self._receive(self._size())
        except TransferBroken:
            size = self._size()
            self.fruitless = 0 if size > self.best else self.fruitless + 1
            self.best = max(self.best, size)
            raise
        found = git_blob_id(self.part)
        if found != self.blob:
            size = self._size()
            self._start_over()
            raise TransferBroken(
                f"{size:,} bytes came with the git blob id {found}; the file has {self.blob}"
            )

    def _receive(self, there: int) -> None:
        """Add the rest of the file to the `there` bytes of `part`, or begin again where the server
        ignores Range."""
        try:
            with self.client.stream(
                "GET", self.url, headers={"range": f"bytes={there}-"} if there else {}
            ) as response:
                size = self._checked_start(response, there)
                length = response.headers.get("content-length", "")
                total = size + int(length) if length.isdecimal() else None
                with self.part.open("ab" if size else "wb") as file:
                    for chunk in response.iter_raw():
                        size += file.write(chunk)
                        self.watch.progress(self.name, size, total)
        except (httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.InvalidURL) as error:
            raise UserError(f"{shown_url(self.url)}: {error}") from None
        except httpx.TransportError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise UserError(
                    f"{shown_url(self.url)}: {error}. SSL_CERT_FILE names the certificates of a"
                    " proxy that opens connections."
                ) from None
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise TransferBroken(reason) from None

    def _checked_start(self, response: httpx.Response, there: int) -> int:
        """The place in the file at which the body begins. Raises where it is no body of the
        file."""
        status, headers = response.status_code, response.headers
        if status in RETRY_STATUSES:
            wait = parse_retry_after(headers.get("retry-after", ""))
            if wait is not None and wait > MAX_WAIT_SECONDS:
                raise UserError(
                    f"{shown_url(self.url)}: the server asks to be left alone for {wait:,.0f} s"
                    f" (HTTP {status}). Run the same command again then: it goes on from here."
                )
            raise TransferBroken(f"HTTP {status}", wait)
        if status == 416:
            self._start_over()
            raise TransferBroken(f"the source ends before byte {there:,}")
        if status not in (200, 206):
            raise UserError(
                f"{shown_url(self.url)}: HTTP {status}. The source may have moved it or want a"
                " login: --from names a mirror, or a folder with the files."
            )
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/html" or headers.get("content-encoding", "identity") != "identity":
            what = "a web page, as a login or a proxy shows" if kind == "text/html" else "packed"
            raise UserError(f"{shown_url(self.url)}: the answer is {what}, not the file itself.")
        if status == 200:
            return 0
        at = re.match(r"bytes (\d+)-", headers.get("content-range", ""))
        if at is None or int(at[1]) != there:
            self._start_over()
            raise TransferBroken(f"the answer does not go on at byte {there:,}")
        return there

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _start_over(self) -> None:
        self.part.unlink(missing_ok=True)
        self.best = 0
        self.wrong += 1

    def _wait_seconds(self, state: RetryCallState) -> float:
        """Full jitter (Brooker 2015, "Exponential Backoff And Jitter"), or what the server asked
        for and a little."""
        failed = state.outcome.exception() if state.outcome else None
        if isinstance(failed, TransferBroken) and failed.wait_seconds is not None:
            return failed.wait_seconds + random.uniform(0, FIRST_WAIT_SECONDS)
        return random.uniform(0, FIRST_WAIT_SECONDS * 2.0**self.fruitless)

    def _tell(self, state: RetryCallState) -> None:
        failed = state.outcome.exception() if state.outcome else None
        wait = state.next_action.sleep if state.next_action else 0.0
        self.watch.say(
            f"{self.name}: {failed}. Next attempt in {wait:.0f} s, from byte {self._size():,}."
        )

    def _given_up(self, broken: TransferBroken) -> UserError:
        if self.wrong >= WRONG_ATTEMPTS:
            return UserError(
                f"{shown_url(self.url)} is not the file that was asked for: {broken}. Nothing was"
                " kept of it. --from names a mirror, or a folder with the files."
            )
        return UserError(
            f"{shown_url(self.url)}: {broken}. {ATTEMPTS} attempts in a row brought nothing new;"
            f" {self._size():,} bytes are kept, and the same command goes on from there."
            " HTTPS_PROXY names a proxy, --from a mirror or a folder with the files."
        )
