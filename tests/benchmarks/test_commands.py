"""Run both benchmark commands end to end on a two-layer model.

Every contender runs, all agree, and the figures are written.
"""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from benchmarks import scoring, training, training_epochs, training_gpu
from benchmarks.contenders import TRL_PRECOMPUTED, UNSLOTH
from benchmarks.random_llama import with_tokenizer
from benchmarks.work import Task, evaluation_pairs, training_pairs


def run(module, arguments: list[str], overrides: list[str], tmp_path: Path) -> dict[str, float]:
    app = typer.Typer()
    app.command()(module.main)
    result = CliRunner().invoke(
        app, [*arguments, "--json", str(tmp_path / "figures.json"), *overrides]
    )
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads((tmp_path / "figures.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_tokenizer("tiny", tmp_path_factory.mktemp("random") / "model")


@pytest.fixture(scope="module")
def overrides(folder: Path, tmp_path_factory: pytest.TempPathFactory, sharpen) -> list[str]:
    """A sharpened model of two layers with a small vocabulary, which is most of a tiny model.

    Its head is as it was: logits in the hundreds underflow to subnormal numbers, which are slow.
    """
    sharp = tmp_path_factory.mktemp("sharp") / "model"
    shutil.copytree(folder, sharp)
    model = AutoModelForCausalLM.from_pretrained(folder)
    head = model.lm_head.weight.clone()
    sharpen(model).lm_head.weight.data.copy_(head)
    model.save_pretrained(sharp)
    return [f"model.id={sharp}", "model.name=sharp", "hardware=cpu"]


def test_scoring_agrees_with_its_rivals_and_writes_its_figures(
    overrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {scoring.OURS: (4, 8), scoring.SEQUENTIAL: (1,), scoring.LM_EVAL: (4,)}
    monkeypatch.setattr(scoring, "SIZES", sizes)
    figures = run(scoring, ["--pairs", "20", "--repeats", "1"], overrides, tmp_path)
    assert set(figures) == {
        "ratio_vs_sequential", "ratio_vs_lm_eval", "gemm_share", "max_abs_error",
        "lm_eval_max_abs_error",
        "peak_memory_ratio",
    }  # fmt: skip
    assert figures["max_abs_error"] < 5e-5
    assert figures["lm_eval_max_abs_error"] < 5e-5
    assert 0 < figures["gemm_share"] < 1


def test_training_agrees_with_trl_and_writes_its_figures(
    overrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {training_epochs.OURS: (2, 4), training_epochs.TRL: (2,)}
    monkeypatch.setattr(training_epochs, "MICRO_BATCHES", sizes)
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


def test_options_of_the_other_mode_are_refused(overrides) -> None:
    app = typer.Typer()
    app.command()(training.main)
    for words, named in ((["--gpu", "--quick"], "--quick"), (["--steps", "9"], "--steps")):
        result = CliRunner().invoke(app, [*words, *overrides])
        assert result.exit_code == 2 and f"{named} is not used" in result.output


def test_rivals_passes_are_found_and_taken(folder: Path, tmp_path: Path) -> None:
    """Each in a process of its own, and one that is not installed is named with the reason."""
    assert find_spec("unsloth") is None
    found = tmp_path / "passes.json"
    gpu = ["--gpu", "--shape", "tiny", "--folder", str(folder), "--batch", "2", "--steps", "4"]
    only = ["--only", "trl"]
    app = typer.Typer()
    app.command()(training.main)
    result = CliRunner().invoke(app, [*gpu, *only, "--find", str(found)])
    assert result.exit_code == 0, (result.output, result.exception)
    (case,) = json.loads(found.read_text()).values()
    passes = case["trl"]
    assert (passes["micro"], passes["checkpointing"]) in training_gpu.defaults(2)
    assert result.output.count("pairs/s") == len(training_gpu.defaults(2))

    passes["micro"], passes["checkpointing"] = 1, True
    found.write_text(json.dumps({"tiny batch=2": {"trl": passes}}))
    more = ["--only", "precomputed", "--only", "unsloth", "--settings", str(found)]
    figures = run(training, [*gpu, *more], [], tmp_path)
    assert figures["rehearsal"] is True
    rows = {row["name"]: row for row in figures["rows"]}
    assert rows.keys() == {TRL_PRECOMPUTED, UNSLOTH}
    assert "No module named 'unsloth'" in rows[UNSLOTH]["failed"]
    assert rows[TRL_PRECOMPUTED]["micro"] == 1
    assert rows[TRL_PRECOMPUTED]["checkpointing"] is True
    assert rows[TRL_PRECOMPUTED]["kernels"] > 0
    other = CliRunner().invoke(app, [*gpu, "--settings", str(found), "lora.r=4"])
    assert other.exit_code == 2 and "holds nothing" in other.output


def test_pairs_of_a_file_in_the_other_schema(shared: Path) -> None:
    task = Task("smollm2_135m", str(shared / "data" / "psoups_friendly.json"), 10)
    assert len(training_pairs(task)) == 10
    assert len(evaluation_pairs(Task("smollm2_135m", task.data, 1000))[1]) == 128
