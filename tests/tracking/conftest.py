"""Trackers in these tests reach no network and no home folder; a local server replaces W&B's."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from finished_rows import rows
from wandb_server import CANARY, WandbServer

from mvp_align.config import Config, Data, Model, Prompt
from mvp_align.runtime.watching import Tracking

__all__ = ["rows"]  # a fixture

MakeConfig = Callable[..., Config]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    import wandb

    for name in [name for name in os.environ if name.startswith(("WANDB_", "TRACKIO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "XDG_DATA_HOME", "TRACKIO_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()  # it reads the environment once a process
    yield
    wandb.teardown()


@pytest.fixture(scope="session")
def tracked() -> MakeConfig:
    """`tracked(backend="trackio", ...)`: a config with these settings of `tracking`."""

    def made(**tracking: object) -> Config:
        return Config(
            recipe="lora_dpo",
            model=Model("tiny", "somewhere/tiny"),
            data=Data(name="sample"),
            prompt=Prompt("paper", "{question}"),
            tracking=Tracking(**tracking),  # type: ignore[arg-type]
        )

    return made


@pytest.fixture
def wandb_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    server = WandbServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
