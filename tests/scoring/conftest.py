"""A tiny model on which mistakes show: its weights are large enough that every token looks at every other one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

Sharpen = Callable[[PreTrainedModel], PreTrainedModel]


@pytest.fixture(scope="session")
def sharpen() -> Sharpen:
    """Fresh weights (0.02) give near-uniform attention and near-uniform logits, under which a wrong mask goes unseen."""

    def sharpened(model: PreTrainedModel) -> PreTrainedModel:
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.Linear):
                    module.weight.mul_(6)
        return model.eval()

    return sharpened


@pytest.fixture
def load_sharp(tiny_model: Path, sharpen: Sharpen) -> Callable[..., PreTrainedModel]:
    """`load_sharp(attn_implementation="eager")`: the tiny LLaMA in fp32, sharpened, in evaluation mode."""

    def load(**options: str) -> PreTrainedModel:
        return sharpen(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, **options))

    return load
