"""Everything that only a GPU can show, in one prepared session on a scarce one.

python -m benchmarks.gpu_session [--minutes M] [--json FILE] [--work FOLDER] [--tiny]

Each line is a child process with a time limit. Its figures are appended to FILE as soon as they are
known; the same command again goes on with the lines that FILE does not hold. `--tiny` rehearses all
of them on a CPU with a tiny model, whose figures mean nothing.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer

from benchmarks.machine import machine_name
from benchmarks.rival_trainers import device_of_runs
from benchmarks.session_lines import LINES, ROOT, Line, Setting
from benchmarks.session_targets import show_all
from benchmarks.training_gpu import REHEARSAL
from mvp_align.runtime.json_files import to_json

LEAST = 20.0
"""Seconds that must be left for another line to start."""

FRAME = " \t╭╮╰╯─│"
"""What typer draws around an error."""

Record = dict[str, Any]


def run_line(line: Line, setting: Setting, seconds: float) -> Record:
    """Run a line's command for at most `seconds`, and return its record."""
    setting.figures(line.name).unlink(missing_ok=True)
    shutil.rmtree(setting.run(line.name), ignore_errors=True)
    command = line.command(setting, line.name)
    record: Record = {"line": line.name, "command": command[1:], "figures": {}, "failed": None}
    began = time.monotonic()
    code = run_child(command, setting, line.name, seconds)
    record["seconds"] = taken = time.monotonic() - began
    try:
        record["figures"] = line.read(setting, line.name, taken)
    except (OSError, ValueError) as error:
        record["failed"] = f"no figures: {error}"
    if code is None:
        record["failed"] = f"stopped after {seconds:.0f} s"
    elif code:
        record["failed"] = f"exit code {code}: {last_line(setting.log(line.name))}"
    return record


def run_child(command: Sequence[str], setting: Setting, line: str, seconds: float) -> int | None:
    """Return the exit code, or None if the time was up. What it started ends with it."""
    with setting.log(line).open("w", encoding="utf-8") as log:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(setting),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            end_group(child.pid)
            child.wait()


def end_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def environment(setting: Setting) -> dict[str, str]:
    """Return a child's environment. A measurement finds no log-probs of earlier runs."""
    found = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if setting.tiny:
        return {**found, "CUDA_VISIBLE_DEVICES": ""}
    return {**found, "MVP_ALIGN_CACHE": str(setting.work / "cache")}


def last_line(log: Path) -> str:
    """Return the last words of a log."""
    lines = log.read_text("utf-8", errors="replace").splitlines()
    said = (line.strip(FRAME) for line in reversed(lines))
    return next((words[:300] for words in said if words), "no message")


def read_records(path: Path, rehearsal: bool) -> list[Record]:
    """Return the file's records. A last line that was cut off is dropped, and removed.

    Raises BadParameter if they are rehearsals and this session is none, or the reverse.
    """
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole, end, cut = content.rpartition(b"\n")
    if cut:
        path.write_bytes(whole + end)
    records = [json.loads(line) for line in whole.splitlines()]
    if any(record["rehearsal"] != rehearsal for record in records):
        held = "figures of a GPU" if rehearsal else "a rehearsal's figures"
        raise typer.BadParameter(f"--json {path} holds {held}: name another file")
    return records


def append(path: Path, record: Record) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(to_json(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def outcome(records: Sequence[Record]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """Return figures by line, and by line why it failed. A later record replaces an earlier one."""
    latest = {record["line"]: record for record in records}
    figures = {name: record["figures"] for name, record in latest.items()}
    why = {name: record["failed"] for name, record in latest.items() if record["failed"]}
    return figures, {line.name: "not run" for line in LINES if line.name not in latest} | why


def stopped(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def main(
    tiny: Annotated[bool, typer.Option("--tiny", help="Rehearse on a CPU.")] = False,
    minutes: Annotated[float, typer.Option(help="For all lines together.")] = 14.0,
    json_file: Annotated[Path, typer.Option("--json", help="File of records, a line each.")] = Path(
        "gpu_session.jsonl"
    ),
    work: Annotated[Path, typer.Option(help="Folder for models, runs and logs.")] = Path(
        "/tmp/gpu-session"
    ),
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"Of {', '.join(line.name for line in LINES)}; may be repeated."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="LLaMA-2's, a folder; by default the demo model's.")
    ] = None,
    unsloth: Annotated[
        Path | None, typer.Option(help="A folder with Unsloth and its libraries.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="Rivals' best passes, of `benchmarks.training --find`.")
    ] = None,
) -> None:
    """Measure all that needs a GPU, and print each figure beside its target."""
    if not tiny and not torch.cuda.is_available():
        raise typer.BadParameter("torch sees no GPU here: --tiny rehearses on a CPU")
    if unknown := {*(only or ())} - {line.name for line in LINES}:
        raise typer.BadParameter(f"--only: no line {', '.join(sorted(unknown))}")
    if tiny:
        print(REHEARSAL, flush=True)
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    until = time.monotonic() + 60 * minutes
    signal.signal(signal.SIGTERM, stopped)
    work.mkdir(parents=True, exist_ok=True)
    setting = Setting(work.resolve(), tiny, tokenizer, unsloth, settings)
    device = machine_name(device_of_runs())
    records = read_records(json_file, tiny)
    done = {record["line"] for record in records if not record["failed"]}
    for line in LINES:
        if line.name in done or (only and line.name not in only):
            continue
        if line.name == "find" and settings is not None:
            continue
        left = until - time.monotonic()
        if left < LEAST:
            break
        record = run_line(line, setting, min(line.limit, left))
        record |= {"rehearsal": tiny, "device": device, "torch": torch.__version__}
        append(json_file, record)
        records.append(record)
        print(f"{line.name}: {record['seconds']:.0f} s, {record['failed'] or 'done'}", flush=True)
    show_all(*outcome(records), device, tiny)


if __name__ == "__main__":
    typer.run(main)
