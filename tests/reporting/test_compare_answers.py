"""Comparison of runs by their answers: numbers by hand, on the pairs that both runs have."""

import io
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from mvp_align.errors import UserError
from mvp_align.reporting.compare_answers import print_answers_compared, share_answers_alone
from mvp_align.runs.pair_files import PairValues, keep_values
from mvp_align.runs.run_folder import RunFolder
from mvp_align.schema import PairScore

PAA = "paa/dvb_judge"


def run_of(
    path: Path, wins: Mapping[str, float], stage: str = "base", metric: str = PAA, who: str = "u"
) -> Path:
    """A run whose answers won or lost, one a person."""
    folder = RunFolder(path, resumed=False)
    lines = [PairValues(name, f"{who}-{name}", {metric: value}) for name, value in wins.items()]
    folder.values(stage, "in_domain").parent.mkdir(parents=True, exist_ok=True)
    keep_values(folder.values(stage, "in_domain"), [metric], lines)
    return path


def comparison(*runs: Path, metric: str | None = PAA) -> str:
    console = Console(file=io.StringIO(), width=160)
    print_answers_compared(runs, "in_domain", metric, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def cells(text: str, run: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"│ {run} ")]
    return [cell.strip() for cell in line.split("│")[2:-1]]


def test_a_difference_is_of_the_pairs_that_both_have(tmp_path: Path) -> None:
    # of the four shared pairs one won before and three now: two more of four
    one = run_of(tmp_path / "one", {"a": 1, "b": 0, "c": 0, "d": 0, "x": 1})
    two = run_of(tmp_path / "two", {"a": 1, "b": 1, "c": 1, "d": 0, "y": 0, "z": 0})
    text = comparison(one, two)
    assert cells(text, "one")[1].startswith("40.0 [")
    assert cells(text, "one")[2:] == ["5", "5", "", ""]
    assert cells(text, "two")[1].startswith("50.0 [")
    assert cells(text, "two")[4].startswith("+50.0 [") and cells(text, "two")[5] == "4"
    assert "acc@0" not in text


def test_a_run_counts_with_the_model_it_ends_in(tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", {"a": 0, "b": 0})
    two = run_of(tmp_path / "two", {"a": 0, "b": 0})
    run_of(two, {"a": 1, "b": 1}, stage="tuned")
    assert [cells(comparison(one, two), name)[0] for name in ("one", "two")] == ["base", "tuned"]
    assert cells(comparison(one, two), "two")[4].startswith("+100.0")


def test_without_a_metric_all_that_they_share_is_shown(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name, {"a": 1, "b": 0}) for name in ("one", "two")]
    for run in runs:
        run_of(run, {"a": 1, "b": 1}, metric="spmr@0.8")
    run_of(runs[0], {"a": 1, "b": 1}, metric="paa/semantic")
    text = comparison(*runs, metric=None)
    assert "acc@0 is not compared" in text
    assert f"in_domain: {PAA}," in text and "in_domain: spmr@0.8," in text
    assert "paa/semantic" not in text


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", {"a": 1, "b": 0})
    with pytest.raises(UserError, match=r"--metric spmr@0\.8: not measured .* All have: paa/dvb_"):
        comparison(one, metric="spmr@0.8")
    with pytest.raises(UserError, match="nothing has measured no answers to in_domain"):
        comparison(one, tmp_path / "nothing")
    others = run_of(tmp_path / "others", {"a": 1, "b": 0}, who="somebody")
    with pytest.raises(UserError, match="were measured on different pairs"):
        comparison(one, others)
    unlike = run_of(tmp_path / "unlike", {"a": 1}, metric="paa/semantic")
    with pytest.raises(UserError, match="nor a metric of answers in common"):
        comparison(one, unlike, metric=None)


def test_scores_of_all_runs_come_first(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name, {"a": 1}) for name in ("one", "two")]
    assert share_answers_alone(runs, "in_domain")
    for run in runs:
        score = PairScore("a", "u-a", -1.0, -2.0, 3, 4)
        RunFolder(run, resumed=False).write_scores("tuned", "in_domain", [score])
    assert not share_answers_alone(runs, "in_domain")
    assert not share_answers_alone([tmp_path / "nothing"], "in_domain")
