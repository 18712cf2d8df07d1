"""A local stand-in for W&B's server. Tests replace only the network, nothing before it."""

import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CANARY = "canary" + "0123456789" * 4
"""A key as long as W&B asks for, to be found nowhere."""


@dataclass
class StoredRun:
    """The server's state of a run: last value of each setting, and lines of streams by offset."""

    settings: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, list[str]] = field(default_factory=dict)
    exit_code: int | None = None
    preempting: bool = False

    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.streams.get("wandb-history.jsonl", [])]

    def summary(self) -> dict[str, Any]:
        return json.loads(self.streams["wandb-summary.json"][-1])

    def config(self) -> dict[str, Any]:
        return {key: entry["value"] for key, entry in json.loads(self.settings["config"]).items()}


class WandbServer(ThreadingHTTPServer):
    """The part of W&B's API that its client needs to upload runs, artifacts and views."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Ignore clients that hang up."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.connections = 0
        self.runs: dict[str, StoredRun] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.uploads: dict[str, bytes] = {}
        self.views: list[dict[str, Any]] = []

    def verify_request(self, *_: object) -> bool:
        self.connections += 1
        return True

    def graphql(self, operation: str, values: dict[str, Any]) -> dict[str, Any]:
        entity = {"id": "e", "name": values.get("entity") or "me"}
        project = {"id": "p", "name": values.get("project") or "p", "entity": entity}
        match operation:
            case "RunResumeStatus":
                return {"model": {**project, "bucket": self.resumable(values["name"])}}
            case "UpsertBucket":
                inserted = values["name"] not in self.runs
                run = self.runs.setdefault(values["name"], StoredRun())
                run.settings |= {key: value for key, value in values.items() if value is not None}
                lines = len(run.streams.get("wandb-history.jsonl", []))
                bucket = {
                    "id": "b",
                    "name": values["name"],
                    "displayName": "shown",
                    "sweepName": None,
                }
                bucket |= {"historyLineCount": lines, "project": project}
                return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}
            case "CreateRunFiles":
                files = [
                    {"name": name, "uploadUrl": f"{self.url}/files/{name}"}
                    for name in values["files"]
                ]
                return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
            case "CreateArtifact":
                self.artifacts.append(values["input"])
                sequence = {"id": "s", "latestArtifact": None}
                made = {
                    "id": f"a{len(self.artifacts)}",
                    "state": "PENDING",
                    "artifactSequence": sequence,
                }
                return {"createArtifact": {"artifact": made}}
            case "CreateArtifactManifest":
                file = {
                    "id": "f",
                    "uploadUrl": f"{self.url}/manifest/{values['artifactID']}",
                    "uploadHeaders": [],
                }
                return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}
            case "CreateArtifactFiles":
                return {
                    "createArtifactFiles": {
                        "files": {
                            "edges": [
                                self.artifact_file(f) for f in values["input"]["artifactFiles"]
                            ]
                        }
                    }
                }
            case "CommitArtifact":
                return {"commitArtifact": {"artifact": {"id": values["artifactID"], "digest": "d"}}}
            case "UpsertView2":
                self.views.append(values)
                return {
                    "upsertView": {"view": {"id": "v", "name": values["name"]}, "inserted": True}
                }
            case "ArtifactType":
                return {"project": None}
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "RunStoppedStatus":
                return {"project": {"run": {"stopped": False}}}
            case "Viewer" | "GetViewer" | "GetDefaultEntity":
                user = {
                    "id": "u",
                    "entity": "me",
                    "username": "me",
                    "flags": "{}",
                    "teams": {"edges": []},
                }
                return {"viewer": user, "serverInfo": {}}
            case unknown:
                print(f"unknown operation {unknown} {values}", flush=True)
                return {}

    def resumable(self, name: str) -> dict[str, Any] | None:
        if (run := self.runs.get(name)) is None:
            return None
        history, events = (
            run.streams.get(f"wandb-{kind}.jsonl", []) for kind in ("history", "events")
        )
        return {
            "id": "b", "name": name, "displayName": "shown", "tags": [],
            "config": run.settings["config"],
            "logLineCount": 0, "historyLineCount": len(history), "eventsLineCount": len(events),
            "historyTail": json.dumps(history[-1:]), "eventsTail": json.dumps(events[-1:]),
            "summaryMetrics": run.streams.get("wandb-summary.json", ["{}"])[-1],
            "wandbConfig": '{"t": 1}',
        }  # fmt: skip

    def artifact_file(self, asked: dict[str, Any]) -> dict[str, Any]:
        url = f"{self.url}/artifacts/{asked['artifactID']}/{asked['name']}"
        node = {
            "storagePath": "x",
            "uploadUrl": url,
            "uploadHeaders": [],
            "uploadMultipartUrls": None,
        }
        return {"node": {**node, "artifact": {"id": asked["artifactID"]}}}

    def stream(self, name: str, sent: dict[str, Any]) -> None:
        run = self.runs[name]
        for stream, part in sent.get("files", {}).items():
            lines = run.streams.setdefault(stream, [])
            # like the server: a step that it has is not taken a second time
            if stream == "wandb-history.jsonl":
                steps = {json.loads(line)["_step"] for line in lines}
                lines += [
                    line for line in part["content"] if json.loads(line)["_step"] not in steps
                ]
            else:
                lines[part["offset"] :] = part["content"]
        run.preempting |= bool(sent.get("preempting"))
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def log_message(self, *_: object) -> None:
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_PUT(self) -> None:
        self.server.uploads[self.path.lstrip("/")] = self.body()
        self.reply({})

    def do_POST(self) -> None:
        sent = json.loads(self.body())
        if self.path == "/graphql":
            operation = (
                sent.get("operationName") or sent["query"].split("(")[0].split("{")[0].split()[-1]
            )
            self.reply({"data": self.server.graphql(operation, sent.get("variables") or {})})
        else:
            self.server.stream(self.path.split("/")[4], sent)
            self.reply({"exitcode": None, "limits": {}})
