"""The frozen base model: loaded in the run's precision, or quantised to 4 bits for QLoRA."""

import importlib.util
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from mvp_align.config import Model
from mvp_align.errors import UserError
from mvp_align.modeling.hardware import Placement
from mvp_align.modeling.packaged import loaded, public_name
from mvp_align.modeling.source import locate, unavailable

LOADED = "loaded_from"
"""Of a base model: the weights that were really loaded, where `name_or_path` is what others know them by."""


def load_base(model: Model, placement: Placement, quantization: str = "none") -> PreTrainedModel:
    """The causal LM on its device, from safetensors and without remote code.

    Raises UserError for a missing or gated model, weights that do not fit, 4-bit without bitsandbytes, and a "4-bit"
    model in which no layer is 4-bit.
    """
    options: dict[str, Any] = {"dtype": placement.dtype}
    if placement.attention:
        options["attn_implementation"] = placement.attention
    if quantization == "4bit":
        options |= {"quantization_config": nf4(placement.dtype), "device_map": {"": placement.device}}
    try:
        base: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            locate(model), revision=model.revision, use_safetensors=True, trust_remote_code=False, **options
        )
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"model={model.name} does not fit on {placement.device}: use quantization=4bit, a smaller model or a larger GPU."
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise unavailable(model, error) from error
    if quantization == "4bit":
        assert_four_bit(base)
        keep_trainable(base)
    else:
        nn.Module.to(base, placement.device)
    # An adapter and its card record this name as its base: what others can load, never a path into this machine's cache.
    base.name_or_path = base.config._name_or_path = public_name(model)
    setattr(base, LOADED, loaded(model))
    base.config.use_cache = False
    return base


def nf4(compute: torch.dtype) -> BitsAndBytesConfig:
    """QLoRA's format: NF4 with double quantisation (Dettmers et al. 2023, section 3)."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("quantization=4bit needs bitsandbytes: `pip install bitsandbytes`, or use quantization=none.")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def four_bit_layers(model: nn.Module) -> int:
    from bitsandbytes.nn import Linear4bit

    return sum(isinstance(module, Linear4bit) for module in model.modules())


def keep_trainable(model: nn.Module) -> None:
    """On CPUs with bf16 units, bitsandbytes repacks 4-bit weights at the first pass in eval mode, for a product in bf16 that
    no gradient flows through: training after any scoring would then change nothing, without a word."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def assert_four_bit(model: nn.Module) -> None:
    """Some stacks accept a 4-bit config and load full precision: count the layers instead of trusting the flag."""
    if four_bit_layers(model) == 0:
        raise UserError(
            "quantization=4bit was asked for, but no layer of the loaded model is 4-bit: do not trust this run."
        )
