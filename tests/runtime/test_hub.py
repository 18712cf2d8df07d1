"""Without a network, a run fails or continues with the cache within seconds."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants

from mvp_align.config import Model
from mvp_align.data.sources import open_source
from mvp_align.errors import UserError
from mvp_align.modeling import embedder
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import Placement
from mvp_align.modeling.source import load_model_config, load_tokenizer
from mvp_align.runtime import hub

ROOT = Path(__file__).parents[2]
MODEL = Model("mine", "some/model")
LOADERS: dict[str, Callable[[Placement], object]] = {
    "some/model": lambda _: load_model_config(MODEL),
    "some/model, its tokenizer": lambda _: load_tokenizer(MODEL),
    "some/model, its weights": lambda placement: load_base(MODEL, placement),
    "sentence-transformers/all-MiniLM-L6-v2": lambda _: embedder.embedder(),
    "--repo-type dataset some/data": lambda _: open_source("hf:some/data:train"),
}
"""By what `hf download` fetches."""

Serve = Callable[[int], list[str]]


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """`online(address)`: use a Hub at that address, with no offline variable and an empty cache."""

    def point_at(address: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    # and back afterwards, whatever the test did
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(embedder, "PACKAGE", "no_such_package")
    hub.unreachable_reason.cache_clear()
    embedder.embedder.cache_clear()
    yield point_at
    hub.unreachable_reason.cache_clear()
    os.environ.pop("HF_HUB_OFFLINE", None)


@pytest.fixture
def serve(online: Callable[[str], None]) -> Iterator[Serve]:
    """`serve(404)`: a Hub that responds so to everything; returns a list of requests."""
    servers: list[ThreadingHTTPServer] = []

    def served(status: int) -> list[str]:
        seen: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(self.path)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_HEAD = do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None: ...

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        online(f"http://127.0.0.1:{servers[-1].server_port}")
        return seen

    yield served
    for server in servers:
        server.shutdown()
        server.server_close()


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return f"http://127.0.0.1:{port}"  # nobody listens any more


def refused(name: str, placement: Placement) -> str:
    with pytest.raises(UserError) as caught:
        LOADERS[name](placement)
    return str(caught.value)


@pytest.mark.parametrize("first", LOADERS)
def test_without_a_hub_every_loader_fails_at_once_with_what_to_do(
    first: str,
    online: Callable[[str], None],
    placement: Placement,
    capsys: pytest.CaptureFixture[str],
) -> None:
    online(closed_port())
    started = time.monotonic()
    said = refused(first, placement)
    assert time.monotonic() - started < 10
    assert "127.0.0.1 was not reached" in said and f"`hf download {first.split(',')[0]}`" in said
    told = (
        "127.0.0.1 was not reached (ConnectError): only what is in the cache is used."
        " HF_HUB_OFFLINE=1 says so"
    )
    assert capsys.readouterr().err.startswith(told)
    refused("some/model", placement)
    assert capsys.readouterr().err == ""  # told once


def test_a_network_that_swallows_everything_is_given_up(
    online: Callable[[str], None], placement: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        online(f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert "127.0.0.1 was not reached" in refused("some/model", placement)
    assert time.monotonic() - started < 5


def test_a_hub_that_is_down_is_not_waited_for(
    serve: Serve, placement: Placement, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = serve(503)
    assert "127.0.0.1 was not reached" in refused("some/model", placement)
    assert seen == ["/"]
    assert "(HTTP 503)" in capsys.readouterr().err


def test_a_hub_that_answers_is_asked_on(
    serve: Serve, placement: Placement, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = serve(404)
    assert "not reached" not in refused("some/model", placement)
    assert seen[0] == "/" and any(path.startswith("/some/model/") for path in seen[1:])
    assert "was not reached" not in capsys.readouterr().err


@pytest.mark.parametrize("variable", hub.VARIABLES)
def test_where_a_variable_says_offline_nobody_is_asked(
    variable: str, serve: Serve, placement: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at an import under that variable, which either sets the same constant of
    huggingface_hub."""
    seen = serve(404)
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for name in LOADERS:
        said = refused(name, placement)
        assert f"{variable} is set" in said and f"`hf download {name.split(',')[0]}`" in said
    assert seen == []


def test_a_variable_of_datasets_keeps_data_from_the_hub_alone(
    serve: Serve, placement: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = serve(404)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert "HF_DATASETS_OFFLINE is set" in refused("--repo-type dataset some/data", placement)
    assert seen == []
    refused("some/model", placement)
    assert seen


def test_a_local_folder_asks_nobody(serve: Serve, tiny_model: Path, placement: Placement) -> None:
    seen = serve(404)
    model = Model("tiny", str(tiny_model))
    load_model_config(model), load_tokenizer(model), load_base(model, placement)
    assert seen == []


BARS = ("Loading weights:", "base ", "tuned ", "reference", "training ")


def test_what_is_in_the_cache_is_trained_without_a_hub_and_without_noise(
    tiny_model: Path, tmp_path: Path
) -> None:
    """QLoRA asks the most of libraries. On standard error stands the line about the hub, and else
    only progress bars."""
    stored = tmp_path / "hub" / "models--some--model"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs" / "main").write_text("0" * 40)
    (stored / "snapshots").mkdir()
    (stored / "snapshots" / ("0" * 40)).symlink_to(tiny_model)
    plain = {name: value for name, value in os.environ.items() if name not in hub.VARIABLES}
    words = [
        "model.id=some/model",
        "model.name=tiny",
        "hardware=cpu",
        "tracking=none",
        "quantization=4bit",
        "data.limit=8",
        "evals.sets=[in_domain]",
        "train.max_steps=1",
        f"run.dir={tmp_path / 'run'}",
    ]
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        env=plain
        | {
            "HF_ENDPOINT": closed_port(),
            "HF_HOME": str(tmp_path),
            "MVP_ALIGN_CACHE": str(tmp_path / "own"),
        },
    )
    assert done.returncode == 0, done.stderr
    stored_name = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert stored_name["base_model_name_or_path"] == "some/model"
    first, *others = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip()]
    assert first.startswith(
        "127.0.0.1 was not reached (ConnectError): only what is in the cache is used."
    )
    assert [line for line in others if not line.startswith(BARS)] == []
    assert "WARNING" not in done.stdout
