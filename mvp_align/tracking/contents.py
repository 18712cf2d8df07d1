"""What every tracker is given: the run's settings, its name and group, its files, and tables."""

import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mvp_align.config import Config
from mvp_align.runs.environment import environment
from mvp_align.runs.run_folder import RunFolder

Cell = str | int | float | None
Table = tuple[list[str], list[list[Cell]]]
"""Names of the columns, and the rows."""


def group_of(config: Config) -> str:
    """`tracking.group`, or the run's name without its seed, so that the seeds of one configuration
    are one group."""
    return config.tracking.group or resolved(config)["run"]["name"].removesuffix(f"-{config.seed}")


def resolved(config: Config) -> dict[str, Any]:
    """The whole config, interpolations resolved, as plain values."""
    container = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def described(config: Config) -> dict[str, Any]:
    """`resolved` with the versions, the commit and the device that the run started with."""
    found = environment({}, {})
    # One is the tracker's own, the others are known at the end: environment.json.
    del found["time"], found["hashes"], found["inputs"]
    return {**resolved(config), "environment": found}


def folders_of(folder: RunFolder) -> dict[Path, str]:
    """What a run made that others build on, with the kind of artifact that it is; what is not there
    is left out."""
    kinds = {folder.adapter: "model", folder.path / "scores": "scores"}
    return {path: kind for path, kind in kinds.items() if path.is_dir()}


def files_of(folder: RunFolder) -> list[Path]:
    return [
        path for path in (folder.report, folder.metrics, folder.environment_json) if path.is_file()
    ]


def artifact_name(run_name: str, path: Path) -> str:
    """`lora_dpo-...-12-adapter`, in the characters that W&B and trackio allow."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{run_name}-{path.stem}")
