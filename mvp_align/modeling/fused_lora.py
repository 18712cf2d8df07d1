"""LoRA layers with as few kernels as their products allow.

PEFT adds an adapter's product to a layer's output in separate steps. In 16 bits, with the adapter
in fp32, autograd then copies the input to fp32 and back, keeps both copies for the backward pass,
and multiplies and adds in passes of their own: of a GPU's time in a step of LLaMA-2-7B, a third
went there. Here layers that read one input, such as q, k and v, are one autograd function. It
keeps that input as it is and once, lets the products scale and add, stacks the adapters' matrices
A for one product, and casts their small factors instead of the input.

    y = x W^T + b + s (x A^T) B^T

Hu et al. 2021 (LoRA), equation 3; s is alpha / r. In fp32 the result is PEFT's up to the order of
summation.
"""

from collections.abc import Iterator, Sequence
from types import MethodType
from typing import Any

import torch
from peft import PeftModel
from peft.tuners import lora
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor
from typing_extensions import override

ONE_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers that their parent calls on one tensor. Where it does not, as in cross-attention,
outputs are right and work is lost."""


def fuse_adapters(model: PeftModel) -> int:
    """Give every plain LoRA layer of `model` the fused forward, and return their number.

    Layers of other kinds (4-bit, DoRA) keep PEFT's, and so does a fused one whenever it is used in
    another way: disabled or merged, with dropout, several adapters at once, sharded weights, or in
    16 bits without autocast, where PEFT multiplies in the adapter's fp32.
    """
    groups = [SharedInput(layers) for layers in _groups(model)]
    for group in groups:
        for place, layer in enumerate(group.layers):
            layer.group, layer.place = group, place
            layer.forward = MethodType(_forward, layer)
    return sum(len(group.layers) for group in groups)


def _groups(model: nn.Module) -> Iterator[list[Any]]:
    """Yield the plain LoRA layers, those of one input together."""
    for parent in model.modules():
        plain = {name: child for name, child in parent.named_children() if _is_plain(child)}
        for names in ONE_INPUT:
            layers = [plain.pop(name) for name in names if name in plain]
            if layers:
                yield layers
        yield from ([layer] for layer in plain.values())


def _is_plain(module: nn.Module) -> bool:
    return type(module) is lora.Linear and type(module.get_base_layer()) is nn.Linear


class SharedInput:
    """LoRA layers of one input. The first that is called on a tensor computes for all of them."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = layers
        self.input: Tensor | None = None
        self.adapter = ""
        self.outputs: list[Tensor | None] = [None] * len(layers)

    def has(self, place: int, x: Tensor, adapter: str | None) -> bool:
        waiting = self.outputs[place] is not None
        return waiting and x is self.input and adapter == self.adapter

    def compute(self, x: Tensor, name: str) -> None:
        self.input, self.adapter = x, name
        self.outputs = list(_fused(x, self.layers, name))

    def take(self, place: int) -> Tensor:
        output = self.outputs[place]
        assert output is not None
        self.outputs[place] = None
        if all(one is None for one in self.outputs):
            self.input = None
        return output


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    group: SharedInput = layer.group
    name = None if args or kwargs else _fusible_adapter(layer)
    if group.has(layer.place, x, name):
        return group.take(layer.place)
    # without autocast PEFT multiplies in the adapter's precision
    autocast = torch.is_autocast_enabled(x.device.type)
    if name is None or not (autocast or x.dtype == layer.lora_A[name].weight.dtype):
        output: Tensor = type(layer).forward(layer, x, *args, **kwargs)
        return output
    if not _alike(group.layers, name):
        return _fused(x, [layer], name)[0]
    group.compute(x, name)
    return group.take(layer.place)


def _fused(x: Tensor, layers: Sequence[Any], name: str) -> tuple[Tensor, ...]:
    """Return the outputs of `layers`, whose adapters `name` are alike."""
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    bases = [layer.get_base_layer() for layer in layers]
    outputs: tuple[Tensor, ...] = FusedLora.apply(  # type: ignore[no-untyped-call]
        x,
        float(layers[0].scaling[name]),
        *(base.weight for base in bases),
        *(base.bias for base in bases),
        *(layer.lora_A[name].weight for layer in layers),
        *(layer.lora_B[name].weight for layer in layers),
    )
    return outputs


