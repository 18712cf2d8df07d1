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

from mvp_align.modeling.fused_lora import FusedLora, SharedInput, fuse_adapters

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
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 3)),
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    bias=st.booleans(),
    scale=st.floats(-3, 3),
    wanted=st.tuples(st.booleans(), st.booleans(), st.booleans()).filter(any),
)
def test_the_function_is_its_formula(
    shape: tuple[int, int],
    sizes: tuple[int, int],
    widths: list[int],
    bias: bool,
    scale: float,
    wanted: tuple[bool, bool, bool],
) -> None:
    """Of one layer and of several of unlike widths, as with grouped queries."""
    torch.manual_seed(0)
    inputs, rank = sizes

    def drawn(*size: int, grad: bool = False) -> Tensor:
        return torch.randn(*size, dtype=torch.float64, requires_grad=grad)

    x = drawn(*shape, inputs, grad=wanted[0])
    weights = [drawn(width, inputs) for width in widths]
    offsets = [drawn(width) if bias else None for width in widths]
    a = [drawn(rank, inputs, grad=wanted[1]) for _ in widths]
    b = [drawn(width, rank, grad=wanted[2]) for width in widths]
    plain = [
        nn.functional.linear(x, weight, offset) + scale * (x @ one_a.T) @ one_b.T
        for weight, offset, one_a, one_b in zip(weights, offsets, a, b, strict=True)
    ]
    fused = FusedLora.apply(x, scale, *weights, *offsets, *a, *b)
    pulls = [torch.randn_like(one) for one in plain]
    needed = [tensor for tensor in (x, *a, *b) if tensor.requires_grad]
    for found, expected in (
        (fused, plain),
        (torch.autograd.grad(fused, needed, pulls), torch.autograd.grad(plain, needed, pulls)),
    ):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


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


def kernels(model: PeftModel, *names: str) -> int:
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        outputs(model, autocast=True)
    return sum(event.count for event in trace.key_averages() if event.key in names)


def test_it_copies_and_launches_less() -> None:
    """Counted exactly: a decoder layer has four groups of one input."""
    counted = {
        "copies": ("aten::copy_",),
        "products": ("aten::mm", "aten::addmm_"),
        "elementwise": ("aten::mul", "aten::mul_", "aten::add", "aten::add_"),
    }
    model = adapted(torch.bfloat16)
    before = {kind: kernels(model, *names) for kind, names in counted.items()}
    assert fuse_adapters(model) == 2 * 7
    after = {kind: kernels(model, *names) for kind, names in counted.items()}
    saved = {kind: before[kind] - after[kind] for kind in counted}
    # For q, k, v two products with A become none, and two each for the gradients of A and of the
    # input; for gate and up one each. The first layer's q, k, v have no gradient of the input.
    assert saved["products"] == 2 * 9 - 2
    assert saved["copies"] >= 2 * (2 * 7 + 6)
    assert saved["elementwise"] >= 2 * (7 + 3)


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


def groups(model: PeftModel) -> list[SharedInput]:
    found = {
        id(one): one
        for m in model.modules()
        if isinstance(one := vars(m).get("group"), SharedInput)
    }
    return list(found.values())


def test_layers_of_one_input_run_together_and_keep_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted()
    fuse_adapters(model)
    assert sorted(len(group.layers) for group in groups(model)) == 2 * [1] + 2 * [1] + 2 * [
        2
    ] + 2 * [3]
    calls: list[int] = []
    forward = FusedLora.forward

    def counted(ctx: object, x: Tensor, scale: float, *factors: object) -> object:
        calls.append(len(factors) // 4)
        return forward(ctx, x, scale, *factors)

    monkeypatch.setattr(FusedLora, "forward", staticmethod(counted))
    outputs(model)
    assert calls == 2 * [3, 1, 2, 1]
    assert all(group.input is None and not any(group.outputs) for group in groups(model))


@pytest.mark.parametrize(
    "order", [("q_proj", "k_proj", "v_proj"), ("v_proj", "q_proj", "k_proj")], ids=["q", "v"]
)
def test_layers_that_are_called_on_other_inputs_are_right(order: tuple[str, ...]) -> None:
    """As in cross-attention: one layer reads x, the others y; then one is called twice on x."""
    plain, fused = adapted(), adapted()
    fuse_adapters(fused)
    x, y = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    inputs = [x, y, y, x, x]
    found, expected = (
        [
            getattr(model.base_model.model.model.layers[0].self_attn, name)(one)
            for name, one in zip((*order, order[0], order[0]), inputs, strict=True)
        ]
        for model in (fused, plain)
    )
    for one, other in zip(found, expected, strict=True):
        assert same(one, other, 1e-6)


def test_an_adapter_that_is_switched_off_between_two_layers_is_off() -> None:
    model = adapted()
    fuse_adapters(model)
    attention = model.base_model.model.model.layers[0].self_attn
    x = torch.randn(2, 5, 32)
    attention.q_proj(x)
    with model.disable_adapter():
        assert torch.equal(attention.k_proj(x), attention.k_proj.get_base_layer()(x))


@pytest.mark.parametrize("alike", ["rank", "alpha", "target"])
def test_adapters_that_differ_in_a_group_are_right(alike: str) -> None:
    different: dict[str, object] = {
        "rank": {"rank_pattern": {"k_proj": 2}},
        "alpha": {"alpha_pattern": {"k_proj": 5}},
        "target": {"exclude_modules": ["k_proj"]},
    }[alike]
    model = adapted(**different)
    logits, gradients = outputs(model)
    fuse_adapters(model)
    found, fused = outputs(model)
    assert same(found, logits, 1e-6)
    assert all(same(fused[name], gradient, 1e-5) for name, gradient in gradients.items())


def test_steps_of_an_optimizer_are_pefts() -> None:
    """Over accumulated gradients, clipped in place: those of a group share their memory."""
    results = []
    for fuse in (False, True):
        model = adapted()
        if fuse:
            fuse_adapters(model)
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            for ids in (IDS, IDS.flip(1)):
                model(input_ids=ids).logits.square().mean().backward()
            nn.utils.clip_grad_norm_(trained, 0.5)
            optimizer.step()
        results.append(torch.cat([weight.detach().flatten() for weight in trained]))
    assert same(*results, 1e-5)


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
