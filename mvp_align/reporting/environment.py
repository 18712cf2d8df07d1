"""What a number depends on besides its config: versions, commit, device, and hashes of what went in."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

STACK = (
    "mvp-align", "torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets", "tokenizers",
    "safetensors", "hydra-core", "wandb", "numpy",
)  # fmt: skip
PACKAGE = Path(__file__).parents[1]
SECRET_NAME = re.compile(r"(key|token|secret|password)$", re.IGNORECASE)  # not `data.max_tokens`
SECRET_VALUE = re.compile(r"\b(hf_|sk-)[\w-]{8,}")


def environment(hashes: Mapping[str, str]) -> dict[str, object]:
    """All of `environment.json`. `hashes` names what went in, such as data files, base model and prompt.

    Raises nothing: what cannot be found out is None.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": redacted(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: installed(name) for name in STACK},
        "git": git_state(PACKAGE),
        "device": device(),
        "hashes": dict(hashes),
    }


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def device() -> dict[str, object]:
    """Accelerator, CUDA version, CPU model, CPU threads torch uses, and processes of this run."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "name": torch.cuda.get_device_name() if cuda else "cpu",
        "cuda": torch.version.cuda,
        "gpus": torch.cuda.device_count(),
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or None


def git_state(folder: Path) -> dict[str, object] | None:
    """Commit, and whether files differ from it; None outside git, or where git does not track this code.

    An installed package often lies in a virtual environment inside another repository, whose commit says nothing.
    """
    commit = git(folder, "rev-parse", "HEAD")
    if commit is None or git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return {"commit": commit, "dirty": bool(git(folder, "status", "--porcelain"))}


def git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def redacted(words: Sequence[str]) -> list[str]:
    """A command line without values that look like secrets: `api_key=...`, `--hf-token ...`, `hf_...`, `sk-...`."""
    shown: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        name, equals, _ = word.partition("=")
        if equals and SECRET_NAME.search(name):
            shown.append(f"{name}=REDACTED")
        elif before.startswith("-") and "=" not in before and SECRET_NAME.search(before):
            shown.append("REDACTED")
        else:
            shown.append(SECRET_VALUE.sub("REDACTED", word))
    return shown
