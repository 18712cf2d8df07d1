"""TensorBoard tracking: event files under `tensorboard/` in the run folder."""

from collections.abc import Mapping
from pathlib import Path

from omegaconf import OmegaConf

from mvp_align.config import Config
from mvp_align.runs.checkpoints import latest_valid
from mvp_align.runs.run_folder import RunFolder
from mvp_align.runs.stored_config import settings
from mvp_align.runtime.variables import value
from mvp_align.tracking.contents import Cell, Table, config_and_environment, resolved_config


class TensorBoardRun:
    """Logs scalars, tables as text, and the config with the results under HPARAMS.

    It uploads nothing and has no artifacts.
    """

    def __init__(self, config: Config, folder: RunFolder) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = _event_folder(config, folder)
        self._hparams = _hparams(config)
        self._writer = SummaryWriter(self._folder, purge_step=_purge_step(folder))
        self._writer.add_text(
            "config",
            f"```yaml\n{OmegaConf.to_yaml(OmegaConf.create(config_and_environment(config)))}\n```",
        )
        self._writer.flush()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, number in metrics.items():
            self._writer.add_scalar(name, number, step)
        self._writer.flush()  # otherwise a killed process loses up to two minutes of them

    def results(self, tables: Mapping[str, Table], summary: Mapping[str, float]) -> None:
        for name, table in tables.items():
            self._writer.add_text(name, _markdown(table))
        self._writer.add_hparams(
            self._hparams, dict(summary), run_name=str(self._folder.absolute())
        )
        self._writer.flush()

    def artifacts(self, folder: RunFolder) -> None:
        """Log none: the files are already next to the event files."""

    def finish(self, *, preempted: bool) -> None:
        self._writer.close()


def _event_folder(config: Config, folder: RunFolder) -> Path:
    """Return the folder for event files.

    That is a folder per run in `TENSORBOARD_LOGGING_DIR`, which transformers' own callback also
    uses, or the run folder.
    """
    elsewhere = value("TENSORBOARD_LOGGING_DIR")
    return (
        Path(elsewhere, resolved_config(config)["run"]["name"])
        if elsewhere
        else folder.path / "tensorboard"
    )


def _purge_step(folder: RunFolder) -> int | None:
    """Return the first step that a resumed run repeats, or None for a new run.

    TensorBoard then hides what an earlier process logged from there on.
    """
    if not folder.resumed:
        return None
    checkpoint = latest_valid(folder.checkpoints)
    return 1 + (int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0)


def _hparams(config: Config) -> dict[str, str | int | float | bool]:
    leaves = settings(OmegaConf.structured(config))
    return {
        key: leaf if isinstance(leaf, str | int | float) else str(leaf)
        for key, leaf in leaves.items()
    }


def _markdown(table: Table) -> str:
    columns, rows = table
    lines = [columns, ["---"] * len(columns), *([_cell_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell_text(cell: Cell) -> str:
    if cell is None:
        return ""
    text = f"{cell:.4f}" if isinstance(cell, float) else str(cell)
    return text.replace("|", "\\|").replace("\n", " ")
