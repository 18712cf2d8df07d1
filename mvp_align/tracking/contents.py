"""Contents that every tracker gets: settings, name and group of the run, its files, and tables."""

import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mvp_align.config import Config
from mvp_align.runs.environment import environment
from mvp_align.runs.run_folder import RunFolder

Cell = str | int | float | None
Table = tuple[list[str], list[list[Cell]]]
"""Column names, and rows."""


def group_of(config: Config) -> str:
    """Return `tracking.group`, or the run's name without its seed, to group a config's seeds."""
    return config.tracking.group or resolved_config(config)["run"]["name"].removesuffix(
        f"-{config.seed}"
    )


def resolved_config(config: Config) -> dict[str, Any]:
    """Return the whole config as plain values, with interpolations resolved."""
    container = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def config_and_environment(config: Config) -> dict[str, Any]:
    """Return `resolved_config` plus versions, commit and device, as they were at the start."""
    found = environment({}, {})
    # trackers record the time themselves; the rest is only known at the end (environment.json)
    del found["time"], found["hashes"], found["inputs"]
    return {**resolved_config(config), "environment": found}


def folders_of(folder: RunFolder) -> dict[Path, str]:
    """Return the run's existing output folders that others build on, with their artifact types."""
    kinds = {folder.adapter: "model", folder.path / "scores": "scores"}
    return {path: kind for path, kind in kinds.items() if path.is_dir()}


def files_of(folder: RunFolder) -> list[Path]:
    """Return single files to send: of the report the one without texts and profiles."""
    files = (folder.shared_report, folder.metrics, folder.environment_json)
    return [path for path in files if path.is_file()]


def maps_of(folder: RunFolder) -> dict[str, Path]:
    """Return the run's maps, HTML files, by the names that trackers get: `map/in_domain`."""
    found = folder.shared_report.parent.glob("map-*.html")
    return {f"map/{path.stem.removeprefix('map-')}": path for path in sorted(found)}


def artifact_name(run_name: str, path: Path) -> str:
    """Return an artifact's name, like `lora_dpo-...-12-adapter`.

    It contains only characters that W&B and trackio allow.
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{run_name}-{path.stem}")
