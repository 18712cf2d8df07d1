"""What tests share: configs composed as the command line composes them, and real, small models with a real tokenizer."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may wait for a network
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

import hydra

from mvp_align.config import Config
from mvp_align.launch import CONF_DIR, to_config

SHARED = Path(__file__).parents[2] / "shared"
"""Reference data that stands beside a checkout, never in it: real third-party pairs, golden figures, LLaMA-2's tokens."""

Compose = Callable[..., Config]


@pytest.fixture(scope="session")
def compose() -> Compose:
    """`compose("train.epochs=1", ...)`, or `compose(..., name="evaluate")`: the typed config of a command line."""

    def composed(*overrides: str, name: str = "train") -> Config:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
            return to_config(hydra.compose(name, list(overrides)))

    return composed


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the reference data is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, compose: Compose) -> Path:
    """A folder with a random LLaMA of 2 layers (safetensors) and SmolLM2's real tokenizer, chat template included."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from mvp_align.modeling.source import load_tokenizer, packaged_gguf

    model = compose().model
    if packaged_gguf(model) is None:
        pytest.skip("the demo model's package is not installed: `make setup`")
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tokenizer = load_tokenizer(model)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(tiny_model: Path, tmp_path: Path) -> list[str]:
    """Overrides that make any recipe a run of seconds, in a folder of its own."""
    return [
        f"model.id={tiny_model}",
        "model.name=tiny",
        "model.gguf_package=null",
        "hardware=cpu",
        "tracking=none",
        "data.limit=24",
        "train.max_steps=3",
        "train.learning_rate=1e-3",
        f"run.dir={tmp_path / 'run'}",
    ]
