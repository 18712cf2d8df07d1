"""A training step on tensors without data: the memory that it will hold at its peak, and the
arithmetic that it takes.

The model is built with its real shapes, adapted, and run forward, backward and through the
optimizer by the code that trains; torch's fake tensors carry shapes and dtypes but no numbers, so
that LLaMA-2-13B fits a laptop. Memory is that of live tensors: what a CUDA context, fragmentation
and communication take comes on top. Nothing random is drawn.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.function import once_differentiable
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
from mvp_align.scoring.tokens import TokenizedPair
from mvp_align.training.step import (
    as_in_training,
    largest_batch,
    score_pass,
    train_pass,
    trained_tokens,
)

NF4_BITS = 4.127
"""A weight of NF4 with double quantisation: 4 bits, and 0.127 of scales (Dettmers et al. 2023,
section 3)."""
PADDED = "padded_stand_in"
"""FlashAttention has no CPU kernel. SDPA's holds as much; like it, this one takes padded rows."""
AttentionInterface.register(PADDED, sdpa_attention_forward)
AttentionMaskInterface.register(PADDED, sdpa_mask)

aten = torch.ops.aten


def _attention_flop(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Scores and their sum over values; [batch, heads, tokens, width], keys and values maybe of
    fewer heads."""
    return 2 * query.shape[:-1].numel() * key.shape[2] * (query.shape[3] + value.shape[3])


def _attention_backward_flop(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> int:
    """Scores anew, and the gradients of query and key; those of probabilities and value."""
    return 2 * query.shape[:-1].numel() * key.shape[2] * (3 * query.shape[3] + 2 * value.shape[3])


FLOP = {
    **flop_registry,
    # The CPU's fused attention keeps what CUDA's keeps: inputs, output, a number a row. torch does
    # not count its FLOP, and before 2.13 refused heads that share keys.
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flop,
}


@dataclass(frozen=True, slots=True)
class Pass:
    """Of one process: bytes of live tensors at most, FLOP of all products, and the tokens that took
    them."""

    peak: int
    flop: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Simulated:
    """Of one process, in bytes. `training` and `scoring` are None where there was nothing to
    run."""

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
    """The second and any later training step over `micro_batch`, and the largest batch of `scored`,
    sets of pairs, for a model of this `shape` in `dtype`. Where gradients accumulate, those of
    earlier micro-batches are at hand.
    """
    model = _build(config, shape, dtype)
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
            with as_in_training(model, config):
                train_pass(model, micro_batch, config)
            tokens = sum(trained_tokens(pair, config) for pair in micro_batch)
            training = Pass(count.peak, count.flop, tokens)
            optimizer.zero_grad()
        if largest:
            count.start()
            score_pass(model, largest)
            scoring = Pass(count.peak, count.flop, sum(row.length for row in largest))
    return Simulated(weights, adapter, training, scoring)


def _build(config: Config, shape: PreTrainedConfig, dtype: torch.dtype) -> PeftModel:
    """The adapted model on meta: shapes, and the seams where this project's code takes hold."""
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
    return model


def _to_fake(model: nn.Module) -> None:
    """Parameters and buffers, tied ones once, as fake tensors of their shapes."""
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
    """Bytes of the tensors that are alive, now and at most since `start`, and FLOP since then.
    Views count once, with what they look into."""

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


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _pack_linears(model: nn.Module, compute: torch.dtype) -> None:
    """Stand-ins for bitsandbytes' layers, which cannot be made without data: as many bytes, the
    same temporary weight."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and "lm_head" not in name and "lora_" not in name:
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], PackedLinear(module, compute))


class PackedLinear(nn.Module):
    """A frozen 4-bit layer: dequantised for each product, forward and backward, and not kept in
    between."""

    def __init__(self, like: nn.Linear, compute: torch.dtype) -> None:
        super().__init__()
        self.shape, self.compute = (like.out_features, like.in_features), compute
        held = int(like.weight.numel() * NF4_BITS / 8)
        self.weight = nn.Parameter(torch.empty(held, dtype=torch.uint8), requires_grad=False)
        self.bias: nn.Parameter | None = like.bias

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
