"""Weights & Biases: a run under `wandb/` in the run folder, offline unless asked otherwise, resumed by its id."""

import os
import sys
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from mvp_align.atomic import write_text
from mvp_align.config import Config
from mvp_align.evaluation.rows import Row
from mvp_align.reporting.environment import PACKAGE, SECRET_VALUE, git, git_state, redacted
from mvp_align.reporting.run_folder import RunFolder
from mvp_align.reporting.samples import Sample
from mvp_align.reporting.tracking.tables import (
    artifact_name,
    described,
    files_of,
    folders_of,
    group_of,
    resolved,
    summary,
    tables,
)

if TYPE_CHECKING:
    from wandb import Run

Mode = Literal["online", "offline"]

STEP = "train/step"
BEST = {
    "train/loss": "min,last",
    "train/rewards/accuracies": "max,last",
    "eval/opa/acc@0": "max,last",
    "eval/ufp4/opa/acc@0": "max,last",
    "eval/ufp4_sample/opa/acc@0": "max,last",
}
"""What the summary keeps of a curve besides its end."""
FINISH_SECONDS = 600
"""How long the end of a run waits for uploads. What is left then still lies on the disk."""


class WandbRun:
    def __init__(self, config: Config, folder: RunFolder) -> None:
        self._name = resolved(config)["run"]["name"]
        self._with_artifacts = config.tracking.artifacts
        self._folder = folder
        self._run = start(config, folder)
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)
        for name, kept in BEST.items():
            self._run.define_metric(name, step_metric=STEP, summary=kept)
        if diff := uncommitted():  # by itself W&B keeps one online only
            patch = folder.path / "wandb" / "code.patch"
            write_text(patch, f"{diff}\n")
            self._run.save(patch, base_path=patch.parent, policy="now")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log({**metrics, STEP: step})

    def results(self, rows: Sequence[Row], samples: Sequence[Sample]) -> None:
        import wandb

        found = tables(rows, samples)
        with staged_in(self._folder):
            self._run.log(
                {name: wandb.Table(columns=list(columns), data=data) for name, (columns, data) in found.items()}
            )
        self._run.summary.update(summary(rows))

    def artifacts(self, folder: RunFolder) -> None:
        """Folders as artifacts, read where they lie; single files as files of the run."""
        import wandb

        if not self._with_artifacts:
            return
        for path, kind in folders_of(folder).items():
            artifact = wandb.Artifact(artifact_name(self._name, path), type=kind)
            artifact.add_dir(str(path), policy="immutable")  # no second copy of the weights
            self._run.log_artifact(artifact)
        for path in files_of(folder):
            self._run.save(path, base_path=folder.path, policy="end")

    def finish(self, *, preempted: bool) -> None:
        """An offline run then lies under `wandb/` in the run folder, for `mvp-align runs sync`."""
        if preempted:
            self._run.mark_preempting()
        try:
            self._run.finish(exit_code=int(preempted))
        except TimeoutError:
            raise TimeoutError(
                f"uploading was not done after {FINISH_SECONDS} s; `wandb sync --include-online {self._folder.path}/wandb` "
                "uploads the rest"
            ) from None


def start(config: Config, folder: RunFolder) -> "Run":
    """Online where asked for; where that fails, offline, with a warning."""
    import wandb

    if mode(config.tracking.mode) == "offline":
        return init(config, folder, "offline")
    try:
        return init(config, folder, "online")
    except Exception as error:
        warnings.warn(
            f"W&B cannot be reached ({type(error).__name__}: {error}). The run is recorded offline: "
            f"`mvp-align runs sync {folder.path}` uploads it later.",
            stacklevel=2,
        )
        wandb.teardown()  # its service still holds the id for the run that did not start
        return init(config, folder, "offline")


def init(config: Config, folder: RunFolder, chosen: Mode) -> "Run":
    import wandb

    settings = described(config)
    words = sys.argv
    sys.argv = redacted(words)  # W&B keeps the command line
    try:
        return wandb.init(
            mode=chosen,
            dir=folder.path,
            id=run_id(folder),
            resume="allow",  # kept in an offline record too: its upload then goes on from what the server has
            name=settings["run"]["name"],
            job_type=config.recipe,
            project=config.tracking.project,
            entity=config.tracking.entity,
            group=group_of(config),
            tags=config.tracking.tags,
            config=settings,
            settings=wandb.Settings(finish_timeout=FINISH_SECONDS, finish_timeout_raises=True, **code_state()),
        )
    finally:
        sys.argv = words


def code_state() -> dict[str, Any]:
    """Whose commit W&B is to record: this package's, wherever the run folder lies, or none where it is an installed one.

    By itself W&B takes the repository around the run folder, and what it keeps of the code depends on the account:
    `uncommitted` keeps the diff.
    """
    if git_state(PACKAGE) is None:
        return {"disable_git": True, "disable_code": True}
    return {"git_root": git(PACKAGE, "rev-parse", "--show-toplevel"), "disable_code": True}


def uncommitted() -> str:
    """The diff of this package's repository to its commit; empty where there is none, or where it shows a secret."""
    diff = git(PACKAGE, "diff", "HEAD") if git_state(PACKAGE) else None
    return "" if diff is None or SECRET_VALUE.search(diff) else diff


@contextmanager
def staged_in(folder: RunFolder) -> Iterator[None]:
    """Tables are uploaded from a copy. W&B's place for it is the home directory, which a later upload may not find again."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder.path.absolute() / "wandb")
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


def mode(wanted: str) -> Mode:
    if wanted == "auto":
        return "online" if os.environ.get("WANDB_API_KEY") else "offline"
    return "online" if wanted == "online" else "offline"


def run_id(folder: RunFolder) -> str:
    """The same id after a resume, so that one run stays one line in W&B."""
    if folder.wandb_id.is_file() and (stored := folder.wandb_id.read_text(encoding="utf-8").strip()):
        return stored
    fresh = uuid.uuid4().hex[:8]
    write_text(folder.wandb_id, f"{fresh}\n")
    return fresh
