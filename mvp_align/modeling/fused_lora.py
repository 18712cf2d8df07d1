"""LoRA layers with as few kernels as their products allow.

PEFT adds an adapter's product to a layer's output in separate steps. In 16 bits, with the adapter
in fp32, autograd then copies the input to fp32 and back, keeps both copies for the backward pass,
and multiplies and adds in passes of their own: of a GPU's time in a step of LLaMA-2-7B, a third
went there. Here a layer is one autograd function. It keeps its input as it is (so that q, k and v
keep one), lets the products scale and add, and casts the adapter's two small factors instead.

    y = x W^T + b + s (x A^T) B^T

Hu et al. 2021 (LoRA), equation 3; s is alpha / r. In fp32 the result is PEFT's up to the order of
summation.
"""

from types import MethodType
from typing import Any

import torch
from peft import PeftModel
from peft.tuners import lora
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor
from typing_extensions import override


def fuse_adapters(model: PeftModel) -> int:
    """Give every plain LoRA layer of `model` the fused forward, and return their number.

    Layers of other kinds (4-bit, DoRA) keep PEFT's, and so does a fused one whenever it is used in
    another way: disabled or merged, with dropout, several adapters at once, sharded weights, or in
    16 bits without autocast, where PEFT multiplies in the adapter's fp32.
    """
    layers = [module for module in model.modules() if _is_plain(module)]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def _is_plain(module: nn.Module) -> bool:
    return type(module) is lora.Linear and type(module.get_base_layer()) is nn.Linear


def _forward(layer: lora.Linear, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    output: Tensor
    name = None if args or kwargs else _fusible_adapter(layer)
    autocast = torch.is_autocast_enabled(x.device.type)
    # without autocast PEFT multiplies in the adapter's precision
    if name is None or not (autocast or x.dtype == layer.lora_A[name].weight.dtype):
        output = type(layer).forward(layer, x, *args, **kwargs)
        return output
    if autocast:
        x = x.to(torch.get_autocast_dtype(x.device.type))
    base, a, b = layer.get_base_layer(), layer.lora_A[name].weight, layer.lora_B[name].weight
    output = FusedLora.apply(  # type: ignore[no-untyped-call]
        x, base.weight, base.bias, a, b, float(layer.scaling[name])
    )
    return output


def _fusible_adapter(layer: lora.Linear) -> str | None:
    """Return the one adapter that a call of `layer` adds as it is, or None."""
    if layer.disable_adapters or layer.merged:
        return None
    active: list[str] = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(active) != 1 or active[0] in layer.lora_variant or layer.lora_bias[active[0]]:
        return None
    (name,) = active
    dropout, base = layer.lora_dropout[name], layer.get_base_layer()
    drops = layer.training and getattr(dropout, "p", 0.0) > 0
    weights = (base.weight, layer.lora_A[name].weight)
    if drops or base.weight.requires_grad or any(isinstance(one, DTensor) for one in weights):
        return None
    return name


class FusedLora(torch.autograd.Function):
    """x [..., in], W [out, in], b [out] or None, A [r, in], B [out, r] -> y [..., out].

    W and b are frozen. All products are in the dtype of x, which W is cast to if it differs;
    gradients of A and B come in their own dtypes.
    """

    @staticmethod
    @override
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weight, narrow_a, narrow_b = (tensor.to(x.dtype) for tensor in (weight, a, b))
            rows = x.reshape(-1, x.shape[-1])
            inner = rows @ narrow_a.T  # [rows, r]
            output = nn.functional.linear(rows, weight, None if bias is None else bias.to(x.dtype))
            output.addmm_(inner, narrow_b.T, alpha=scale)
        ctx.save_for_backward(rows, weight, narrow_a, narrow_b, inner)
        ctx.scale, ctx.shape, ctx.dtypes = scale, x.shape, (a.dtype, b.dtype)
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, a, b, inner = ctx.saved_tensors
        grads = grad.reshape(-1, grad.shape[-1]).to(rows.dtype)
        wants_x, _, _, wants_a, wants_b, _ = ctx.needs_input_grad
        grad_x = grad_a = grad_b = None
        with torch.autocast(rows.device.type, enabled=False):
            if wants_x or wants_a:
                grad_inner = _scaled_product(grads, b, ctx.scale)  # [rows, r]
            if wants_x:
                grad_x = (grads @ weight).addmm_(grad_inner, a).view(ctx.shape)
            if wants_a:
                grad_a = (grad_inner.T @ rows).to(ctx.dtypes[0])
            if wants_b:
                grad_b = _scaled_product(grads.T, inner, ctx.scale).to(ctx.dtypes[1])
        return grad_x, None, None, grad_a, grad_b, None


def _scaled_product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """Return scale x left right, scaled by the product's own kernel."""
    empty = left.new_empty(left.shape[0], right.shape[1])
    return empty.addmm_(left, right, beta=0, alpha=scale)  # beta=0 ignores what is there
