"""Load the frozen base model in the run's precision, or in 4 bits.

4-bit weights are either quantised for QLoRA or stored that way.
"""

import importlib.util
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

from mvp_align.config import Model
from mvp_align.errors import UserError
from mvp_align.modeling.compiled import compile_layers
from mvp_align.modeling.hardware import Placement
from mvp_align.modeling.packaged import loaded_id, public_name
from mvp_align.modeling.source import load_model_config, locate_weights, unavailable

LOADED = "loaded_from"
"""Attribute of a base model that names the weights it was loaded from.

`name_or_path` is the public name instead.
"""


def load_base(model: Model, placement: Placement, quantization: str = "none") -> PreTrainedModel:
    """Load the causal LM to its device, from safetensors and without remote code.

    Weights that are stored in 4 bits stay in 4 bits. Raises UserError for a missing or gated model,
    weights that do not fit on the device or are stored in an unsupported format, 4-bit without
    bitsandbytes, and a "4-bit" model without any 4-bit layer.
    """
    stored = stored_quantization(load_model_config(model), model)
    four_bit = quantization == "4bit" or stored != "none"
    options: dict[str, Any] = {"dtype": placement.dtype}
    if placement.attention:
        options["attn_implementation"] = placement.attention
    if four_bit:
        _check_bitsandbytes(model)
    if four_bit or placement.device.type != "cpu":
        # each tensor goes there as it is read, or the CPU would hold the whole model first
        options["device_map"] = {"": placement.device}
    if four_bit and stored == "none":
        options["quantization_config"] = _nf4(placement.dtype)
    try:
        base: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            locate_weights(model),
            revision=model.revision,
            use_safetensors=True,
            trust_remote_code=False,
            **options,
        )
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"model={model.name} does not fit on {placement.device}: use"
            f" {'quantization=4bit, ' if quantization == 'none' else ''}a smaller model or a larger"
            " GPU."
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise unavailable(model, error) from error
    except RuntimeError as error:
        if "conversion of the weights" not in str(error):
            raise
        raise UserError(
            f"model={model.name}: the weights could not be brought into this model's form. The"
            " report above says why: a damaged file (fetch or copy it again), or too little memory"
            f" on {placement.device}."
        ) from error
    if four_bit:
        assert_four_bit(base)
        _keep_trainable(base, placement.dtype)
    else:
        nn.Module.to(base, placement.device)  # what transformers left on the CPU
    # An adapter and its card record this name as their base. It must be one that others can load,
    # not a path into this machine's cache.
    base.name_or_path = base.config._name_or_path = public_name(model)
    setattr(base, LOADED, loaded_id(model))
    base.config.use_cache = False
    if placement.compile:
        compile_layers(base)
    return base


def stored_quantization(shape: PreTrainedConfig, model: Model) -> str:
    """Return how a checkpoint's weights are stored: nf4 or fp4 (bitsandbytes), or none.

    Raises UserError for every other format, because we have tested neither gradients nor log-probs
    with it.
    """
    stored = getattr(shape, "quantization_config", None) or getattr(
        shape.get_text_config(), "quantization_config", None
    )
    if not stored:
        return "none"
    found: dict[str, Any] = stored if isinstance(stored, dict) else stored.to_dict()
    method = str(found.get("quant_method", "an unknown method"))
    if found.get("load_in_4bit") or found.get("_load_in_4bit"):
        return str(found.get("bnb_4bit_quant_type", "fp4"))
    eight = found.get("load_in_8bit") or found.get("_load_in_8bit")
    raise UserError(
        f"model={model.name}: the weights of {model.id} are stored quantised"
        f" ({method}{', 8 bits' if eight else ''}), which cannot be trained or scored on here: only"
        " bitsandbytes' 4 bits can. Set model.id to the unquantised model that it was made from;"
        " with quantization=4bit that one takes a quarter of the memory."
    )


def run_quantization(model: Model, asked: str) -> str:
    """Return the quantisation of a run's base.

    That is the stored one (nf4, fp4) if there is one, or else what `quantization` asks for (4bit,
    none).
    """
    stored = stored_quantization(load_model_config(model), model)
    return asked if stored == "none" else stored


def _check_bitsandbytes(model: Model) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"4 bits (quantization=4bit, or weights of {model.id} that are stored so) need"
            " bitsandbytes: `pip install bitsandbytes`. Without it: quantization=none and"
            " unquantised weights."
        )


def _nf4(compute: torch.dtype) -> BitsAndBytesConfig:
    """Return QLoRA's format: NF4 with double quantisation (Dettmers et al. 2023, section 3)."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def quantization_of(model: nn.Module) -> str:
    """Return the quantisation of a loaded model's layers: nf4, fp4, or none."""
    if not getattr(model, "is_loaded_in_4bit", False):
        return "none"
    from bitsandbytes.nn import Params4bit

    return "+".join(
        sorted(
            {
                str(weight.quant_type)
                for weight in model.parameters()
                if isinstance(weight, Params4bit)
            }
        )
    )


def four_bit_layers(model: nn.Module) -> int:
    from bitsandbytes.nn import Linear4bit

    return sum(isinstance(module, Linear4bit) for module in model.modules())


def _keep_trainable(model: nn.Module, compute: torch.dtype) -> None:
    """Keep 4-bit layers trainable on CPUs with bf16 units, and set their compute dtype.

    There, bitsandbytes repacks 4-bit weights at the first pass in eval mode for a bf16 product that
    passes no gradient, so training after any scoring would silently change nothing. A stored model
    also brings its own compute dtype, which we replace by the run's.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
            module.compute_dtype, module.compute_type_is_set = compute, True


def assert_four_bit(model: nn.Module) -> None:
    """Raise UserError if no layer is 4-bit.

    Some stacks accept a 4-bit config and load full precision, so we count layers instead of
    trusting the flag.
    """
    if four_bit_layers(model) == 0:
        raise UserError(
            "The model was to be in 4 bits (quantization=4bit, or stored so), but no layer of the"
            " loaded model is 4-bit: do not trust this run."
        )
