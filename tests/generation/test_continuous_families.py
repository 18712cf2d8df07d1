"""Model families under continuous batching: right, or refused in one line before any answer."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from mvp_align.errors import UserError
from mvp_align.generation.continuous import check_continuous, check_continuous_shape

SIZES = {
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
RIGHT: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True},
    "qwen3": {"head_dim": 16},
    "mixtral": {"num_local_experts": 4},
    "granite": {"logits_scaling": 8.0},
    # windows, in SDPA and in eager attention; learned positions
    "mistral": {"sliding_window": 4},
    "gemma2": {"head_dim": 16, "sliding_window": 4, "final_logit_softcapping": 3.0},
    "gpt2": {},
}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    # transformers generates with these, and the answers are wrong
    "bloom": ("nats a token off", {}),
    "mpt": ("nats a token off", {}),
    # attention that does not take the cache, or states that are no keys and values
    "stablelm": ("fails", {"use_qkv_bias": True}),
    "mamba": ("fails", {"state_size": 8, "intermediate_size": 128}),
}


def shape_of(family: str, options: dict[str, Any]) -> PreTrainedConfig:
    known = AutoConfig.for_model(family)
    return AutoConfig.for_model(
        family, **{k: v for k, v in SIZES.items() if hasattr(known, k)} | options
    )


def tiny(shape: PreTrainedConfig) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model.eval()


@pytest.mark.parametrize("family", RIGHT)
def test_families_that_can_be_batched_continuously(family: str) -> None:
    model = tiny(shape_of(family, RIGHT[family]))
    before = model.config._attn_implementation
    check_continuous(model, 100)
    check_continuous_shape(model.config, 100)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("family", REFUSED)
def test_families_that_cannot_are_refused_loaded_or_not(family: str) -> None:
    said, options = REFUSED[family]
    shape = shape_of(family, options)
    model = tiny(shape)
    before = model.config._attn_implementation
    for refused in (
        lambda: check_continuous(model, 100),
        lambda: check_continuous_shape(shape, 100),
    ):
        with pytest.raises(UserError, match=rf"^[^\n]*{said}[^\n]*engine=plain[^\n]*$"):
            refused()
    assert model.config._attn_implementation == before
