"""A download ends in the pinned file or in words, whatever a real server on loopback does."""

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from file_server import FileServer, serving

from mvp_align.errors import UserError
from mvp_align.runtime import download
from mvp_align.runtime.download import Transfer, Watch, git_blob_id, open_client

CONTENT = bytes(range(256)) * 2000
HALF = len(CONTENT) // 2
BLOB = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving({"pairs.json": CONTENT}) as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(download, "READ_SECONDS", 0.3)


def fetch(server: FileServer, folder: Path, base: str = "") -> list[str]:
    """Download; return what was said on the way."""
    said: list[str] = []
    watch = Watch(lambda file, there, total: None, said.append)
    with open_client() as client:
        url = httpx.URL(f"{base or server.url}/pairs.json?token=secret")
        Transfer(client, url, folder / "part", BLOB, watch).run()
    return said


def test_the_id_is_gits(tmp_path: Path) -> None:
    for content in (b"", b"one line\r\n", CONTENT):
        (tmp_path / "file").write_bytes(content)
        command = ["git", "hash-object", "--no-filters", tmp_path / "file"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        assert git_blob_id(tmp_path / "file") == told


@pytest.mark.parametrize(
    ("script", "ranges", "said"),
    [
        ([], [""], []),
        (["cut"], ["", f"bytes={HALF}-"], ["without sending complete message body"]),
        (["cut", "cut"], ["", f"bytes={HALF}-", f"bytes={HALF * 3 // 2}-"], ["body", "body"]),
        (["stall"], ["", f"bytes={HALF}-"], ["ReadTimeout"]),
        (["closed"], ["", ""], ["RemoteProtocolError"]),
        (["ends early"], ["", ""], [f"{HALF:,} bytes came with the git blob id"]),
        (["corrupt"], ["", ""], [f"{len(CONTENT):,} bytes came with the git blob id"]),
        (["cut", "no range"], ["", f"bytes={HALF}-"], ["body"]),
        (["cut", "wrong range"], ["", f"bytes={HALF}-", ""], ["body", "does not go on at byte"]),
        (["503"], ["", ""], ["HTTP 503"]),
        (["cut", "503 after 0"], ["", *[f"bytes={HALF}-"] * 2], ["body", "HTTP 503"]),
        (["redirect"], ["", ""], []),
        (["cut", "redirect"], ["", *[f"bytes={HALF}-"] * 2], ["body"]),
    ],
    ids=lambda value: "-".join(value) or "none" if isinstance(value, list) else None,
)
def test_what_passes_is_got_over(
    script: list[str], ranges: list[str], said: list[str], server: FileServer, tmp_path: Path
) -> None:
    server.script.extend(script)
    told = fetch(server, tmp_path)
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == ranges
    assert len(told) == len(said)
    assert all(words in line for words, line in zip(said, told, strict=True)), told


@pytest.mark.parametrize(
    ("how", "requests", "words", "kept"),
    [
        ("404", 1, "HTTP 404. The source may have moved it", 0),
        ("login", 1, "the answer is a web page, as a login or a proxy shows, not the file", 0),
        ("gzip", 1, "the answer is packed, not the file", 0),
        ("to ftp", 1, "unsupported protocol", 0),
        ("loop", 21, "maximum allowed redirects", 0),
        ("429 after a day", 1, "asks to be left alone for 86,400 s", 0),
        ("corrupt", 2, f"the file has {BLOB}. Nothing was kept of it.", 0),
        ("503", 6, "HTTP 503. 6 attempts in a row brought nothing new; 0 bytes are kept", 0),
        ("stall", 8, "attempts in a row brought nothing new", None),
    ],
)
def test_what_does_not_pass_is_told(
    how: str, requests: int, words: str, kept: int | None, server: FileServer, tmp_path: Path
) -> None:
    server.script.extend([how] * 100)
    with pytest.raises(UserError) as caught:
        fetch(server, tmp_path)
    assert words in str(caught.value), caught.value
    assert "secret" not in str(caught.value)
    there = tmp_path / "part"
    if kept is None:  # each answer stalls after half of the rest
        assert len(server.asked) > requests and 0.9 < there.stat().st_size / len(CONTENT) < 1
    else:
        assert len(server.asked) == requests
        assert (there.stat().st_size if there.exists() else 0) == kept


def test_a_source_shorter_than_what_came_is_begun_again_once(
    server: FileServer, tmp_path: Path
) -> None:
    server.files["pairs.json"] = CONTENT[:1000]
    (tmp_path / "part").write_bytes(CONTENT[:5000])
    server.script.extend(["whole", "cut"])
    with pytest.raises(UserError, match=r"is not the file that was asked for: 1,000 bytes came"):
        fetch(server, tmp_path)
    assert [wanted for _, wanted in server.asked] == ["bytes=5000-", "", "bytes=500-"]


def test_a_file_that_changed_between_two_tries_is_fetched_anew(
    server: FileServer, tmp_path: Path
) -> None:
    """Both halves are whole, and together they are no file that ever was."""
    (tmp_path / "part").write_bytes(CONTENT[::-1][:HALF])
    (said,) = fetch(server, tmp_path)
    assert f"{len(CONTENT):,} bytes came with the git blob id" in said
    assert [wanted for _, wanted in server.asked] == [f"bytes={HALF}-", ""]
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_a_whole_part_asks_no_network(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(CONTENT)
    with serving({}) as server:
        assert fetch(server, tmp_path) == []
        assert server.asked == []


def test_a_proxy_is_asked(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url)
    server.script.append("cut")
    fetch(server, tmp_path, base="http://elsewhere.invalid")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == ["pairs.json", "pairs.json"]


def test_a_proxy_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "carrier-pigeon://loft:1")
    with pytest.raises(UserError, match=r"HTTPS_PROXY.*cannot be used: .*carrier-pigeon"):
        open_client()


def test_nobody_there_is_told_after_some_attempts(tmp_path: Path) -> None:
    with serving({}) as server:
        pass
    with pytest.raises(UserError, match=r"ConnectError.*6 attempts in a row brought nothing new"):
        fetch(server, tmp_path)
