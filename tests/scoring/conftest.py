"""A tiny model whose weights are large, so that wrong attention changes its scores."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

Sharpen = Callable[[PreTrainedModel], PreTrainedModel]


@pytest.fixture
def load_sharp(tiny_model: Path, sharpen: Sharpen) -> Callable[..., PreTrainedModel]:
    """`load_sharp(attn_implementation="eager")`: the sharpened LLaMA in fp32, eval mode."""

    def load(**options: str) -> PreTrainedModel:
        return sharpen(
            AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, **options)
        )

    return load
