"""The run folder: where each file of a run lies, and whether a command starts it, goes on with it,
or is done."""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mvp_align import __version__
from mvp_align.config import Config
from mvp_align.errors import AlreadyDone, UserError, combined_error
from mvp_align.runs.curve_points import CurvePoint, add_to_curves, write_curves
from mvp_align.runs.environment import environment, inputs_of
from mvp_align.runs.lock import NAME as LOCK
from mvp_align.runs.lock import lock, refuse_if_locked, release
from mvp_align.runs.pair_files import read_scores, write_scores
from mvp_align.runs.stored_config import changed_settings, stored_inputs, stored_settings
from mvp_align.runtime.atomic import full_disk_explained, write_text
from mvp_align.runtime.json_files import from_json, write_json
from mvp_align.runtime.processes import broadcast_from_main
from mvp_align.schema import PairScore

PASSES = "passes"
"""Key in environment.json of a training run's `Passes`."""


@dataclass(frozen=True, slots=True)
class Passes:
    """How a process runs its pairs of a step. It moves the last bits of a run."""

    micro: int
    """Pairs a pass."""
    checkpointing: bool
    """Whether layers are computed again in the backward pass."""


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its files. With `writes` false (every process but one) its writing methods
    do nothing."""

    path: Path
    resumed: bool
    """An earlier process of the same run left this folder unfinished."""
    writes: bool = True
    inputs: dict[str, str] = field(default_factory=dict)
    """What the settings named when the run began: `environment.inputs_of`."""

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
    def curves(self) -> Path:
        return self.path / "curves.jsonl"

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
    def shared_report(self) -> Path:
        """The report without texts of pairs, which may be sent elsewhere."""
        return self.path / "shared" / "report.html"

    @property
    def wandb_id(self) -> Path:
        return self.path / "wandb_id.txt"

    @property
    def done(self) -> Path:
        return self.path / "DONE"

    def shared_map(self, set_name: str) -> Path:
        """A map of the set's results by country, for trackers."""
        return self.path / "shared" / f"map-{set_name.replace('/', '-')}.html"

    def scores(self, stage: str, set_name: str) -> Path:
        return self.path / "scores" / f"{stage}-{set_name.replace('/', '-')}.jsonl"

    def groups(self, set_name: str) -> Path:
        return self.path / "groups" / f"{set_name.replace('/', '-')}.jsonl"

    def texts(self, set_name: str) -> Path:
        """Questions, profiles and answers of the pairs."""
        return self.path / "texts" / f"{set_name.replace('/', '-')}.jsonl"

    def values(self, stage: str, set_name: str) -> Path:
        """Other metrics of pairs than OPA's, such as labels of generated answers."""
        return self.path / "values" / f"{stage}-{set_name.replace('/', '-')}.jsonl"

    def write_json(self, path: Path, value: object) -> None:
        """Write `environment.json` or `notes.json`. Raises UserError where the disk is full."""
        if self.writes:
            write_json(path, value)

    def kept_passes(self) -> Passes | None:
        """Return the passes that an earlier process of this run was begun with, if one was."""
        found = read_environment(self.environment_json).get(PASSES) if self.resumed else None
        return Passes(**found) if found else None

    def keep_passes(self, passes: Passes) -> None:
        """Record in environment.json how the pairs of a step are cut into passes."""
        known = read_environment(self.environment_json)
        self.write_json(self.environment_json, known | {PASSES: asdict(passes)})

    def write_environment(self, hashes: Mapping[str, str], more: Mapping[str, object]) -> None:
        """Write environment.json once everything is known; the passes stay as they are there."""
        known = read_environment(self.environment_json)
        kept = {PASSES: known[PASSES]} if PASSES in known else {}
        self.write_json(self.environment_json, environment(hashes, self.inputs) | dict(more) | kept)

    def write_scores(self, stage: str, set_name: str, scores: Iterable[PairScore]) -> None:
        """A line a pair: log-prob sums in nats, tokens, margin in nats a token. Raises UserError on
        a full disk."""
        if self.writes:
            write_scores(self.scores(stage, set_name), scores)

    def read_scores(self, stage: str, set_name: str) -> list[PairScore] | None:
        """The scores that an earlier process wrote, to the last bit; None where there are none.
        Raises UserError."""
        path = self.scores(stage, set_name)
        return read_scores(path) if path.is_file() else None

    def write_curves(self, points: Iterable[CurvePoint]) -> None:
        """Replace `curves.jsonl`. Raises UserError where the disk is full."""
        if self.writes:
            write_curves(self.curves, points)

    def add_to_curves(self, points: Iterable[CurvePoint]) -> None:
        """Append to `curves.jsonl`. Raises UserError where the disk is full."""
        if self.writes:
            add_to_curves(self.curves, points)

    def finish(self) -> None:
        """Write DONE, the last file of a run: the time in UTC and the version of this package."""
        if self.writes:
            shutil.rmtree(self.logps, ignore_errors=True)  # the scores say it all
            write_text(
                self.done,
                f"{datetime.now(UTC).isoformat(timespec='seconds')} mvp_align {__version__}\n",
            )
            release(self.path)


