"""W&B tracking: a run under `wandb/` in the run folder, offline by default, resumed by its id."""

import os
import sys
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.runs.environment import PACKAGE, SECRET_VALUE, git, git_state, redacted
from mvp_align.runs.run_folder import RunFolder
from mvp_align.runtime.atomic import write_text
from mvp_align.runtime.variables import is_true, value
from mvp_align.tracking.contents import (
    Table,
    artifact_name,
    config_and_environment,
    files_of,
    folders_of,
    group_of,
    maps_of,
    resolved_config,
)
from mvp_align.tracking.curves import curve_of
from mvp_align.tracking.variables import wandb_mode, wandb_project

if TYPE_CHECKING:
    from wandb import Run

Mode = Literal["online", "offline"]

STEP = "train/step"
FINISH_SECONDS = 600
"""Timeout for uploads at the end of a run. What is left stays on disk."""


class WandbRun:
    def __init__(self, config: Config, folder: RunFolder) -> None:
        self._name = resolved_config(config)["run"]["name"]
        self._with_artifacts = config.tracking.artifacts
        self._home = _home(config, folder)
        self._run = _start(config, folder)
        self._run.define_metric(STEP)
        self._defined: set[str] = set()
        if diff := _uncommitted():  # W&B itself keeps the diff only in online runs
            patch = self._home / "wandb" / "code.patch"
            write_text(patch, f"{diff}\n")
            self._run.save(patch, base_path=patch.parent, policy="now")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics at a step. The summary keeps a curve's best value next to its last one.

        Curves are defined when they first appear, because set names are not known before. In a
        definition, W&B treats a plain dot (`acc@0.2`) as a path separator.
        """
        for name in sorted(metrics.keys() - self._defined):
            curve = curve_of(name)
            kept = f"{curve.best},last" if curve and curve.best else None
            self._run.define_metric(name.replace(".", "\\."), step_metric=STEP, summary=kept)
        self._defined |= metrics.keys()
        self._run.log({**metrics, STEP: step})

    def results(self, tables: Mapping[str, Table], summary: Mapping[str, float]) -> None:
        import wandb

        with _staged_in(self._home):
            self._run.log(
                {
                    name: wandb.Table(columns=list(columns), data=data)
                    for name, (columns, data) in tables.items()
                }
            )
        self._run.summary.update(dict(summary))

    def artifacts(self, folder: RunFolder) -> None:
        """Log maps as HTML, folders as artifacts, without copying them, and single files as files
        of the run."""
        import wandb

        maps = {name: path.read_text(encoding="utf-8") for name, path in maps_of(folder).items()}
        if maps:
            with _staged_in(self._home):  # not injected: W&B would add a style sheet from its site
                self._run.log({name: wandb.Html(page, inject=False) for name, page in maps.items()})
        if not self._with_artifacts:
            return
        for path, kind in folders_of(folder).items():
            artifact = wandb.Artifact(artifact_name(self._name, path), type=kind)
            artifact.add_dir(str(path), policy="immutable")  # no second copy of the weights
            self._run.log_artifact(artifact)
        for path in files_of(folder):
            self._run.save(path, base_path=path.parent, policy="end")

    def finish(self, *, preempted: bool) -> None:
        """Finish the run.

        `mvp-align runs sync` can upload an offline run from the run folder later.
        """
        if preempted:
            self._run.mark_preempting()
        try:
            self._run.finish(exit_code=int(preempted))
        except TimeoutError:
            raise TimeoutError(
                f"uploading was not done after {FINISH_SECONDS} s; `wandb sync --include-online"
                f" {self._home}/wandb` uploads the rest"
            ) from None


def _start(config: Config, folder: RunFolder) -> "Run":
    """Start a run online if asked for, or offline with a warning if that fails."""
    import wandb

    identity = _run_id(folder)
    if wandb_mode(config.tracking.mode) == "offline":
        return _init(config, folder, identity, "offline")
    try:
        return _init(config, folder, identity, "online")
    except Exception as error:
        warnings.warn(
            f"W&B cannot be reached ({type(error).__name__}: {error}). The run is recorded offline:"
            f" `mvp-align runs sync {_home(config, folder)}` uploads it later.",
            stacklevel=2,
        )
        wandb.teardown()  # its service still reserves the id for the run that did not start
        return _init(config, folder, identity, "offline")


def _init(config: Config, folder: RunFolder, identity: str, chosen: Mode) -> "Run":
    import wandb

    settings = config_and_environment(config)
    words = sys.argv
    sys.argv = redacted(words)  # W&B records the command line
    try:
        return wandb.init(
            mode=chosen,
            dir=_home(config, folder),
            id=identity,
            # also in an offline record, so that its upload continues what the server has
            resume="allow",
            name=value("WANDB_NAME") or settings["run"]["name"],
            job_type=value("WANDB_JOB_TYPE") or config.recipe,
            project=wandb_project(config.tracking),
            entity=config.tracking.entity,
            group=value("WANDB_RUN_GROUP") or group_of(config),
            tags=config.tracking.tags or None,  # an empty list would override WANDB_TAGS
            config=settings,
            settings=wandb.Settings(
                **_unless_set(finish_timeout=FINISH_SECONDS),
                finish_timeout_raises=True,
                **code_state(),
            ),
        )
    finally:
        sys.argv = words


def _home(config: Config, folder: RunFolder) -> Path:
    """Return the folder of W&B's record: the run folder, or a folder per run in WANDB_DIR."""
    elsewhere = value("WANDB_DIR")
    if not elsewhere:
        return folder.path
    path = Path(elsewhere, resolved_config(config)["run"]["name"])
    path.mkdir(parents=True, exist_ok=True)
    return path


