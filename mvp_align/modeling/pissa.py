"""Start a LoRA adapter as the principal part of each weight, and leave the weight as it is.

PiSSA (Meng et al. 2024, arXiv 2404.02948) takes the r largest singular values of W as B0 A0, trains
B and A from there, and keeps the rest, W - s B0 A0, frozen. PEFT puts that rest in the base's
place, so that switching the adapter off no longer brings the base back: a reference, a base score
and a drift would be those of another model. The same sum, ordered otherwise, keeps the base whole:

    (W - s B0 A0) + s B A  =  W + s [B, -B0] [A; A0]

The right side is a plain LoRA adapter of rank 2r whose second half never changes. It is what PEFT
converts a PiSSA adapter to when it saves one, with the same alpha / r. s is the layer's scaling.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners import lora
from torch import Tensor

from mvp_align.errors import UserError


def principal_config(config: LoraConfig) -> LoraConfig:
    """Return `config` with twice the rank and an alpha that leaves each layer's scaling."""
    # alpha / (2r), or, for rsLoRA, alpha / sqrt(2r)
    factor: Any = 2**0.5 if config.use_rslora else 2  # PEFT's types know whole alphas only
    found = copy.deepcopy(config)
    ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
    found.r *= 2
    found.lora_alpha *= factor
    found.rank_pattern = {name: 2 * rank for name, rank in ranks.items()}
    found.alpha_pattern = {name: factor * alpha for name, alpha in alphas.items()}
    return found


def start_at_principal_part(model: PeftModel, adapter: str, init: str) -> None:
    """Start `adapter`, made by `principal_config`, from PEFT's `init`, and hold its second half.

    `init` is pissa or pissa_niter_N. The adapted model then equals the base up to rounding. Raises
    UserError if a layer is quantised, or its rank is more than its weight has.
    """
    for name, layer in model.named_modules():
        if not isinstance(layer, lora.LoraLayer) or adapter not in layer.lora_A:
            continue
        if not isinstance(layer, lora.Linear):
            raise UserError(
                f"lora.init={init} takes each weight apart, and that of {name} is quantised: leave"
                " it out, or use the unquantised model."
            )
        _start(name, layer, adapter, init)


def _start(name: str, layer: lora.Linear, adapter: str, init: str) -> None:
    rank, weight = layer.r[adapter] // 2, layer.get_base_layer().weight
    assert isinstance(weight, Tensor)
    if rank > min(weight.shape):
        raise UserError(
            f"lora.init={init} at rank {rank}: {name} has a weight of {tuple(weight.shape)}, which"
            f" has no more than {min(weight.shape)} parts. Lower lora.r."
        )
    config = LoraConfig(init_lora_weights=init, fan_in_fan_out=layer.fan_in_fan_out)  # type: ignore[arg-type]
    apart = copy.deepcopy(layer.get_base_layer())  # which PEFT changes
    alpha: float = layer.scaling[adapter] * rank
    principal = lora.Linear(apart, adapter, config, r=rank, lora_alpha=alpha)  # type: ignore[arg-type]
    a, b = _factors(principal, adapter)
    own_a, own_b = _factors(layer, adapter)
    with torch.no_grad():
        own_a.copy_(torch.cat([a, a]))
        own_b.copy_(torch.cat([b, -b], dim=1))
    own_a.register_hook(_first(rank, dim=0))
    own_b.register_hook(_first(rank, dim=1))


def _factors(layer: Any, adapter: str) -> tuple[Tensor, Tensor]:
    """Return A [rank, in] and B [out, rank]."""
    return layer.lora_A[adapter].weight, layer.lora_B[adapter].weight


def _first(rank: int, dim: int) -> Callable[[Tensor], Tensor]:
    """Return a hook that leaves a gradient's first `rank` entries along `dim`, the others zero."""

    def kept(grad: Tensor) -> Tensor:
        found = torch.zeros_like(grad)
        found.narrow(dim, 0, rank).copy_(grad.narrow(dim, 0, rank))
        return found

    return kept
