"""Simulate a training step without data, to find its peak memory and FLOP.

The model is built with its real shapes, adapted, and run forward, backward and through the
optimizer by the training code itself. torch's fake tensors have shapes and dtypes but no values, so
LLaMA-2-13B fits on a laptop. Memory counts live tensors; the CUDA context, fragmentation and
communication come on top. No random numbers are drawn.
"""

import logging
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    PreTrainedConfig,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from typing_extensions import override

from mvp_align.config import Config
from mvp_align.modeling.adapters import lora_config
from mvp_align.modeling.base import stored_quantization
from mvp_align.modeling.fused_lora import fuse_adapters
from mvp_align.scoring.tokens import TokenizedPair
from mvp_align.training.step import (
    as_in_training,
    largest_batch,
    score_pass,
    train_pass,
    trained_tokens,
)

NF4_BITS = 4.127
"""Bits per weight of NF4 with double quantisation.

4 for the value and 0.127 for scales (Dettmers et al. 2023, section 3).
"""
PADDED = "padded_stand_in"
"""Attention to simulate in place of FlashAttention, which has no CPU kernel.

SDPA's kernel holds as much memory and also accepts padded rows here.
"""
AttentionInterface.register(PADDED, sdpa_attention_forward)
AttentionMaskInterface.register(PADDED, sdpa_mask)

aten = torch.ops.aten

# an operator that cannot be simulated is reported in one line, and not with torch's traceback
logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)


def _attention_flop(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Count attention scores and the weighted sum of values.

    Inputs are [batch, heads, tokens, width]; keys and values may have fewer heads.
    """
    return 2 * query.shape[:-1].numel() * key.shape[2] * (query.shape[3] + value.shape[3])


def _attention_backward_flop(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> int:
    """Count recomputed scores and the gradients of query, key, probabilities and value."""
    return 2 * query.shape[:-1].numel() * key.shape[2] * (3 * query.shape[3] + 2 * value.shape[3])


FLOP = {
    **flop_registry,
    # The CPU's fused attention saves the same tensors as CUDA's: inputs, output, one number per
    # row. torch does not count its FLOP, and before 2.13 rejected heads that share keys.
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flop,
}


@dataclass(frozen=True, slots=True)
class Pass:
    """One process's peak bytes of live tensors, FLOP of all products, and tokens processed."""

    peak: int
    flop: int
    tokens: int
    offloaded: int = 0
    """Bytes that `hardware.activation_offloading` moves to the machine's memory and back."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """Results for one process, in bytes. `training` or `scoring` is None if nothing was run."""

    weights: int
    adapter: int
    """Adapter, its gradients and AdamW's two moments."""
    training: Pass | None
    scoring: Pass | None

    @property
    def peak(self) -> int:
        return max(done.peak for done in (self.training, self.scoring) if done)

    @property
    def bound_by_training(self) -> bool:
        return self.training is not None and self.peak == self.training.peak


def simulate(
    config: Config,
    shape: PreTrainedConfig,
    dtype: torch.dtype,
    micro_batch: Sequence[TokenizedPair],
    scored: Sequence[Sequence[TokenizedPair]],
    *,
    accumulates: bool = True,
) -> Simulated:
    """Simulate a training step and the largest scoring batch of a model of this `shape` in `dtype`.

    The step is any but the first, over `micro_batch`; `scored` holds sets of pairs. If gradients
    accumulate, those of earlier micro-batches already exist. `gradient_checkpointing=auto` is
    simulated without.
    """
    model = _build(config, shape, dtype)
    checkpointing = config.hardware.gradient_checkpointing is True
    largest = largest_batch(model, scored, config)
    with FakeTensorMode(allow_non_fake_inputs=True), Counter() as count:
        _to_fake(model)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        weights = count.bytes - sum(map(_size, trained))
        adapter = count.bytes - weights
        training = scoring = None
        if micro_batch:
            optimizer = torch.optim.AdamW(trained, fused=True)  # the Trainer's default
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter)
            optimizer.step()
            adapter = count.bytes - weights
            if not accumulates:
                optimizer.zero_grad()
            count.start()
            moved = Offloaded(model) if config.hardware.activation_offloading else None
            with (
                as_in_training(model, config, checkpointing=checkpointing),
                moved or nullcontext(),
            ):
                train_pass(model, micro_batch, config)
            tokens = sum(trained_tokens(pair, config) for pair in micro_batch)
            training = Pass(count.peak, count.flop, tokens, moved.bytes if moved else 0)
            optimizer.zero_grad()
        if largest:
            count.start()
            score_pass(model, largest)
            scoring = Pass(count.peak, count.flop, sum(row.length for row in largest))
    return Simulated(weights, adapter, training, scoring)


