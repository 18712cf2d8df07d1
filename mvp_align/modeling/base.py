"""The frozen base model: loaded in the run's precision, or quantised to 4 bits for QLoRA."""

import hashlib
import importlib.util
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from mvp_align.config import Model
from mvp_align.errors import UserError
from mvp_align.modeling.hardware import Placement
from mvp_align.modeling.source import locate, unavailable

FINGERPRINT_SAMPLES = 4096
"""Elements of each parameter that go into the fingerprint, evenly spaced: hashing 7 B parameters whole takes a minute."""


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
    else:
        nn.Module.to(base, placement.device)
    # An adapter records this name as its base: the public id, never a path of this machine.
    base.name_or_path = base.config._name_or_path = model.id
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


def assert_four_bit(model: nn.Module) -> None:
    """Some stacks accept a 4-bit config and load full precision: count the layers instead of trusting the flag."""
    if four_bit_layers(model) == 0:
        raise UserError(
            "quantization=4bit was asked for, but no layer of the loaded model is 4-bit: do not trust this run."
        )


def fingerprint(model: nn.Module) -> str:
    """Hash of the weights: names, shapes, dtypes and evenly spaced elements of every parameter. Adapters do not count."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            continue
        plain = name.replace("base_model.model.", "").replace(".base_layer", "")
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // FINGERPRINT_SAMPLES)].cpu().contiguous()
        digest.update(f"{plain} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
