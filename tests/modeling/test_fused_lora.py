"""Fused LoRA layers beside PEFT's own: same values and gradients, fewer copies."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners import lora
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from mvp_align.modeling.fused_lora import FusedLora, fuse_adapters

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
IDS = torch.arange(2 * 9).view(2, 9) % 64


def adapted(
    dtype: torch.dtype = torch.float32, kind: str = "llama", **options: object
) -> PeftModel:
    """A tiny model whose adapter on all linear layers changes it."""
    torch.manual_seed(1)
    base = (
        LlamaForCausalLM(LlamaConfig(**SMALL))
        if kind == "llama"
        else Qwen2ForCausalLM(Qwen2Config(**SMALL))
    ).to(dtype)
    model = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", **options)
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    return model


def outputs(model: PeftModel, *, autocast: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and the adapter's gradients of their squares."""
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        logits = model(input_ids=IDS).logits
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits
    logits.square().mean().backward()
    return logits.detach(), {
        name: weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }


def same(one: Tensor, other: Tensor, share: float) -> bool:
    return bool((one - other).norm() <= share * other.norm())


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_values_and_gradients_are_pefts(
    kind: str, checkpointing: bool, dtype: torch.dtype, share: float
) -> None:
    """Qwen2's layers have biases."""
    model = adapted(dtype, kind=kind)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model.train()
    logits, gradients = outputs(model)
    assert fuse_adapters(model) == 2 * 7
    fused_logits, fused = outputs(model)
    assert same(fused_logits, logits, share)
    assert fused.keys() == gradients.keys() and len(fused) == 2 * 2 * 7
    for name, gradient in gradients.items():
        assert same(fused[name], gradient, share), name


@settings(deadline=None, max_examples=30)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5)),
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3)),
    bias=st.booleans(),
    scale=st.floats(-3, 3),
    wanted=st.tuples(st.booleans(), st.booleans(), st.booleans()).filter(any),
)
def test_the_function_is_its_formula(
    shape: tuple[int, int],
    sizes: tuple[int, int, int],
    bias: bool,
    scale: float,
    wanted: tuple[bool, bool, bool],
) -> None:
    torch.manual_seed(0)
    inputs, outs, rank = sizes
    x, a, b = (
        torch.randn(*size, dtype=torch.float64, requires_grad=grad)
        for size, grad in zip(((*shape, inputs), (rank, inputs), (outs, rank)), wanted, strict=True)
    )
    weight = torch.randn(outs, inputs, dtype=torch.float64)
    offset = torch.randn(outs, dtype=torch.float64) if bias else None
    plain = nn.functional.linear(x, weight, offset) + scale * (x @ a.T) @ b.T
    fused = FusedLora.apply(x, weight, offset, a, b, scale)
    torch.testing.assert_close(fused, plain)
    needed = [tensor for tensor in (x, a, b) if tensor.requires_grad]
    pull = torch.randn_like(plain)
    for found, expected in zip(
        torch.autograd.grad(fused, needed, pull),
        torch.autograd.grad(plain, needed, pull),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


def test_in_16_bits_it_is_as_near_to_fp32_as_pefts() -> None:
    exact, exact_gradients = outputs(adapted())
    model = adapted(torch.bfloat16)
    logits, gradients = outputs(model, autocast=True)
    fuse_adapters(model)
    fused_logits, fused = outputs(model, autocast=True)
    assert fused_logits.dtype == logits.dtype
    assert (fused_logits - exact).norm() < 1.25 * (logits - exact).norm()

    def distance(found: dict[str, Tensor]) -> float:
        return float(sum((found[name].float() - g).norm() for name, g in exact_gradients.items()))

    assert distance(fused) < 1.25 * distance(gradients)
    assert {g.dtype for g in fused.values()} == {g.dtype for g in gradients.values()}


def test_16_bits_without_autocast_are_pefts_to_the_bit() -> None:
    model = adapted(torch.bfloat16)
    logits, _ = outputs(model)
    fuse_adapters(model)
    assert torch.equal(outputs(model)[0], logits)


def kernels(model: PeftModel, names: tuple[str, ...]) -> int:
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        outputs(model, autocast=True)
    return sum(event.count for event in trace.key_averages() if event.key in names)


def test_it_copies_and_launches_less() -> None:
    copies = ("aten::copy_",)
    elementwise = ("aten::mul", "aten::mul_", "aten::add", "aten::add_")
    model = adapted(torch.bfloat16)
    before = kernels(model, copies), kernels(model, elementwise)
    fuse_adapters(model)
    after = kernels(model, copies), kernels(model, elementwise)
    layers = 2 * 7
    assert before[0] - after[0] >= 2 * layers
    assert before[1] - after[1] >= layers


def kept_bytes(model: PeftModel) -> int:
    held: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        outputs(model, autocast=True)
    return sum(size for place, size in held.items() if place not in weights)


def test_it_keeps_less_for_the_backward_pass() -> None:
    model = adapted(torch.bfloat16)
    before = kept_bytes(model)
    fuse_adapters(model)
    assert kept_bytes(model) < 0.9 * before


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.base_model.disable_adapter_layers(),
        lambda model: model.merge_adapter(),
        lambda model: (
            model.add_adapter("two", LoraConfig(r=2, target_modules="all-linear")),
            model.base_model.set_adapter(["default", "two"]),
        ),
    ],
    ids=["disabled", "merged", "two at once"],
)
def test_other_uses_are_pefts_to_the_bit(change: Callable[[PeftModel], object]) -> None:
    plain, fused = adapted(), adapted()
    assert fuse_adapters(fused)
    torch.manual_seed(3)
    change(plain)
    torch.manual_seed(3)
    change(fused)
    with torch.no_grad():
        assert torch.equal(fused(input_ids=IDS).logits, plain(input_ids=IDS).logits)


@pytest.mark.parametrize(
    "options", [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}]
)
def test_other_kinds_are_pefts_to_the_bit(options: dict[str, object]) -> None:
    plain, fused = adapted(**options), adapted(**options)
    fuse_adapters(fused)
    plain.train()
    fused.train()
    torch.manual_seed(4)
    expected, gradients = outputs(plain)
    torch.manual_seed(4)
    found, fused_gradients = outputs(fused)
    assert torch.equal(found, expected)
    assert all(torch.equal(fused_gradients[name], g) for name, g in gradients.items())


def test_the_adapter_that_is_active_is_the_one_added() -> None:
    model = adapted()
    model.add_adapter("other", LoraConfig(r=2, lora_alpha=2, target_modules="all-linear"))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B.other" in name:
                weight.normal_()
    expected = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        expected[name] = model(input_ids=IDS).logits.detach()
    fuse_adapters(model)
    for name, logits in expected.items():
        model.set_adapter(name)
        assert same(model(input_ids=IDS).logits.detach(), logits, 1e-6)


def test_what_is_saved_is_unchanged() -> None:
    model = adapted()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fuse_adapters(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(isinstance(m, lora.Linear) for m in model.modules() if hasattr(m, "lora_A"))