def _build(config: Config, shape: PreTrainedConfig, dtype: torch.dtype) -> PeftModel:
    """Build the adapted model on the meta device, including the hooks of this project."""
    attention = {"auto": None, "flash_attention_2": PADDED}.get(
        config.hardware.attention, config.hardware.attention
    )
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(shape, dtype=dtype, attn_implementation=attention)
        lora = (
            LoraConfig.from_pretrained(config.adapter)
            if config.adapter
            else lora_config(base, config.lora)
        )
        lora.inference_mode = False
        model: PeftModel = get_peft_model(base, lora)
        if config.quantization == "4bit" or stored_quantization(shape, config.model) != "none":
            _pack_linears(model, dtype)
        fuse_adapters(model)
    return model


def _to_fake(model: nn.Module) -> None:
    """Replace parameters and buffers by fake tensors of the same shapes. Tied ones stay tied."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                    made[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]
        for name, value in module.named_buffers(recurse=False):
            module._buffers[name] = torch.empty(value.shape, dtype=value.dtype)


class Counter(TorchDispatchMode):
    """Counts bytes of live tensors, their peak since `start`, and FLOP since `start`.

    Views count once, together with their storage.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = self.flop = 0
        self.known: Any = WeakIdKeyDictionary()

    def start(self) -> None:
        self.peak, self.flop = self.bytes, 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.see, found)
        if func.overloadpacket in FLOP:
            self.flop += FLOP[func.overloadpacket](*args, **(kwargs or {}), out_val=found)
        return found

    def see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self.known:
            held = storage.nbytes()
            self.known[storage] = weakref.finalize(storage, self.release, held)
            self.bytes += held
            self.peak = max(self.peak, self.bytes)

    def release(self, held: int) -> None:
        self.bytes -= held


class Offloaded(saved_tensors_hooks):
    """Frees what the backward pass needs as TRL's `OffloadActivations` does on a GPU.

    A tensor of `SMALLEST` bytes or more leaves once `STASHED` others have followed it, and comes
    back when it is needed. One that is saved again before it has left stays, and so do parameters.
    """

    SMALLEST, STASHED = 1024, 5
    """TRL's defaults."""

    def __init__(self, model: nn.Module) -> None:
        self.bytes = self.saved = 0
        self.stash: dict[int, Tensor] = {}
        self.parameters = {_storage(parameter) for parameter in model.parameters()}
        super().__init__(self.pack, self.unpack)

    def pack(self, tensor: Tensor) -> Tensor | tuple[torch.Size, torch.dtype]:
        self.saved += 1
        stashed = {_storage(one) for one in self.stash.values()}
        if _size(tensor) < self.SMALLEST or _storage(tensor) in self.parameters | stashed:
            return tensor
        for number in [one for one in self.stash if one <= self.saved - self.STASHED]:
            del self.stash[number]
        self.bytes += _size(tensor)
        self.stash[self.saved] = tensor.contiguous()
        return tensor.shape, tensor.dtype

    def unpack(self, packed: Tensor | tuple[torch.Size, torch.dtype]) -> Tensor:
        self.stash.clear()
        if isinstance(packed, Tensor):
            return packed
        shape, dtype = packed
        return torch.empty(shape, dtype=dtype)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _pack_linears(model: nn.Module, compute: torch.dtype) -> None:
    """Replace linear layers by stand-ins for bitsandbytes' layers, which need data to be built.

    They hold as many bytes and create the same temporary weight.
    """
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and "lm_head" not in name and "lora_" not in name:
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], PackedLinear(module, compute))


class PackedLinear(nn.Module):
    """A frozen 4-bit layer. Dequantises its weight for each product, forward and backward."""

    W_q = True
    """Makes PEFT ask for `dequantize`, as it does with an HQQ layer."""

    def __init__(self, like: nn.Linear, compute: torch.dtype) -> None:
        super().__init__()
        self.shape, self.compute = (like.out_features, like.in_features), compute
        held = int(like.weight.numel() * NF4_BITS / 8)
        self.weight = nn.Parameter(torch.empty(held, dtype=torch.uint8), requires_grad=False)
        self.bias: nn.Parameter | None = like.bias

    def dequantize(self) -> Tensor:
        """Return the weight [out, in], as DoRA needs it beside the product."""
        return self.weight.new_empty(self.shape, dtype=self.compute)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = Dequantised.apply(inputs.to(self.compute), self.shape)  # type: ignore[no-untyped-call]
        return output if self.bias is None else output + self.bias


class Dequantised(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, inputs: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.shape = shape
        return linear(inputs, inputs.new_empty(shape))

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ grad.new_empty(ctx.shape), None
