"""`train.stop_on`: training ends at the first evaluation that passes a bound, or says so."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_files import WEIGHTS, adapter_bytes, cut_off, score_bytes
from stop_requests import AtCheck

from mvp_align.runs.checkpoints import list_checkpoints
from mvp_align.runs.curve_points import read_curves
from mvp_align.runtime import preemption
from mvp_align.runtime.preemption import Preempted

Run = Callable[..., Path]

SHIFT = "eval/in_domain/opa/chosen_shift"
RATIO = "eval/neutral/damage/perplexity_ratio"
WATCHED = [
    "evals=in_domain",
    "evals.every_steps=1",
    "evals.every_pairs=4",
    "evals.batch_size=2",
    "train.max_steps=6",
    "train.save_steps=4",
    "run.logp_cache=false",
    "train.disable_dropout=false",
    "lora.dropout=0.2",
    # high enough that it does damage
    "train.learning_rate=3e-2",
    "train.lr_scheduler=constant",
]
NEVER = ["train.stop_on.chosen_shift=-99", "train.stop_on.perplexity=1e9"]


def by_step(folder: Path, name: str) -> dict[int, float]:
    points = read_curves(folder / "curves.jsonl")
    return {point.step: point.values[name] for point in points if name in point.values}


@pytest.fixture(scope="module")
def unbound(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that measures both, and passes neither bound."""
    return run(tmp_path_factory.mktemp("runs") / "unbound", *WATCHED, *NEVER)


@pytest.fixture(scope="module")
def bound(unbound: Path) -> list[str]:
    """A bound that step 4, amid the second epoch, is the first to pass."""
    ratios = by_step(unbound, RATIO)
    limit = (max(ratios[step] for step in (1, 2, 3)) + ratios[4]) / 2
    assert 1 < limit < ratios[4]
    # of these save steps none is step 4
    return [*WATCHED, "train.save_steps=5", f"train.stop_on.perplexity={limit}"]


