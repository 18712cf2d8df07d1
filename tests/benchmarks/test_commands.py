"""Run both benchmark commands end to end on a two-layer model.

Every contender runs, all agree, and the figures are written.
"""

import json
import os
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import scoring, trainers_beside_trl, training
from benchmarks.work import Task, evaluation_pairs, training_pairs


def run(module, arguments: list[str], overrides: list[str], tmp_path: Path) -> dict[str, float]:
    app = typer.Typer()
    app.command()(module.main)
    result = CliRunner().invoke(
        app, [*arguments, "--json", str(tmp_path / "figures.json"), *overrides]
    )
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads((tmp_path / "figures.json").read_text())


@pytest.fixture
def overrides(sharp_model: Path) -> list[str]:
    return [f"model.id={sharp_model}", "model.name=sharp", "hardware=cpu"]


@pytest.mark.slow
def test_scoring_agrees_with_its_rivals_and_writes_its_figures(overrides, tmp_path: Path) -> None:
    figures = run(scoring, ["--pairs", "20", "--repeats", "1"], overrides, tmp_path)
    assert set(figures) == {
        "ratio_vs_sequential", "ratio_vs_lm_eval", "gemm_share", "max_abs_error",
        "lm_eval_max_abs_error",
        "peak_memory_ratio",
    }  # fmt: skip
    assert figures["max_abs_error"] < 5e-5
    assert figures["lm_eval_max_abs_error"] < 5e-5
    assert 0 < figures["gemm_share"] < 1


@pytest.mark.slow
def test_training_agrees_with_trl_and_writes_its_figures(overrides, tmp_path: Path) -> None:
    arguments = ["--pairs", "8", "--repeats", "1", "--compare-steps", "3"]
    figures = run(training, arguments, [*overrides, "train.learning_rate=1e-3"], tmp_path)
    assert set(figures) == {
        "ratio_vs_trl_cold", "ratio_vs_trl_warm", "ratio_vs_trl_precomputed", "gemm_share",
        "max_abs_error",
        "loss_max_rel_error", "grad_norm_max_rel_error", "peak_memory_ratio",
    }  # fmt: skip
    assert figures["loss_max_rel_error"] < 1e-4
    assert figures["grad_norm_max_rel_error"] < 1e-4
    assert 0 < figures["gemm_share"] < 1


def test_steps_beside_trl_on_a_random_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MVP_ALIGN_CACHE", os.environ.get("MVP_ALIGN_CACHE", ""))  # put back
    app = typer.Typer()
    app.command()(trainers_beside_trl.main)
    words = ["tiny", "--micro", "2", "--batch", "2", "--steps", "3"]
    result = CliRunner().invoke(app, [*words, "--parts", "steps,scoring,profile"])
    assert result.exit_code == 0, (result.output, result.exception)
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    found = {line["what"]: line for line in lines}
    ours, theirs = found[training.OURS], found[training.TRL]
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-3)
    assert ours["grad_norms"] == pytest.approx(theirs["grad_norms"], rel=1e-3)
    assert 0 < ours["gemm_share"] < 1
    assert found[training.TRL_PRECOMPUTED]["step_seconds"] > 0
    assert found["scoring"]["max_abs_error_per_token"] < 1e-4
    assert any("mm" in line["kernel"] for line in lines if line["what"] == "profile")


def test_pairs_of_a_file_in_the_other_schema(shared: Path) -> None:
    task = Task("smollm2_135m", str(shared / "data" / "psoups_friendly.json"), 10)
    assert len(training_pairs(task)) == 10
    assert len(evaluation_pairs(Task("smollm2_135m", task.data, 1000))[1]) == 128