def read_environment(path: Path) -> dict[str, Any]:
    """Return what environment.json holds; nothing if it is missing or was cut off."""
    try:
        found = from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def open_run(directory: Path, config: Config) -> RunFolder:
    """Start the run in `directory`, or go on with the same run that was cut off there, or what else
    `run.on_exists` says.

    All processes get what the main one finds, which alone writes, and has the folder's lock. Raises
    AlreadyDone on the same run, finished, and UserError where another run's settings, other files
    or a file are there, where another process is at work, or where it cannot be written.
    """
    from accelerate import PartialState  # here and below: a finished run is told without torch

    folder = broadcast_from_main(partial(_open_folder, directory, config))
    return replace(folder, writes=PartialState().is_main_process)


def _open_folder(directory: Path, config: Config) -> RunFolder:
    check_folder(directory, config)
    _claim(directory)
    try:
        folder = check_folder(directory, config)  # again: who had it may have finished the run
        if folder.resumed and _on_exists(config) == "overwrite":
            _clear(directory)
            folder = replace(folder, resumed=False)
        folder = replace(
            folder, inputs=(folder.resumed and stored_inputs(folder.path)) or inputs_of(config)
        )
        if not folder.resumed:
            _start(folder, config)
    except BaseException:
        release(directory)
        raise
    return folder


def check_folder(directory: Path, config: Config) -> RunFolder:
    """What stands in `directory`, before anything is loaded; nothing is changed. Raises what
    `open_run` does."""
    if directory.exists() and not directory.is_dir():
        raise UserError(
            f"run.dir={directory} is a file: delete it, or set another run.dir or run.name."
        )
    folder = RunFolder(directory, resumed=(directory / "config.yaml").is_file())
    if folder.resumed:
        if _on_exists(config) == "fail":
            raise UserError(
                f"run.on_exists=fail, and {directory} holds a run: run.on_exists=resume goes on"
                " with it."
            )
        if _on_exists(config) == "resume":
            stored = stored_settings(folder.path)
            _refuse_other_settings(folder, stored, config)
            if folder.done.exists():
                raise AlreadyDone(directory, _unlike_judge(stored, config))
        if not os.access(directory, os.W_OK | os.X_OK):
            raise UserError(
                f"run.dir={directory} cannot be written: set another run.dir, or change its rights."
            )
    elif directory.is_dir() and any(
        not entry.name.endswith((".tmp", LOCK)) for entry in directory.iterdir()
    ):
        raise UserError(
            f"run.dir={directory} holds files but no config.yaml, so it is no run folder: "
            "set another run.dir or run.name, or empty it."
        )
    refuse_if_locked(directory)
    return folder


def _on_exists(config: Config) -> str:
    return "resume" if _restarted() else config.run.on_exists


def _restarted() -> bool:
    """Whether Slurm requeued this job: the run in the folder is then its own."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def _claim(directory: Path) -> None:
    try:
        with full_disk_explained(directory / LOCK):
            directory.mkdir(parents=True, exist_ok=True)
            lock(directory)
    except OSError as error:
        raise UserError(
            f"run.dir={directory} cannot be made or written: {error.strerror}. Set another run.dir,"
            " or see to the folder above."
        ) from None


def _clear(directory: Path) -> None:
    """DONE and config.yaml first: what a kill leaves half deleted is neither done nor a run. The
    lock stays."""
    for name in ("DONE", "config.yaml"):
        (directory / name).unlink(missing_ok=True)
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


def _start(folder: RunFolder, config: Config) -> None:
    write_text(folder.config_yaml, OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True))
    folder.write_json(folder.environment_json, environment({}, folder.inputs))


def _refuse_other_settings(folder: RunFolder, stored: dict[str, object], config: Config) -> None:
    problems = changed_settings(folder.path, stored, config)
    if problems and folder.done.exists():
        raise combined_error(
            problems,
            f"{folder.path} holds a finished run with other settings. Change run.name to start"
            " another, or delete this one by run.on_exists=overwrite:",
        )
    if problems:
        raise combined_error(
            problems,
            f"{folder.path} holds an unfinished run with other settings. Set them as they are there"
            " to go on, change run.name to start another, or delete this one by"
            " run.on_exists=overwrite:",
        )


def _unlike_judge(stored: dict[str, object], config: Config) -> str:
    """What to say of a finished run that another judge is asked for."""
    before, now = stored.get("evals.judge"), config.evals.judge
    if before == now or now == "none" or "paa" not in config.evals.metrics:
        return ""
    return (
        f" evals.judge was {before}: `mvp-align judge {config.run.dir} --judge {now}` labels its"
        " answers."
    )
