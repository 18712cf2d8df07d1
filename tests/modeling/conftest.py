"""The sharpened tiny model, loaded as in the recipes, and an adapter that changes its scores."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mvp_align.config import Config, Lora, Model
from mvp_align.data.prompts import PAPER, render_prompts
from mvp_align.modeling.adapters import new_adapter, save_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import Placement
from mvp_align.modeling.source import load_tokenizer
from mvp_align.schema import PreferencePair
from mvp_align.scoring.tokens import TokenizedPair, tokenize_pairs


@pytest.fixture
def model_config(compose: Callable[..., Config], sharp: list[str]) -> Model:
    return compose(*sharp).model


@pytest.fixture
def tokenizer(model_config: Model) -> PreTrainedTokenizerBase:
    return load_tokenizer(model_config)


@pytest.fixture
def load(model_config: Model, placement: Placement) -> Callable[..., PreTrainedModel]:
    """`load()` or `load("4bit")`."""

    def loaded(quantization: str = "none") -> PreTrainedModel:
        return load_base(model_config, placement, quantization)

    return loaded


@pytest.fixture
def trained(load: Callable[..., PreTrainedModel]) -> PeftModel:
    """The model with an adapter whose B is not zero."""
    model = new_adapter(load(), Lora(), seed=12)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model.eval()


@pytest.fixture
def adapter(trained: PeftModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    save_adapter(trained, tokenizer, tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def tokens(
    few_pairs: list[PreferencePair], tokenizer: PreTrainedTokenizerBase
) -> list[TokenizedPair]:
    return tokenize_pairs(render_prompts(few_pairs, PAPER, tokenizer), tokenizer).pairs
