"""The run folder: where each file of a run lies, and whether a command starts it, goes on with it, or is done."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mvp_align import __version__
from mvp_align.atomic import full_disk_explained, write_text
from mvp_align.config import Config
from mvp_align.errors import AlreadyDone, UserError, listed
from mvp_align.json_files import from_json, write_json, write_json_lines
from mvp_align.processes import main_decides
from mvp_align.schema import PairScore

FREE_TO_CHANGE = ("run.", "tracking.", "train.dry_run", "evals.batch_size", "evals.judge", "generation.batch_size")
"""Settings that change no number of a run, so a resumed run may set them anew. (A judge that cannot be reached now can be
asked later.)"""


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its files. With `writes` false (every process but one) its writing methods do nothing."""

    path: Path
    resumed: bool
    """An earlier process of the same run left this folder unfinished."""
    writes: bool = True

    @property
    def config_yaml(self) -> Path:
        return self.path / "config.yaml"

    @property
    def environment_json(self) -> Path:
        return self.path / "environment.json"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def logps(self) -> Path:
        """Log-probs that an unfinished run has computed so far."""
        return self.path / "logps"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def notes(self) -> Path:
        return self.path / "notes.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def wandb_id(self) -> Path:
        return self.path / "wandb_id.txt"

    @property
    def done(self) -> Path:
        return self.path / "DONE"

    def scores(self, stage: str, set_name: str) -> Path:
        return self.path / "scores" / f"{stage}-{set_name.replace('/', '-')}.jsonl"

    def groups(self, set_name: str) -> Path:
        return self.path / "groups" / f"{set_name.replace('/', '-')}.jsonl"

    def values(self, stage: str, set_name: str) -> Path:
        """Other metrics of pairs than OPA's, such as labels of generated answers."""
        return self.path / "values" / f"{stage}-{set_name.replace('/', '-')}.jsonl"

    def write_json(self, path: Path, value: object) -> None:
        """Write `environment.json` or `notes.json`. Raises UserError where the disk is full."""
        if self.writes:
            write_json(path, value)

    def write_scores(self, stage: str, set_name: str, scores: Iterable[PairScore]) -> None:
        """A line a pair: log-prob sums in nats, tokens, margin in nats a token. Raises UserError on a full disk."""
        if self.writes:
            path = self.scores(stage, set_name)
            path.parent.mkdir(exist_ok=True)
            write_json_lines(path, ({**asdict(score), "margin": score.margin} for score in scores))

    def read_scores(self, stage: str, set_name: str) -> list[PairScore] | None:
        """The scores that an earlier process wrote, to the last bit; None where there are none. Raises UserError."""
        path = self.scores(stage, set_name)
        return read_scores(path) if path.is_file() else None

    def finish(self) -> None:
        """Write DONE, the last file of a run: the time in UTC and the version of this package."""
        if self.writes:
            shutil.rmtree(self.logps, ignore_errors=True)  # the scores say it all
            write_text(self.done, f"{datetime.now(UTC).isoformat(timespec='seconds')} mvp_align {__version__}\n")


def open_run(directory: Path, config: Config) -> RunFolder:
    """Start the run in `directory`, or go on with the same run that was cut off there, or what else `run.on_exists` says.

    All processes get what the main one finds, which alone writes. Raises AlreadyDone on a finished run, and UserError where
    another run's settings, other files or a file are there, or where it cannot be written.
    """
    folder = main_decides(partial(open_folder, directory, config))
    return replace(folder, writes=PartialState().is_main_process)


def open_folder(directory: Path, config: Config) -> RunFolder:
    if directory.exists() and not directory.is_dir():
        raise UserError(f"run.dir={directory} is a file: delete it, or set another run.dir or run.name.")
    on_exists = "resume" if restarted() else config.run.on_exists
    folder = RunFolder(directory, resumed=(directory / "config.yaml").is_file())
    if folder.resumed and on_exists == "fail":
        raise UserError(f"run.on_exists=fail, and {directory} holds a run: run.on_exists=resume goes on with it.")
    if folder.resumed and on_exists == "overwrite":
        remove(directory)
        folder = replace(folder, resumed=False)
    if folder.done.exists():
        raise AlreadyDone(directory)
    if folder.resumed:
        refuse_other_settings(folder.config_yaml, config)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise UserError(f"run.dir={directory} cannot be written: set another run.dir, or change its rights.")
    else:
        start(folder, config)
    return folder


def restarted() -> bool:
    """Whether Slurm requeued this job: the run in the folder is then its own."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def remove(directory: Path) -> None:
    """DONE and config.yaml first: what a kill leaves half deleted is neither done nor a run."""
    for name in ("DONE", "config.yaml"):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory)


def start(folder: RunFolder, config: Config) -> None:
    if folder.path.is_dir() and any(not entry.name.endswith(".tmp") for entry in folder.path.iterdir()):
        raise UserError(
            f"run.dir={folder.path} holds files but no config.yaml, so it is no run folder: "
            "set another run.dir or run.name, or empty it."
        )
    try:
        with full_disk_explained(folder.config_yaml):
            folder.path.mkdir(parents=True, exist_ok=True)
            write_text(folder.config_yaml, OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True))
    except OSError as error:
        raise UserError(
            f"run.dir={folder.path} cannot be made: {error.strerror}. Set another run.dir, or see to the folder above."
        ) from None


def refuse_other_settings(config_yaml: Path, config: Config) -> None:
    try:
        stored = settings(OmegaConf.load(config_yaml))
    except (OmegaConfBaseException, yaml.YAMLError, OSError) as error:
        raise UserError(
            f"{config_yaml} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]}), "
            "so this run cannot go on: run.on_exists=overwrite starts again, run.name=... starts another."
        ) from None
    wanted = settings(OmegaConf.structured(config))
    problems = [
        f"{key}: {stored.get(key, '(absent)')} there, {wanted.get(key, '(absent)')} now"
        for key in sorted(stored.keys() | wanted.keys())
        if stored.get(key) != wanted.get(key) and not key.startswith(FREE_TO_CHANGE)
    ]
    if problems:
        raise listed(
            problems,
            f"{config_yaml.parent} holds an unfinished run with other settings. Set them as they are there to go on, "
            "change run.name to start another, or delete this one by run.on_exists=overwrite:",
        )


def settings(config: Any) -> dict[str, object]:
    """`{"train.beta": 0.1, ...}`: each leaf of a config under its dotted key, interpolations resolved."""
    if not isinstance(config, DictConfig):
        return {}
    leaves: dict[str, object] = {}

    def collect(node: dict[Any, Any], prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                collect(value, f"{prefix}{key}.")
            else:
                leaves[f"{prefix}{key}"] = value

    collect(dict(OmegaConf.to_container(config, resolve=True)), "")  # type: ignore[arg-type]
    return leaves


def read_config(run_dir: Path) -> Config:
    """The config of the run in `run_dir`. Raises UserError where it is missing, broken, or of another version."""
    path = run_dir / "config.yaml"
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path)))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, so {run_dir} is no run folder.") from None
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(f"{path} is no config of this version: {str(error).splitlines()[0]}") from None
    assert isinstance(config, Config)
    return config


def read_scores(path: Path) -> list[PairScore]:
    """A file of `scores/`, in its order. Raises UserError naming the line that is no score."""
    scores = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                values = from_json(line)
                del values["margin"]  # follows from the rest
                scores.append(PairScore(**values))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}, line {number}: no score of a pair ({error!r}). Delete the file.") from None
    return scores
