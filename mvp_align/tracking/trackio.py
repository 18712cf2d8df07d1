"""trackio tracking: a local database, shown by `trackio show`, with an API like W&B's."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

from mvp_align.config import Config
from mvp_align.runs.run_folder import RunFolder
from mvp_align.tracking.contents import (
    Table,
    artifact_name,
    config_and_environment,
    files_of,
    folders_of,
    group_of,
    maps_of,
)
from mvp_align.tracking.variables import trackio_mode


class TrackioRun:
    """Logs to trackio's folder for all runs: `TRACKIO_DIR`, or `trackio/` under `HF_HOME`."""

    def __init__(self, config: Config, folder: RunFolder) -> None:
        settings = config_and_environment(config)
        self._name = settings["run"]["name"]
        with nullcontext() if trackio_mode(config.tracking.mode) == "online" else _local():
            import trackio

            self._run = trackio.init(
                project=config.tracking.project or "mvp-align",
                name=self._name,
                group=group_of(config),
                config=settings,
                resume="allow" if folder.resumed else "never",
                embed=False,
            )
        self._with_artifacts = config.tracking.artifacts

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def results(self, tables: Mapping[str, Table], summary: Mapping[str, float]) -> None:
        import trackio

        shown = {
            name: trackio.Table(columns=columns, data=data)
            for name, (columns, data) in tables.items()
        }
        self._run.log({**summary, **shown})

    def artifacts(self, folder: RunFolder) -> None:
        if self._with_artifacts:
            maps = dict.fromkeys(maps_of(folder).values(), "map")
            for path, kind in (
                folders_of(folder) | dict.fromkeys(files_of(folder), "report") | maps
            ).items():
                self._run.log_artifact(path, name=artifact_name(self._name, path), type=kind)

    def finish(self, *, preempted: bool) -> None:
        import trackio

        trackio.finish()


@contextmanager
def _local() -> Iterator[None]:
    """Keep trackio off the Hub while it starts.

    It would ask there for the user's name, even if it uploads nothing.
    """
    import huggingface_hub.constants as hub

    was_offline, hub.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = was_offline
