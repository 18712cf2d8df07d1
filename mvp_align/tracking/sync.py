"""Upload W&B runs recorded offline by `wandb sync`: in order, once each, with a status line."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from mvp_align.errors import UserError

RETRIES = {
    "WANDB_X_GRAPHQL_RETRY_MAX": "2",
    "WANDB_X_FILE_STREAM_RETRY_MAX": "4",
    "WANDB_X_FILE_TRANSFER_RETRY_MAX": "4",
}
"""W&B's defaults let a training run outlast an outage of hours.

Here a user waits for the result.
"""


@dataclass(frozen=True)
class Synced:
    """Result for one run folder.

    A run has one part per process that worked on it, all with the same W&B id.
    """

    folder: Path
    uploaded: int
    problem: str = ""
    url: str = ""

    @override
    def __str__(self) -> str:
        if self.problem:
            return f"{self.folder}: not uploaded: {self.problem}"
        if not self.uploaded:
            return f"{self.folder}: uploaded before"
        return (
            f"{self.folder}: uploaded{f', {self.uploaded} parts' if self.uploaded > 1 else ''}"
            f" {self.url}".rstrip()
        )


def offline_runs(paths: Sequence[Path]) -> dict[Path, list[Path]]:
    """Return run folder -> offline records, oldest first, for every run at or below `paths`.

    Raises UserError for a path that does not exist or holds no offline run.
    """
    found: dict[Path, list[Path]] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: no such folder. Name run folders, or folders of them.")
        # names begin with the time
        records = sorted(path.rglob("wandb/offline-run-*/run-*.wandb"))
        if not records:
            raise UserError(
                f"{path} holds no offline W&B run: nothing was recorded there, or it was online."
            )
        for record in records:
            parts = found.setdefault(record.parents[2], [])
            if record not in parts:
                parts.append(record)
    return found


def sync_run(folder: Path, records: Sequence[Path]) -> Synced:
    """Upload the parts of one run that the server lacks. Failed parts can be uploaded again."""
    waiting = [record for record in records if not is_synced(record)]
    if not waiting:
        return Synced(folder, 0)
    for record in waiting:
        # an old marker would make wandb skip what was written since
        synced_marker(record).unlink(missing_ok=True)
    # wandb sorts the parts of a run by their start, and continues each where the previous one ended
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "wandb",
            "sync",
            *(str(record.parent.resolve()) for record in waiting),
        ],
        cwd=folder,
        env=RETRIES
        | {
            name: value
            for name, value in os.environ.items()
            if name not in ("WANDB_SILENT", "WANDB_MODE")
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    left = [record for record in waiting if not is_synced(record)]
    url = re.search(r"View run .* at (\S+)", done.stdout)
    return Synced(
        folder,
        uploaded=len(waiting) - len(left),
        problem=error_line(done.stdout) if left else "",
        url=url[1] if url else "",
    )


def is_synced(record: Path) -> bool:
    """Return whether wandb left a marker that is newer than the record.

    A record that has changed since was still being written during the upload.
    """
    return (
        synced_marker(record).is_file()
        and synced_marker(record).stat().st_mtime_ns >= record.stat().st_mtime_ns
    )


def synced_marker(record: Path) -> Path:
    return record.with_name(f"{record.name}.synced")


def error_line(output: str) -> str:
    """Return wandb's error in one line."""
    lines = [line.removeprefix("wandb:").strip() for line in output.splitlines() if line.strip()]
    errors = [
        line.removeprefix("ERROR ")
        for line in lines
        if line.startswith(("ERROR", "Error", "panic"))
    ]
    errors = [line for line in errors if "detailed error logs" not in line]
    return (errors or lines or ["wandb said nothing"])[-1 if not errors else 0].removeprefix(
        "Error: "
    )
