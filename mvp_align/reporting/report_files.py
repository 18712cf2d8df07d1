"""The files of a run that its page is made of, as they are: of any version, and unchecked."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from mvp_align.errors import UserError
from mvp_align.metrics.rows import Row, read_rows
from mvp_align.runs.curve_points import CurvePoint, read_curves
from mvp_align.runs.run_folder import RunFolder
from mvp_align.runtime.json_files import from_json

WHOLE_PATH = re.compile(r"(~|/[^\s/]+)/[^\n]+")
PATH_WITHIN = re.compile(
    r"((?<=file://)|(?<![\w/.}~-]))(~|/[^\s/\"'`<>|,;:()\[\]{}=]+)/[^\s\"'`<>|,;:()\[\]{}=]+"
)
"""An absolute path in a sentence or behind a prefix; no address, whose path follows its host."""


@dataclass(frozen=True, slots=True)
class ReportFiles:
    run: RunFolder
    rows: Sequence[Row]
    config: Any
    config_text: str
    environment: dict[str, Any]
    notes: dict[str, Any]
    curves: Sequence[CurvePoint] | None
    """None where the run has no curves.jsonl."""

    def setting(self, key: str) -> Any:
        """The value of a setting, None where this run's config has no such key."""
        return OmegaConf.select(self.config, key) if isinstance(self.config, DictConfig) else None


def read_report_files(run_dir: Path, *, paths: bool = True) -> ReportFiles:
    """Read config.yaml, metrics.jsonl and, where they are, environment.json, notes.json and
    curves.jsonl.

    Without `paths`, for a page to be sent elsewhere, the command is left out and of absolute paths
    only their last part is kept. Raises UserError where a file is missing or damaged.
    """
    run = RunFolder(run_dir, resumed=False, writes=False)
    rows = read_rows(run.metrics)
    config_text = _read_text(run.config_yaml)
    config = _parsed(config_text, run.config_yaml)
    environment, notes = _read_json(run.environment_json), _read_json(run.notes)
    if not paths:
        config = OmegaConf.create(without_paths(OmegaConf.to_container(config)))
        config_text = OmegaConf.to_yaml(config)
        environment = without_paths({k: v for k, v in environment.items() if k != "command"})
        notes = without_paths(notes)
    return ReportFiles(
        run=run,
        rows=rows,
        config=config,
        config_text=config_text,
        environment=environment,
        notes=notes,
        curves=read_curves(run.curves) if run.curves.is_file() else None,
    )


def without_paths(value: Any) -> Any:
    """Return parsed YAML or JSON with the last part alone of every absolute path in its texts."""
    if isinstance(value, dict):
        return {without_paths(key): without_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_paths(one) for one in value]
    if not isinstance(value, str):
        return value
    if WHOLE_PATH.fullmatch(value):
        return Path(value).name
    return PATH_WITHIN.sub(lambda found: Path(found[0]).name, value)


def _parsed(config_text: str, path: Path) -> Any:
    """Parse the config without checks, because a report must open for runs of any version."""
    try:
        return OmegaConf.create(config_text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: broken YAML ({str(error).splitlines()[0]}).") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file. A report needs the whole folder of a run."
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in `path`, or {} if the file does not exist."""
    if not path.is_file():
        return {}
    try:
        value = from_json(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: broken JSON ({error.msg}).") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}.") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: an object belongs there, not a {type(value).__name__}.")
    return value
