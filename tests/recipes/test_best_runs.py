"""`train.best_by`: a run keeps the adapter of its best evaluation, also when it is interrupted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from run_files import WEIGHTS, adapter_bytes, cut_off, lines, logged, score_bytes
from stop_requests import AtCheck

from mvp_align.errors import UserError
from mvp_align.runs.checkpoints import list_checkpoints
from mvp_align.runtime import preemption
from mvp_align.runtime.preemption import Preempted

Run = Callable[..., Path]

KEY = "eval_in_domain/opa/margin"
BEST_BY = [
    "evals.every_steps=1",
    "evals.every_pairs=4",
    "evals.batch_size=2",
    "evals=in_domain",
    "train.best_by=opa/margin",
    "train.max_steps=6",
    "train.save_steps=4",
    "train.disable_dropout=false",
    "lora.dropout=0.2",
    "run.logp_cache=false",
    # high enough that evaluations go up and down
    "train.learning_rate=3e-2",
    "train.lr_scheduler=constant",
]


@pytest.fixture(scope="module")
def chosen(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """An undisturbed run, and its number of checks for a stop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preemption, "request", never := AtCheck(-1))
        folder = run(tmp_path_factory.mktemp("runs") / "best", *BEST_BY)
    return folder, never.count


def record(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "notes.json").read_text())["best_checkpoint"]
    return found


def margins(folder: Path) -> dict[int, float]:
    return {row["step"]: row[KEY] for row in logged(folder) if KEY in row}