@pytest.fixture(scope="module")
def ended(run: Run, bound: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """An uninterrupted run under that bound, and its number of checks for a stop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preemption, "request", never := AtCheck(-1))
        folder = run(tmp_path_factory.mktemp("runs") / "ended", *bound)
    return folder, never.count


def passed(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "notes.json").read_text())["passed_bounds"]
    return found


def same(folder: Path, expected: Path) -> bool:
    files = ("metrics.jsonl", "curves.jsonl", "notes.json")
    return (
        adapter_bytes(folder) == adapter_bytes(expected)
        and score_bytes(folder) == score_bytes(expected)
        and all((folder / name).read_bytes() == (expected / name).read_bytes() for name in files)
    )


def test_training_ends_where_the_bound_is_passed_and_the_run_as_any_other(
    unbound: Path, ended: tuple[Path, int], bound: list[str]
) -> None:
    folder, _ = ended
    before = (unbound / "curves.jsonl").read_text().splitlines()
    assert (folder / "curves.jsonl").read_text().splitlines() == before[:4]
    # it kept the adapter of that step, and evaluated it
    at_4 = unbound / "checkpoints" / "checkpoint-4" / WEIGHTS
    assert adapter_bytes(folder) == at_4.read_bytes() != adapter_bytes(unbound)
    assert [step for step, _ in list_checkpoints(folder / "checkpoints")] == [4]
    assert (folder / "DONE").is_file()
    assert "passed_bounds" not in json.loads((unbound / "notes.json").read_text())
    (one,) = passed(folder)
    limit = float(bound[-1].rpartition("=")[2])
    assert one | {"sentence": ""} == {
        "setting": "train.stop_on.perplexity",
        "metric": "neutral/damage/perplexity_ratio",
        "step": 4,
        "value": by_step(unbound, RATIO)[4],
        "limit": limit,
        "stopped": True,
        "sentence": "",
    }
    assert one["sentence"].endswith(
        f" times the base model's, above train.stop_on.perplexity={limit:g}: training stopped there"
    )
    assert one["sentence"].startswith("at step 4 the perplexity of the neutral text was 1.0")


def test_the_reason_is_told_in_the_terminal_and_the_report(
    run: Run, bound: list[str], ended: tuple[Path, int], tmp_path: Path, capfd: Any
) -> None:
    folder = run(tmp_path / "told", *bound)
    shown = capfd.readouterr()
    (one,) = passed(folder)
    assert f"Bound passed: {one['sentence']}." in shown.out + shown.err
    assert f"Training: {one['sentence']}." in shown.out
    plan = f"stops where the perplexity of the neutral text is above {one['limit']:g} times the"
    assert plan in " ".join(shown.out.split())
    escaped = one["sentence"].replace("'", "&#39;")
    report = (folder / "report.html").read_text("utf-8")
    assert escaped in report or one["sentence"] in report
    assert same(folder, ended[0])


def test_warn_lets_training_go_on(
    run: Run, unbound: Path, bound: list[str], tmp_path: Path, capfd: Any
) -> None:
    folder = run(tmp_path / "warned", *bound, "train.save_steps=4", "train.stop_on.action=warn")
    shown = "".join(capfd.readouterr())
    (one,) = passed(folder)
    assert (one["step"], one["stopped"]) == (4, False)
    assert "training went on (train.stop_on.action=warn)" in one["sentence"]
    assert "warns where the perplexity of the neutral text is above" in " ".join(shown.split())
    assert shown.count("Bound passed") == 1  # step 6 passes it as well
    assert by_step(unbound, RATIO)[6] > one["limit"]
    assert adapter_bytes(folder) == adapter_bytes(unbound)
    assert (folder / "curves.jsonl").read_bytes() == (unbound / "curves.jsonl").read_bytes()


def test_the_chosen_answers_have_a_bound_of_their_own(
    run: Run, unbound: Path, tmp_path: Path
) -> None:
    shifts = by_step(unbound, SHIFT)
    first = min(step for step, shift in shifts.items() if shift < -0.05)
    folder = run(tmp_path / "run", *WATCHED, *NEVER, "train.stop_on.chosen_shift=-0.05")
    (one,) = passed(folder)
    assert (one["setting"], one["step"]) == ("train.stop_on.chosen_shift", first)
    assert one["value"] == shifts[first]
    assert "nats a token, below train.stop_on.chosen_shift=-0.05" in one["sentence"]
    assert list(by_step(folder, SHIFT)) == list(range(1, first + 1))


@pytest.mark.parametrize("share", [0.6, 0.7, 0.75, 0.8, 0.9])
def test_an_interrupted_run_ends_in_the_same_bytes(
    run: Run,
    ended: tuple[Path, int],
    bound: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
) -> None:
    """Some of these lie amid the evaluation that passes the bound; the checkpoint is then there,
    and the Trainer would take a step from it."""
    expected, looks = ended
    folder = tmp_path / "stopped"
    monkeypatch.setattr(preemption, "request", AtCheck(round(share * looks)))
    with pytest.raises(Preempted):
        run(folder, *bound)
    monkeypatch.setattr(preemption, "request", AtCheck(-1))
    run(folder, *bound)
    assert same(folder, expected)


def test_a_run_killed_after_it_was_stopped_takes_no_step(
    run: Run, ended: tuple[Path, int], bound: list[str], tmp_path: Path
) -> None:
    folder = cut_off(ended[0], tmp_path / "cut", 4)
    run(folder, *bound)
    assert same(folder, ended[0])


def test_the_best_of_the_evaluations_up_to_there_is_kept(
    run: Run, unbound: Path, bound: list[str], tmp_path: Path
) -> None:
    margins = by_step(unbound, "eval/in_domain/opa/margin")
    folder = run(tmp_path / "best", *bound, "train.best_by=opa/margin")
    record = json.loads((folder / "notes.json").read_text())
    assert record["best_checkpoint"]["step"] == max((1, 2, 3, 4), key=lambda step: margins[step])
    assert record["best_checkpoint"]["evaluations"] == 4
    assert [one["step"] for one in record["passed_bounds"]] == [4]


def test_a_recipe_of_chosen_answers_is_watched_too(run: Run, tmp_path: Path) -> None:
    folder = run(
        tmp_path / "sft", *WATCHED, "recipe=lora_sft", "train.stop_on.perplexity=1.0000001"
    )
    ratios = by_step(folder, RATIO)
    first = min(step for step, ratio in ratios.items() if ratio > 1.0000001)
    assert (passed(folder)[0]["step"], max(ratios)) == (first, first)
