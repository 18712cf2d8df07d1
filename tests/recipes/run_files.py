"""Read a run folder's files, and copy it as a kill would leave it."""

import json
import shutil
from pathlib import Path
from typing import Any

WEIGHTS = "adapter_model.safetensors"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def adapter_bytes(folder: Path) -> bytes:
    return (folder / "adapter" / WEIGHTS).read_bytes()


def score_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "scores").iterdir())}


def logged(folder: Path) -> list[dict[str, Any]]:
    newest = max(
        (folder / "checkpoints").glob("checkpoint-*"),
        key=lambda path: int(path.name.rpartition("-")[2]),
    )
    return json.loads((newest / "trainer_state.json").read_text())["log_history"]


def cut_off(folder: Path, target: Path, after: int) -> Path:
    """Copy a finished run as if it was killed after the checkpoint at step `after`."""
    shutil.copytree(folder, target)
    for name in ("DONE", "metrics.jsonl", "report.html", "notes.json", "environment.json"):
        (target / name).unlink()
    shutil.rmtree(target / "adapter")
    for path in (target / "scores").glob("tuned-*"):
        path.unlink()
    for path in (target / "checkpoints").glob("checkpoint-*"):
        if int(path.name.rpartition("-")[2]) > after:
            shutil.rmtree(path)
    return target