def same(folder: Path, expected: Path) -> bool:
    return (
        adapter_bytes(folder) == adapter_bytes(expected)
        and score_bytes(folder) == score_bytes(expected)
        and (folder / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
        and record(folder) == record(expected)
    )


def test_the_adapter_is_that_of_the_best_evaluation(chosen: tuple[Path, int]) -> None:
    folder, _ = chosen
    by_step = margins(folder)
    assert list(by_step) == [1, 2, 3, 4, 5, 6]
    best = max(by_step, key=lambda step: by_step[step])
    assert best != 6  # else this would show nothing
    saved = dict(list_checkpoints(folder / "checkpoints"))
    assert adapter_bytes(folder) == (saved[best] / WEIGHTS).read_bytes()
    assert adapter_bytes(folder) != (saved[6] / WEIGHTS).read_bytes()
    found = record(folder)
    assert found["step"] == best
    assert found["value"] == by_step[best]
    assert (found["evaluations"], found["last_step"], found["pairs"]) == (6, 6, 4)
    sentence = json.loads((folder / "notes.json").read_text())["notes"][0]
    assert f"step {best} of 6, the best of 6 evaluations by opa/margin" in sentence
    assert sentence in (folder / "report.html").read_text()


def test_the_base_value_is_that_of_the_same_pairs(run: Run, tmp_path: Path) -> None:
    """A learning rate that changes next to nothing, so that all evaluations are the base's."""
    folder = run(tmp_path / "run", *BEST_BY, "train.learning_rate=1e-9")
    found = record(folder)
    assert found["base"] == pytest.approx(margins(folder)[1], abs=1e-5)


def test_a_checkpoint_is_kept_as_long_as_one_that_knows_it_as_best(
    chosen: tuple[Path, int],
) -> None:
    folder, _ = chosen
    steps = [step for step, _ in list_checkpoints(folder / "checkpoints")]
    assert steps[0] == 6
    assert record(folder)["step"] in steps
    assert len(steps) <= 4
    for _, path in list_checkpoints(folder / "checkpoints"):
        # the temporary folder of a save is no place to look for it
        state = json.loads((path / "trainer_state.json").read_text())
        assert state["best_model_checkpoint"] is None


@pytest.mark.parametrize("share", [0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1])
def test_a_stopped_run_ends_in_the_same_bytes(
    run: Run,
    chosen: tuple[Path, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
) -> None:
    expected, looks = chosen
    folder = tmp_path / "stopped"
    monkeypatch.setattr(preemption, "request", AtCheck(max(1, round(share * looks))))
    with pytest.raises(Preempted):
        run(folder, *BEST_BY)
    monkeypatch.setattr(preemption, "request", AtCheck(-1))
    run(folder, *BEST_BY)
    assert same(folder, expected)


def test_stopped_in_the_last_evaluation(
    run: Run, chosen: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of the last step is then there, and its evaluation is not."""
    expected, _ = chosen
    folder = tmp_path / "stopped"
    last = expected / "checkpoints" / "checkpoint-6" / "trainer_state.json"

    class InTheLast(AtCheck):
        def __bool__(self) -> bool:
            return "step 6" in label[-1]

    label = [""]
    from mvp_align.training import callbacks

    def labelled(*args: object, **kwargs: object) -> object:
        label.append(str(kwargs["label"]))
        return score_pairs(*args, **kwargs)

    score_pairs = callbacks.score_pairs
    monkeypatch.setattr(callbacks, "score_pairs", labelled)
    monkeypatch.setattr(preemption, "request", InTheLast(0))
    with pytest.raises(Preempted):
        run(folder, *BEST_BY)
    state = json.loads((folder / "checkpoints" / "checkpoint-6" / last.name).read_text())
    assert not [row for row in state["log_history"] if row["step"] == 6 and KEY in row]
    monkeypatch.setattr(preemption, "request", AtCheck(-1))
    run(folder, *BEST_BY)
    assert same(folder, expected)


@pytest.mark.parametrize("after", [4, 6])
def test_a_killed_run_goes_on_with_the_best_that_its_checkpoint_knows(
    run: Run, chosen: tuple[Path, int], tmp_path: Path, after: int
) -> None:
    """`after` 4: the run had gone on to better evaluations, whose checkpoints are lost."""
    expected, _ = chosen
    if after not in dict(list_checkpoints(expected / "checkpoints")):
        pytest.skip(f"checkpoint-{after} was not kept")
    folder = cut_off(expected, tmp_path / "cut", after)
    run(folder, *BEST_BY)
    assert same(folder, expected)


def test_a_broken_best_checkpoint_is_told(
    run: Run, chosen: tuple[Path, int], tmp_path: Path
) -> None:
    expected, _ = chosen
    folder = cut_off(expected, tmp_path / "cut", 6)
    best = folder / "checkpoints" / f"checkpoint-{record(expected)['step']}"
    shutil.rmtree(best)
    with pytest.raises(UserError, match=rf"{best}, the best of the run by train.best_by"):
        run(folder, *BEST_BY)


def test_the_worst_group_of_validation_pairs_can_choose(run: Run, tmp_path: Path) -> None:
    folder = run(
        tmp_path / "run",
        *BEST_BY,
        "train.best_by=opa/worst_group",
        "data.limit=60",
        "evals.every_pairs=null",
        "evals.every_steps=3",
        "evals.min_users=2",
    )
    key = "eval_in_domain/opa/worst_group"
    by_step = {row["step"]: row[key] for row in logged(folder) if key in row}
    assert list(by_step) == [3, 6]
    found = record(folder)
    assert found["value"] == max(by_step.values())
    assert found["step"] == min(step for step, x in by_step.items() if x == found["value"])
    rows = [row for row in lines(folder / "metrics.jsonl") if row["set"] == "in_domain"]
    (worst,) = [
        row for row in rows if row["metric"] == "opa/worst_group" and row["stage"] == "tuned"
    ]
    groups = {
        row["group"]: row["value"]
        for row in rows
        if (row["stage"], row["metric"], row["group_by"]) == ("tuned", "opa/acc@0", "level")
    }
    assert worst["value"] == min(groups.values())
    assert worst["low"] is not None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evals.every_pairs=1"], r"needs 2 groups of evals.worst_by=level .*every_pairs=null"),
        (["data.val=null"], r"set data.val=PATH"),
        (
            ["evals.worst_by=dimension+level", "evals.every_pairs=null", "evals.min_users=50"],
            r"of the 10 validation pairs that are evaluated 0 are \(none\)\.$",
        ),
        (["evals.worst_by=shoe_size"], "no pair of in_domain has it"),
    ],
)
def test_what_validation_pairs_cannot_tell_is_refused_before_training(
    run: Run, tmp_path: Path, overrides: list[str], message: str
) -> None:
    settings = [*BEST_BY, "train.best_by=opa/worst_group", "evals.min_users=1", *overrides]
    with pytest.raises(UserError, match=message):
        run(tmp_path / "run", *settings)
    assert not (tmp_path / "run").exists()