def _alike(layers: Sequence[lora.Linear], name: str) -> bool:
    """Return whether one call can add adapter `name` to all `layers`."""
    if any(_fusible_adapter(layer) != name for layer in layers):
        return False
    first = layers[0].lora_A[name].weight
    return all(
        layer.scaling[name] == layers[0].scaling[name]
        and layer.lora_A[name].weight.shape == first.shape
        and layer.lora_A[name].weight.dtype == first.dtype
        for layer in layers[1:]
    )


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
    """x [..., in], s, then W [out, in], b [out] or None, A [r, in] and B [out, r] of each layer.

    Gives y [..., out] of each layer. W and b are frozen. All products are in the dtype of x, which
    W is cast to if it differs; gradients of A and B come in their own dtypes.
    """

    @staticmethod
    @override
    def forward(ctx: Any, x: Tensor, scale: float, *factors: Any) -> tuple[Tensor, ...]:
        layers = len(factors) // 4
        weights, biases, a, b = (factors[i * layers : (i + 1) * layers] for i in range(4))
        ctx.scale, ctx.shape, ctx.dtypes = scale, x.shape, (a[0].dtype, b[0].dtype)
        ctx.rank, ctx.widths = len(a[0]), [len(one) for one in b]
        with torch.autocast(x.device.type, enabled=False):
            rows = x.reshape(-1, x.shape[-1])
            weights = tuple(weight.to(x.dtype) for weight in weights)
            stacked_a, stacked_b = _stack(a).to(x.dtype), _stack(b).to(x.dtype)
            inner = rows @ stacked_a.T  # [rows, layers x r]
            outputs = []
            for weight, bias, part, b_part in zip(
                weights, biases, inner.split(ctx.rank, 1), stacked_b.split(ctx.widths), strict=True
            ):
                bias = None if bias is None else bias.to(x.dtype)
                output = nn.functional.linear(rows, weight, bias)
                outputs.append(output.addmm_(part, b_part.T, alpha=scale))
        ctx.save_for_backward(rows, stacked_a, stacked_b, inner, *weights)
        return tuple(output.view(*x.shape[:-1], -1) for output in outputs)

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, a, b, inner, *weights = ctx.saved_tensors
        layers = len(weights)
        pulls = [grad.reshape(-1, grad.shape[-1]).to(rows.dtype) for grad in grads]
        wants_x, wants_a, wants_b = (
            any(ctx.needs_input_grad[place])
            for place in (slice(1), slice(-2 * layers, -layers), slice(-layers, None))
        )
        grad_x = None
        grads_a = grads_b = (None,) * layers
        with torch.autocast(rows.device.type, enabled=False):
            if wants_x or wants_a:
                grad_inner = torch.empty_like(inner)
                targets = grad_inner.split(ctx.rank, 1)
                for target, pull, part in zip(targets, pulls, b.split(ctx.widths), strict=True):
                    _multiply_into(target, pull, part, ctx.scale)
            if wants_x:
                grad_x = pulls[0] @ weights[0]
                for pull, weight in zip(pulls[1:], weights[1:], strict=True):
                    grad_x.addmm_(pull, weight)
                grad_x = grad_x.addmm_(grad_inner, a).view(ctx.shape)
            if wants_a:
                grads_a = (grad_inner.T @ rows).to(ctx.dtypes[0]).split(ctx.rank)
            if wants_b:
                grad_b = torch.empty_like(b)
                targets = grad_b.split(ctx.widths)
                for target, pull, part in zip(
                    targets, pulls, inner.split(ctx.rank, 1), strict=True
                ):
                    _multiply_into(target, pull.T, part, ctx.scale)
                grads_b = grad_b.to(ctx.dtypes[1]).split(ctx.widths)
        return grad_x, None, *(None,) * (2 * layers), *grads_a, *grads_b


def _stack(factors: Sequence[Tensor]) -> Tensor:
    return factors[0] if len(factors) == 1 else torch.cat(tuple(factors))


def _multiply_into(target: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """Set `target` to scale x left right, scaled by the product's own kernel."""
    target.addmm_(left, right, beta=0, alpha=scale)  # beta=0 ignores what is there
