"""What a GPU session runs, in order of worth: a child process for each line."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvp_align.runtime.json_files import from_json

ROOT = Path(__file__).parents[1]
COUNTED = re.compile(r"(\d+) (passed|failed|skipped|errors?)\b")


@dataclass(frozen=True, slots=True)
class Setting:
    """What all lines share. `work` keeps the models between sessions."""

    work: Path
    tiny: bool
    tokenizer: str | None = None
    unsloth: Path | None = None
    passes: Path | None = None
    """A file of rivals' best passes, found earlier."""

    def model(self, shape: str = "7B") -> Path:
        return self.work / f"model-{self.shape(shape)}"

    def shape(self, shape: str = "7B") -> str:
        return "tiny" if self.tiny else shape

    @property
    def settings(self) -> Path:
        return self.passes or self.work / "passes.json"

    def figures(self, line: str) -> Path:
        """Return where a line's command leaves its figures."""
        return self.work / f"{line}.json"

    def run(self, line: str) -> Path:
        return self.work / f"run-{line}"

    def log(self, line: str) -> Path:
        return self.work / f"{line}.log"


Command = Callable[[Setting, str], list[str]]
"""Given the setting and the line's name."""


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    limit: int
    """Seconds, at most."""
    command: Command
    read: Callable[[Setting, str, float], dict[str, Any]]
    """Makes figures of what a line left behind, and of its seconds."""


def module(name: str, *words: object) -> list[str]:
    return [sys.executable, "-m", name, *map(str, words)]


def make_model(setting: Setting, line: str) -> list[str]:
    more = ["--tokenizer", setting.tokenizer] if setting.tokenizer and not setting.tiny else []
    return module("benchmarks.random_llama", setting.shape(), setting.model(), *more)


def training(*words: str, shape: str = "7B", finds: bool = False) -> Command:
    """Return a command of `benchmarks.training --gpu`."""

    def command(setting: Setting, line: str) -> list[str]:
        given: list[object] = ["--shape", setting.shape(shape), "--folder", setting.model(shape)]
        if setting.tiny:
            given += ["--batch", 2, "--steps", 4, "--passes", 2]
        if setting.unsloth is not None:
            given += ["--unsloth", setting.unsloth]
        if finds:
            given += ["--find", setting.settings]
        else:
            given += ["--json", setting.figures(line)]
        # what was found holds for 7B without overrides; elsewhere the first passes that fit do
        if shape == "7B" and not finds and not any("=" in word for word in words):
            given += ["--settings", setting.settings] if setting.settings.is_file() else []
        return module("benchmarks.training", "--gpu", *given, *words)

    return command


def part(name: str, *tiny: object) -> Command:
    """Return a command of `benchmarks.session_parts`; `tiny` are the options of a rehearsal."""

    def command(setting: Setting, line: str) -> list[str]:
        more = tiny if setting.tiny else ()
        given = (name, setting.model(), "--json", setting.figures(line))
        return module("benchmarks.session_parts", *given, *more)

    return command


def run(*words: str, random: bool = False) -> Command:
    """Return a run of `train.py`, on the random model or, in a rehearsal, always on that."""

    def command(setting: Setting, line: str) -> list[str]:
        given = [*words, "tracking=none", f"run.dir={setting.run(line)}"]
        if random or setting.tiny:
            given += ["model.name=random", f"model.id={setting.model()}"]
        if setting.tiny:
            given += ["hardware=cpu", "train.max_steps=2", "data.limit=24", "run.logp_cache=false"]
        return [sys.executable, str(ROOT / "train.py"), *given]

    return command


def gpu_tests(setting: Setting, line: str) -> list[str]:
    return module("pytest", "-m", "gpu", "-q", ROOT / "tests" / "gpu")


def read_json(setting: Setting, line: str, seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = from_json(setting.figures(line).read_text("utf-8"))
    return found


def read_seconds(setting: Setting, line: str, seconds: float) -> dict[str, Any]:
    return {"seconds": seconds}


def read_run(setting: Setting, line: str, seconds: float) -> dict[str, Any]:
    """Return the seconds from command to DONE. Raises ValueError without DONE."""
    if not (setting.run(line) / "DONE").is_file():
        raise ValueError("the run left no DONE")
    return {"seconds": seconds}


def read_tests(setting: Setting, line: str, seconds: float) -> dict[str, Any]:
    """Return pytest's counts. Raises ValueError if it printed none."""
    last = setting.log(line).read_text("utf-8").strip().splitlines()[-1]
    counts = {word: int(number) for number, word in COUNTED.findall(last)}
    if not counts:
        raise ValueError(f"pytest counted nothing: {last[:200]}")
    return {"seconds": seconds, "passed": 0, "failed": 0, **counts}


EXPERIMENT = "experiment=divervalue_llama2_7b"
LINES = (
    Line("model", 150, make_model, read_seconds),
    Line("ours", 240, training("--only", "ours"), read_json),
    Line("find", 240, training("--only", "trl", "--only", "liger", finds=True), read_seconds),
    Line(
        "rivals",
        420,
        training(
            *("--only", "trl", "--only", "published", "--only", "precomputed", "--only", "liger")
        ),
        read_json,
    ),
    Line(
        "scoring",
        120,
        part("scoring", "--pairs", 8, "--batches", "4", "--plain", 4),
        read_json,
    ),
    Line(
        "generation",
        180,
        part("generation", "--answers", 8, "--more", 16, "--tokens", 8),
        read_json,
    ),
    Line("losses", 300, part("losses", "--steps", 3, "--batch", 2), read_json),
    Line(
        "compiled",
        420,  # compiling on two CPU cores, in a rehearsal, takes most of it
        training("--only", "ours", "hardware.compile=true"),
        read_json,
    ),
    Line("divervalue", 300, run(EXPERIMENT, "data=sample", random=True), read_run),
    Line("unpacking", 90, run("experiment=demo", "train.dry_run=true"), read_seconds),
    Line("demo", 120, run("experiment=demo", "hardware=cuda"), read_run),
    Line("unsloth", 180, training("--only", "unsloth"), read_json),
    Line("gpu_tests", 300, gpu_tests, read_tests),
    Line(
        "qlora",
        240,
        training("--only", "ours", "--only", "trl", "quantization=4bit"),
        read_json,
    ),
    Line("smollm2", 180, training("--only", "ours", "--only", "trl", shape="smollm2"), read_json),
)
