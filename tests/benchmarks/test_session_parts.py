"""The parts of a GPU session that no other benchmark has, on a tiny model."""

import json

import pytest
from typer.testing import CliRunner

from benchmarks.random_llama import with_tokenizer
from benchmarks.session_parts import app


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory):
    """`part("scoring", ...)`: the figures that it writes."""
    root = tmp_path_factory.mktemp("session")
    folder = with_tokenizer("tiny", root / "model")

    def figures(name: str, *words: str) -> dict:
        file = root / f"{name}.json"
        result = CliRunner().invoke(app, [name, str(folder), "--json", str(file), *words])
        assert result.exit_code == 0, (result.output, result.exception)
        return json.loads(file.read_text())

    return figures


def test_scoring_agrees_with_padded_rows(part) -> None:
    found = part("scoring", "--pairs", "12", "--batches", "2,6", "--plain", "5")
    assert found["batch"] in (2, 6)
    assert found["pairs_per_second"] > 0 and found["plain_pairs_per_second"] > 0
    assert 0 < found["product_share"] < 1
    assert found["max_error_per_token"] < 1e-4


def test_answers_are_counted(part) -> None:
    found = part("generation", "--answers", "8", "--more", "8", "--tokens", "3")
    rate = found["plain_answers_per_second"]
    assert 0 < found["plain_tokens_per_second"] <= 3.01 * rate
    assert found["ratio"] > 0


def test_losses_equal_the_plain_path_s_in_fp32(part) -> None:
    found = part("losses", "--steps", "3", "--batch", "2")
    assert len(found["ours_fp32"]) == len(found["plain_fp32"]) == 3
    assert abs(found["plain_fp32"][0] - 0.6931) > 1e-3  # the adapter differs from its reference
    assert found["gap_fp32"] < 1e-5
