"""Tiny copies of models: the same classes and kinds of layers with random weights.

Building one takes a fraction of a second.
"""

import copy
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

HEADS, EXPERTS, WIDTH, VOCABULARY = 2, 16, 96, 128
PARAMETERS = 50_000_000
"""Upper limit for a copy: a larger one takes too long to fill.

If a copy exceeds it, `_shrunken` missed what makes the model large.
"""


def tiny_copy(config: PreTrainedConfig) -> PreTrainedModel | None:
    """Build a tiny fp32 copy in eval mode, or return None if this config cannot be shrunk.

    The weights are large enough that every token attends to every other, and biases are nonzero.
    The random state is preserved.
    """
    try:
        shape = _shrunken(config)
        options: dict[str, Any] = {
            "dtype": torch.float32,
            "attn_implementation": config._attn_implementation,
        }
        with torch.device("meta"):
            blank = AutoModelForCausalLM.from_config(copy.deepcopy(shape), **options)
        if sum(parameter.numel() for parameter in blank.parameters()) > PARAMETERS:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: PreTrainedModel = AutoModelForCausalLM.from_config(shape, **options)
            _sharpen(model)
    except Exception:  # some families require sizes that agree in their own way
        return None
    model.eval()
    return model


def _shrunken(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return a config with few heads of the original width, and one layer of each kind."""
    shape = copy.deepcopy(config)
    text = shape.get_text_config()
    if hasattr(shape, "quantization_config"):
        del shape.quantization_config
    layers, heads = text.num_hidden_layers, getattr(text, "num_attention_heads", None)
    kept = _kept_layers(getattr(text, "layer_types", None), layers)
    for name, value in vars(config.get_text_config()).items():
        if isinstance(value, list) and len(value) == layers:
            setattr(text, name, [value[number] for number in kept])
        elif name.endswith("_token_id") and value is not None:
            setattr(text, name, {"pad_token_id": 0, "bos_token_id": 1}.get(name, 2))
        elif "intermediate_size" in name and isinstance(value, int):
            setattr(text, name, min(value, WIDTH))
        elif name in ("num_experts", "num_local_experts", "n_routed_experts") and isinstance(
            value, int
        ):
            setattr(text, name, min(value, EXPERTS))
    if heads:
        text.hidden_size = HEADS * (getattr(text, "head_dim", None) or text.hidden_size // heads)
        if getattr(text, "num_key_value_heads", None):
            text.num_key_value_heads = HEADS if text.num_key_value_heads == heads else HEADS // 2
        text.num_attention_heads = HEADS
    text.num_hidden_layers = len(kept)
    text.vocab_size = VOCABULARY
    return shape


def _kept_layers(kinds: list[str] | None, layers: int) -> list[int]:
    """Return the indices of the first layer of each kind, at least two in all."""
    if not kinds or len(kinds) != layers:
        return list(range(min(2, layers)))
    firsts = {kinds.index(kind) for kind in kinds}
    return sorted(firsts | {number for number in range(min(2, layers)) if len(firsts) < 2})


def _sharpen(model: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
            elif name.endswith("bias"):
                parameter.normal_(std=0.3)
