"""TensorBoard's own reader reads a run's event files."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from mvp_align.config import Config
from mvp_align.metrics.rows import Row
from mvp_align.reporting.samples import Sample
from mvp_align.reporting.tracked import summary, tables
from mvp_align.runs.checkpoints import WRITING, add_checkpoint
from mvp_align.runs.run_folder import RunFolder, open_run
from mvp_align.tracking.tracker import start_tracking

MakeConfig = Callable[..., Config]

SAMPLE = Sample(
    "in_domain", "p7", "dimension=safety", "What | now?", "Wait.", "Run!\nNow!", -0.25, 0.5
)


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={TENSORS: 0})
    return events.Reload()


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, round(event.value, 6)) for event in read(folder).Scalars(name)]


def checkpoint(folder: RunFolder, step: int) -> None:
    made = folder.checkpoints / WRITING / f"checkpoint-{step}"
    made.mkdir(parents=True)
    (made / "trainer_state.json").write_text("{}")
    add_checkpoint(made, folder.checkpoints)


def test_a_run_as_its_reader_sees_it(tmp_path: Path, rows: list[Row], tracked: MakeConfig) -> None:
    chosen = tracked(backend="tensorboard")
    folder = open_run(tmp_path / "run", chosen)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker = start_tracking(chosen, folder)
        tracker.log({"train/loss": 0.7, "eval/in_domain/opa/acc@0": 0.5}, step=1)
        tracker.log({"train/loss": 0.6}, step=2)
        # a process that is killed now loses nothing
        assert curve(folder.path, "train/loss") == [(1, 0.7), (2, 0.6)]
        tracker.results(tables(rows, [SAMPLE], texts=True), summary(rows))
        tracker.artifacts(folder)
        tracker.finish()
    events = read(folder.path)
    assert curve(folder.path, "tuned/in_domain/opa/acc@0") == [(0, 0.7761)]
    assert curve(folder.path, "eval/in_domain/opa/acc@0") == [(1, 0.5)]

    def text(name: str) -> str:
        (tensor,) = events.Tensors(f"{name}/text_summary")
        return tensor.tensor_proto.string_val[0].decode()

    assert "learning_rate: 5.0e-05" in text("config")
    assert "commit:" in text("config")
    assert (
        text("groups/in_domain_by_level")
        .splitlines()[2]
        .startswith("| High | 0.6000 | 0.9500 | 0.3500 |")
    )
    assert "What \\| now? | Wait. | Run! Now! | -0.2500 | 0.5000 |" in text("samples")

    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    hparams = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["train.learning_rate"].number_value == 5e-5
    assert hparams["lora.target_modules"].string_value == "['q_proj', 'k_proj', 'v_proj']"


@pytest.mark.parametrize(("saved", "left"), [(2, [1, 2, 3]), (None, [1, 3])])
def test_steps_after_the_checkpoint_are_shown_once(
    tmp_path: Path, tracked: MakeConfig, saved: int | None, left: list[int]
) -> None:
    chosen = tracked(backend="tensorboard")
    folder = open_run(tmp_path / "run", chosen)
    first = start_tracking(chosen, folder)
    for step in (1, 2, 3):
        first.log({"train/loss": 0.7}, step)
    first.finish(preempted=True)
    if saved:
        checkpoint(folder, saved)
    again = start_tracking(chosen, open_run(tmp_path / "run", chosen))
    for step in (1, 3) if saved is None else (3,):
        again.log({"train/loss": 0.1}, step)
    again.finish()
    assert [step for step, _ in curve(folder.path, "train/loss")] == left
    assert curve(folder.path, "train/loss")[-1] == (3, 0.1)


def test_a_folder_that_cannot_be_made_stops_the_tracker_alone(
    tmp_path: Path, rows: list[Row], tracked: MakeConfig
) -> None:
    chosen = tracked(backend="tensorboard")
    folder = open_run(tmp_path / "run", chosen)
    (folder.path / "tensorboard").write_text("a file stands where a folder is to be")
    with pytest.warns(UserWarning, match="Tracking failed and is left out .*exists") as caught:
        tracker = start_tracking(chosen, folder)
        tracker.log({"train/loss": 0.7}, step=1)
        tracker.results(tables(rows, []), summary(rows))
        tracker.finish()
    assert len(caught) == 1


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)  # the writer's own thread says it too
def test_a_full_disk_stops_the_tracker_alone(
    rows: list[Row], tracked: MakeConfig, mount_disk: Callable[[str], Path]
) -> None:
    disk = mount_disk("1m")
    chosen = tracked(backend="tensorboard")
    folder = open_run(disk / "run", chosen)
    tracker = start_tracking(chosen, folder)
    with (
        pytest.raises(OSError, match="No space"),
        (disk / "filler").open("wb", buffering=0) as filler,
    ):
        while True:
            filler.write(b"0" * 4096)
    with pytest.warns(UserWarning, match="No space left on device.* The run goes on") as caught:
        for step in range(500):
            tracker.log({"train/loss": 0.5}, step)
        tracker.results(tables(rows, []), summary(rows))
        tracker.finish()
    assert len([one for one in caught if "Tracking failed" in str(one.message)]) == 1


def test_event_files_lie_where_transformers_own_variable_says(
    tmp_path: Path, tracked: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    chosen = tracked(backend="tensorboard")
    folder = open_run(tmp_path / "run", chosen)
    start_tracking(chosen, folder).finish()
    assert list((tmp_path / "logs" / "lora_dpo-tiny-sample-paper-12").glob("events.out.tfevents.*"))
    assert not (folder.path / "tensorboard").exists()
