"""A Hub on loopback: the few endpoints that an upload by huggingface_hub calls, over LFS.

It keeps what was committed, and can be told to fail.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from huggingface_hub import ModelCard
from typing_extensions import override

TOKEN = "hf_" + "a1B2" * 9
LFS_SUFFIXES = (".safetensors",)
LICENCES = [
    "apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "odc-by", "odbl",
    "pddl", "llama2", "llama3", "gemma", "unknown", "other",
]  # fmt: skip
"""Some of those that the Hub knows: https://huggingface.co/docs/hub/repositories-licenses."""


@dataclass
class HubRepo:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0


class HubServer(ThreadingHTTPServer):
    """`fail(method, path)` gives a status to answer with, `drop` to cut it off, or None."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repos: dict[str, HubRepo] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.fail: Callable[[str, str], int | str | None] = lambda method, path: None

    @override
    def handle_error(self, *_: object) -> None:
        """A client that was cut off goes away."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self._failed():
            return
        parts = self.path.partition("?")[0].strip("/").split("/")
        if self.path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif parts[4:5] == ["preupload"]:
            self._preupload("/".join(parts[2:4]), json.loads(body))
        elif parts[4:5] == ["commit"]:
            self._commit("/".join(parts[2:4]), body)
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        else:
            self._send(404, {"error": f"no such endpoint: {self.path}"})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        if self._failed():
            return
        self.server.blobs[hashlib.sha256(content).hexdigest()] = content
        self._send(200, {})

    def do_GET(self) -> None:
        if self._failed():
            return
        repo = self.server.repos.get(
            "/".join(self.path.partition("?")[0].strip("/").split("/")[2:4])
        )
        if repo is None:
            self._send(404, {"error": "Repository not found"})
        else:
            name = "/".join(self.path.strip("/").split("/")[2:4])
            self._send(200, {"id": name, "private": repo.private, "sha": f"{repo.commits:040x}"})

    def _failed(self) -> bool:
        self.server.asked.append(f"{self.command} {self.path}")
        wanted = self.server.fail(self.command, self.path)
        if wanted is None and not self.path.startswith(("/lfs/", "/api/validate-yaml")):
            wanted = None if self.headers.get("authorization") == f"Bearer {TOKEN}" else 401
        if wanted == "drop":
            self.close_connection = True
            self.connection.close()
        elif wanted is not None:
            self._send(int(wanted), {"error": "as the test wants"})
        return wanted is not None

    def _validate(self, card: str) -> None:
        license = ModelCard(card).data.license
        said = f'"license" must be one of [{", ".join(LICENCES)}, array]'
        errors = [] if license in LICENCES else [{"message": said}]
        self._send(400 if errors else 200, {"warnings": [], "errors": errors})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        there = name in self.server.repos
        if not there:
            self.server.repos[name] = HubRepo(asked.get("visibility") == "private")
        address = {"url": f"{self.server.url}/{name}", "id": name}
        self._send(409 if there else 200, address)

    def _preupload(self, name: str, asked: dict[str, Any]) -> None:
        files = self.server.repos[name].files
        self._send(
            200,
            {
                "files": [
                    {
                        "path": one["path"],
                        "uploadMode": "lfs" if one["path"].endswith(LFS_SUFFIXES) else "regular",
                        "shouldIgnore": False,
                        "oid": _oid(one["path"], files.get(one["path"])),
                    }
                    for one in asked["files"]
                ]
            },
        )

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for one in asked["objects"]:
            upload = {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}", "header": {}}}
            known = one["oid"] in self.server.blobs
            objects.append(one if known else {**one, "actions": upload})
        self._send(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, body: bytes) -> None:
        repo = self.server.repos[name]
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                repo.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                repo.files[line["value"]["path"]] = self.server.blobs[line["value"]["oid"]]
        repo.commits += 1
        oid = f"{repo.commits:040x}"
        self._send(200, {"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid})

    def _send(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def _oid(path: str, content: bytes | None) -> str | None:
    """As the Hub tells it: SHA-256 of a file in LFS, git's SHA-1 of another one."""
    if content is None:
        return None
    if path.endswith(LFS_SUFFIXES):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def hub() -> Iterator[HubServer]:
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
