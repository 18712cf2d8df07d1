"""Every run that trains leaves its curves in its folder, whatever the tracker."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_files import cut_off, logged
from stop_requests import AtCheck

from mvp_align.job import JobRun
from mvp_align.runs.curve_points import read_curves
from mvp_align.runtime import preemption
from mvp_align.runtime.preemption import Preempted
from mvp_align.tracking.tracker import Tracker
from mvp_align.training.callbacks import Progress

Run = Callable[..., Path]

EVALUATED = [
    "evals.every_steps=2",
    "evals.every_pairs=4",
    "evals.batch_size=2",
    "train.save_steps=3",
    "train.disable_dropout=false",
    "lora.dropout=0.2",
    "run.logp_cache=false",
]


@pytest.fixture(scope="module")
def sent() -> dict[int, dict[str, float]]:
    return {}


@pytest.fixture(scope="module")
def undisturbed() -> AtCheck:
    """Counts the checks of `whole` for a stop."""
    return AtCheck(-1)


@pytest.fixture(scope="module")
def whole(
    run: Run,
    sent: dict[int, dict[str, float]],
    undisturbed: AtCheck,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run without a tracker; `sent` has what one would have got."""

    class Heard:
        def log(self, metrics: dict[str, float], step: int) -> None:
            sent.setdefault(step, {}).update(metrics)

    def train(self: JobRun, *args: object) -> None:
        self.tracker = Tracker(Heard())  # type: ignore[arg-type]
        trained(self, *args)  # type: ignore[arg-type]
        self.tracker = Tracker()

    trained = JobRun.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JobRun, "train", train)
        patch.setattr(preemption, "request", undisturbed)
        return run(tmp_path_factory.mktemp("runs") / "whole", *EVALUATED)


def test_the_file_has_what_a_tracker_gets_but_times(
    whole: Path, sent: dict[int, dict[str, float]]
) -> None:
    points = read_curves(whole / "curves.jsonl")
    assert [point.step for point in points] == [1, 2, 3, 4, 5]
    of_the_end = {"train/train_loss", "train/total_flos"}
    clock = ("runtime", "_per_second", "_preparation_time")
    for point in points:
        assert point.values == {
            name: value
            for name, value in sent[point.step].items()
            if not name.endswith(clock) and name not in of_the_end
        }
        assert {"train/loss", "train/rewards/margins", "train/grad_norm"} <= set(point.values)
    evaluated = {p.step for p in points if "eval/in_domain/opa/acc@0" in p.values}
    assert evaluated == {2, 4, 5}
    assert {"eval/ufp4/opa/acc@0", "eval/loss", "eval/in_domain/opa/chosen_shift"} <= set(
        points[-1].values
    )
    losses = {row["step"]: row["loss"] for row in logged(whole) if "loss" in row}
    assert {point.step: point.values["train/loss"] for point in points} == losses


@pytest.mark.parametrize("after", [3, 5])
def test_a_killed_run_leaves_the_same_bytes(
    run: Run, whole: Path, tmp_path: Path, after: int
) -> None:
    """The file then knows steps that its checkpoint does not, the last of them torn."""
    folder = cut_off(whole, tmp_path / "cut", after)
    path = folder / "curves.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    run(folder, *EVALUATED)
    assert path.read_bytes() == (whole / "curves.jsonl").read_bytes()


@pytest.mark.parametrize("share", [0.55, 0.65, 0.8])
def test_a_stopped_run_leaves_the_same_bytes(
    run: Run,
    whole: Path,
    undisturbed: AtCheck,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
) -> None:
    """0.65: amid the last evaluation, which a trainer that takes no step then makes up."""
    folder = tmp_path / "stopped"
    monkeypatch.setattr(preemption, "request", AtCheck(round(share * undisturbed.count)))
    with pytest.raises(Preempted):
        run(folder, *EVALUATED)
    assert not (folder / "DONE").exists()
    monkeypatch.setattr(preemption, "request", AtCheck(-1))
    run(folder, *EVALUATED)
    assert (folder / "curves.jsonl").read_bytes() == (whole / "curves.jsonl").read_bytes()


def test_the_terminal_shows_each_step_in_one_line_with_the_last_evaluation(
    run: Run, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resumed after step 3, so that the evaluation of step 2 is one of an earlier process."""
    capsys.readouterr()
    run(cut_off(whole, tmp_path / "cut", 3), *EVALUATED)
    lines = [line.strip() for line in capsys.readouterr().err.split("\r")]
    points = {point.step: point.values for point in read_curves(whole / "curves.jsonl")}
    for at, evaluated in ((4, 2), (5, 4)):
        acc = points[evaluated]["eval/in_domain/opa/acc@0"]
        line = re.compile(
            rf"training {at}/5 .{{4}} ETA 00:\d\d, loss {points[at]['train/loss']:.4f},"
            rf" \d+\.\d\d pairs/s, validation acc@0 {100 * acc:.1f} % at step {evaluated},"
            r" \d+ tokens/s"
        )
        assert any(map(line.fullmatch, lines)), (line, lines)


def test_a_run_that_trains_on_chosen_answers_has_curves_too(run: Run, tmp_path: Path) -> None:
    folder = run(tmp_path / "sft", "recipe=lora_sft", "evals=in_domain")
    points = read_curves(folder / "curves.jsonl")
    assert [point.step for point in points] == [1, 2, 3, 4, 5]
    assert all("train/loss" in point.values for point in points)


def test_steps_can_be_read_while_a_run_is_at_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step is there when the next one begins."""
    seen: dict[int, list[int]] = {}
    folder = tmp_path / "watched"
    begin = Progress.on_step_begin

    def look(self: Progress, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        begin(self, args, state, control, **kwargs)
        points = read_curves(folder / "curves.jsonl")
        seen[state.global_step] = [point.step for point in points]

    monkeypatch.setattr(Progress, "on_step_begin", look)
    run(folder, "evals=in_domain")
    assert seen == {step: list(range(1, step + 1)) for step in range(5)}
