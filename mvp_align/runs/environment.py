"""What a number depends on besides its config: versions, commit, device, and hashes of what went
in."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mvp_align.config import Config
from mvp_align.data.sets import SETS, chosen_sets, set_source
from mvp_align.data.sources import locate_source, source_exists
from mvp_align.modeling.packaged import loaded_id, packaged_gguf
from mvp_align.runtime.folders import own_folder, own_metric_files

STACK = (
    "mvp-align", "torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets",
    "tokenizers",
    "safetensors", "hydra-core", "wandb", "numpy",
)  # fmt: skip
PACKAGE = Path(__file__).parents[1]
HASHED = (
    ".json",
    ".jsonl",
    ".csv",
    ".tsv",
    ".gz",
    ".parquet",
    ".arrow",
    ".safetensors",
    ".jinja",
    ".model",
    ".txt",
)
WHOLE_BYTES, SAMPLES, BLOCK_BYTES = 2**26, 64, 2**18
SECRET_NAME = re.compile(r"(key|token|secret|password)$", re.IGNORECASE)  # not `data.max_tokens`
SECRET_VALUE = re.compile(r"\b(hf_|sk-)[\w-]{8,}")


def environment(hashes: Mapping[str, str], inputs: Mapping[str, str]) -> dict[str, object]:
    """All of `environment.json`. `hashes` names what went in, such as data files, base model and
    prompt; `inputs` are what the settings named when the run began (`inputs_of`).

    Raises nothing: what cannot be found out is None.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": redacted(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _installed(name) for name in STACK},
        "git": git_state(PACKAGE),
        "device": _device(),
        "hashes": dict(hashes),
        "inputs": dict(inputs),
    }


def inputs_of(config: Config) -> dict[str, str]:
    """Return the model that is loaded, and hashes of the files and folders that settings name,
    of the recipe if it is the user's own, and of the user's own metrics.

    They must be equal for a run to resume or to count as done. Leaves out what does not exist or
    comes from the Hub.
    """
    data, evals, model = config.data, config.evals, config.model
    sources = {
        "data.train": data.train,
        "data.val": data.val,
        "data.test": data.test,
    }
    for name in chosen_sets(config):
        if name in SETS and SETS[name].out_of_domain:
            key = name if SETS[name].source else f"evals.{name}"
            sources[key] = set_source(name, config)
    paths: dict[str, Path] = {}
    for key, source in sources.items():
        if source is not None and not source.startswith("hf:") and source_exists(source):
            paths[key] = Path(str(locate_source(source)))
    named = {
        "adapter": config.adapter,
        "train.reference": config.train.reference,
        "evals.regions": evals.regions,
        "data.values": data.values,
    }
    paths |= {key: Path(path) for key, path in named.items() if path is not None}
    if model.api.base_url is None:
        paths["model.id"] = packaged_gguf(model) or Path(model.id)
    paths |= {f"metrics/{path.name}": path for path in own_metric_files()}
    if (own := own_folder("recipes")) and (own / f"{config.recipe}.py").is_file():
        paths[f"recipes/{config.recipe}.py"] = own / f"{config.recipe}.py"
    return {"model": loaded_id(model)} | {
        key: _content_hash(path) for key, path in paths.items() if path.exists()
    }


def _content_hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files that hold data, weights
    or settings.

    Of a file above `WHOLE_BYTES` its size and `SAMPLES` blocks stand for the rest: training changes
    weights everywhere, and 13 GB take longer to read than a user waits.
    """
    digest = sha256()
    inside = (
        sorted(file for file in path.iterdir() if file.suffix in HASHED)
        if path.is_dir()
        else [path]
    )
    for file in inside:
        size = file.stat().st_size
        digest.update(f"{file.name if path.is_dir() else ''} {size}\n".encode())
        with file.open("rb") as content:
            if size <= WHOLE_BYTES:
                digest.update(content.read())
                continue
            for sample in range(SAMPLES):
                content.seek(sample * (size - BLOCK_BYTES) // (SAMPLES - 1))
                digest.update(content.read(BLOCK_BYTES))
    return digest.hexdigest()


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device() -> dict[str, object]:
    """Accelerator, CUDA version, CPU model, CPU threads torch uses, and processes of this run."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "name": torch.cuda.get_device_name() if cuda else "cpu",
        "cuda": torch.version.cuda,
        "gpus": torch.cuda.device_count(),
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or None


def git_state(folder: Path) -> dict[str, object] | None:
    """Commit, and whether files differ from it; None outside git, or where git does not track this
    code.

    An installed package often lies in a virtual environment inside another repository, whose commit
    says nothing.
    """
    commit = git(folder, "rev-parse", "HEAD")
    if commit is None or git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return {"commit": commit, "dirty": bool(git(folder, "status", "--porcelain"))}


def git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def redacted(words: Sequence[str]) -> list[str]:
    """A command line without values that look like secrets: `api_key=...`, `--hf-token ...`,
    `hf_...`, `sk-...`."""
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