def _unless_set(**settings: object) -> dict[str, Any]:
    """Return the settings that no W&B variable sets."""
    return {name: given for name, given in settings.items() if not value(f"WANDB_{name.upper()}")}


def code_state() -> dict[str, Any]:
    """Return settings for the commit that W&B records: this package's, or none if it is installed.

    By default W&B uses the repository around the run folder, and the account decides whether it
    keeps the code. `_uncommitted` keeps the diff. WANDB_DISABLE_GIT disables all of it.
    """
    if git_state(PACKAGE) is None or is_true("WANDB_DISABLE_GIT"):
        return {"disable_git": True, "disable_code": True}
    return {"git_root": git(PACKAGE, "rev-parse", "--show-toplevel"), "disable_code": True}


def _uncommitted() -> str:
    """Return the uncommitted diff of this package's repository.

    Empty without a repository, if the diff contains a secret, or with WANDB_DISABLE_CODE or
    WANDB_DISABLE_GIT.
    """
    if is_true("WANDB_DISABLE_CODE") or is_true("WANDB_DISABLE_GIT"):
        return ""
    diff = git(PACKAGE, "diff", "HEAD") if git_state(PACKAGE) else None
    return "" if diff is None or SECRET_VALUE.search(diff) else diff


@contextmanager
def _staged_in(folder: Path) -> Iterator[None]:
    """Stage tables for upload in the run folder.

    W&B would stage them in the home directory, where a later upload may not find them.
    """
    if value("WANDB_DATA_DIR"):
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder.absolute() / "wandb")
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


def _run_id(folder: RunFolder) -> str:
    """Return the run's W&B id, which stays the same after a resume.

    A new run uses WANDB_RUN_ID if set. Raises UserError if that differs from a resumed run's id.
    """
    wanted = value("WANDB_RUN_ID")
    if folder.wandb_id.is_file() and (
        stored := folder.wandb_id.read_text(encoding="utf-8").strip()
    ):
        if wanted not in ("", stored):
            raise UserError(
                f"WANDB_RUN_ID={wanted}, but {folder.path} goes on as W&B's run {stored}: unset it."
            )
        return stored
    fresh = wanted or uuid.uuid4().hex[:8]
    write_text(folder.wandb_id, f"{fresh}\n")
    return fresh
