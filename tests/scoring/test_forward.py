"""Compare the policy's forward pass with TRL's fused head: values and gradients."""

import copy
import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from mvp_align.scoring.methods import print_once
from mvp_align.training import forward
from mvp_align.training.forward import share_prompts, token_outputs

FIELDS = ("log_probs", "entropy", "mean_logits", "is_top1", "log_sum_sq_probs")
BETA = 0.1
BALANCE = 0.5
"""Weight of a mixture of experts' load-balancing loss: large, so that its gradient counts."""


def wrapped(base: PreTrainedModel) -> PeftModel:
    """Add TRL's head, then an adapter with nonzero B, so that every LoRA weight has a gradient."""
    add_fused_lm_head(base, outputs=FIELDS)
    torch.manual_seed(3)
    targets = ["q_proj", "k_proj", "v_proj"]
    model = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model.train()


def likely(model: PeftModel, context: list[int], count: int) -> list[int]:
    """The model's own most probable tokens, for which `is_top1` holds."""
    ids = list(context)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(context) :]


def make_batch(model: PeftModel, vocabulary: int) -> dict[str, torch.Tensor]:
    """Right-padded chosen, then rejected rows: mixed lengths, one-token answers, a repeat."""
    draw = random.Random(5)

    def ids(count: int) -> list[int]:
        return [draw.randrange(3, vocabulary) for _ in range(count)]

    examples = [
        {"prompt_ids": ids(prompt), "chosen_ids": ids(chosen), "rejected_ids": ids(rejected)}
        for prompt, chosen, rejected in [(7, 5, 9), (1, 1, 1), (20, 14, 1), (4, 2, 30)]
    ]
    prompt = ids(6)
    examples.append(
        {
            "prompt_ids": prompt,
            "chosen_ids": likely(model, prompt, 4) + ids(3),
            "rejected_ids": likely(model, prompt, 2),
        }
    )
    examples.append(examples[0])
    batch = DataCollatorForPreference(pad_token_id=0)(examples)
    mask = batch.pop("completion_mask")
    return {**batch, "labels": batch["input_ids"].masked_fill(mask == 0, -100)}


def outputs_of(model: PeftModel, batch: dict[str, torch.Tensor]) -> FusedCausalLMOutput:
    routed = {"output_router_logits": True} if hasattr(model.config, "output_router_logits") else {}
    # TRL's call, letter for letter
    return model(**batch, **routed, use_cache=False, fused_lm_head=True)


def dpo_step(
    model: PeftModel, batch: dict[str, torch.Tensor]
) -> tuple[FusedCausalLMOutput, float, dict[str, torch.Tensor]]:
    """Policy outputs, loss and LoRA gradients of a sigmoid-DPO step against the base model."""
    model.zero_grad()
    outputs = outputs_of(model, batch)
    with torch.no_grad(), model.disable_adapter():
        reference = outputs_of(model, batch).log_probs.sum(1)
    chosen, rejected = (outputs.log_probs.sum(1) - reference).chunk(2)
    loss = -F.logsigmoid(BETA * (chosen - rejected)).mean()
    if outputs.aux_loss is not None:
        loss = loss + BALANCE * outputs.aux_loss
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return outputs, float(loss.detach()), gradients


def check_outputs(
    found: FusedCausalLMOutput, expected: FusedCausalLMOutput, batch: dict[str, torch.Tensor]
) -> None:
    for name in ("log_probs", "entropy", "mean_logits", "log_sum_sq_probs"):
        torch.testing.assert_close(
            found[name], expected[name], atol=1e-5, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert torch.equal(found.is_top1.bool(), expected.is_top1.bool())
    assert (found.aux_loss is None) == (expected.aux_loss is None)
    if expected.aux_loss is not None:
        assert float(found.aux_loss.detach()) == pytest.approx(
            float(expected.aux_loss.detach()), rel=1e-5
        )
    assert torch.equal(found.label_mask, batch["labels"][:, 1:] != -100)
    assert float(found.loss.detach()) == pytest.approx(float(expected.loss.detach()), abs=1e-5)
    for name in FIELDS:
        assert not found[name][~found.label_mask].any()
    top = found.is_top1.bool()
    assert top.any() and not top[found.label_mask].all()  # else `is_top1` was not tried


def check_step(model: PeftModel, batch: dict[str, torch.Tensor], replace) -> None:
    expected, loss, gradients = dpo_step(model, batch)
    # the adapter acts, so that the gradients are not those of a start
    assert loss != pytest.approx(0.6931, abs=1e-3)
    assert len(gradients) == 2 * 3 * 2  # A and B of q, k, v in two layers
    replace()
    found, new_loss, new_gradients = dpo_step(model, batch)
    check_outputs(found, expected, batch)
    assert new_loss == pytest.approx(loss, rel=1e-5)
    assert new_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert gradient.norm() > 0
        assert (new_gradients[name] - gradient).norm() / gradient.norm() < 1e-5, name


@pytest.fixture
def model(load_sharp) -> PeftModel:
    return wrapped(load_sharp())


@pytest.fixture
def batch(model: PeftModel) -> dict[str, torch.Tensor]:
    return make_batch(model, model.config.vocab_size)


def test_outputs_and_gradients_are_trls(model: PeftModel, batch) -> None:
    check_step(model, batch, lambda: share_prompts(model.get_base_model()))


@pytest.mark.parametrize("learns", [True, False])
def test_a_chunk_of_logits_lives_at_a_time(
    model: PeftModel, batch, monkeypatch, learns: bool
) -> None:
    chunks = []
    whole = forward.statistics

    def counted(logits, targets):
        chunks.append(len(targets))
        return whole(logits, targets)

    def replace() -> None:
        monkeypatch.setattr(forward, "HEAD_CHUNK", 7)
        monkeypatch.setattr(forward, "statistics", counted)
        monkeypatch.setattr(forward, "frozen", lambda head: not learns)
        share_prompts(model.get_base_model())

    check_step(model, batch, replace)
    assert max(chunks) == 7
    passes = 3 if learns else 2  # policy, reference, and a policy's whose head may learn once more
    assert sum(chunks) == passes * int((batch["labels"] != -100).sum())


def test_a_prompt_runs_once_without_padding(model: PeftModel, batch) -> None:
    rows = []
    base = model.get_base_model()
    base.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    outputs_of(model, batch)
    share_prompts(base)
    del rows[1:]
    outputs_of(model, batch)
    chosen, rejected = batch["attention_mask"].view(2, 6, -1).sum(-1)
    prompts = (batch["labels"] != -100).int().argmax(1).view(2, 6)[0]
    assert [tuple(shape) for shape in rows] == [
        tuple(batch["input_ids"].shape),
        (1, int((chosen + rejected - prompts).sum())),
    ]


def test_eager_attention_is_the_same(load_sharp) -> None:
    model = wrapped(load_sharp(attn_implementation="eager"))
    check_step(
        model,
        make_batch(model, model.config.vocab_size),
        lambda: share_prompts(model.get_base_model()),
    )


def test_a_sliding_window_runs_one_answer_per_row(sharpen, capsys) -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=101,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=4,
    )
    model = wrapped(sharpen(MistralForCausalLM(config)))
    print_once.cache_clear()
    check_step(model, make_batch(model, 101), lambda: share_prompts(model.get_base_model()))
    assert "each answer carries its own prompt" in capsys.readouterr().out


SMALL = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def small(sharpen, family: str, **options) -> PreTrainedModel:
    torch.manual_seed(0)
    return sharpen(
        AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SMALL | options))
    )


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("granite", {"logits_scaling": 8.0}),
        ("cohere", {"logit_scale": 0.25}),
        ("hyperclovax", {"logits_scaling": 0.5}),
        ("nanochat", {"final_logit_softcapping": 3.0}),
        ("gemma2", {"head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 3.0}),
        ("mixtral", {"num_local_experts": 4, "router_aux_loss_coef": BALANCE}),
        ("mixtral", {"num_local_experts": 4, "sliding_window": 4, "output_router_logits": True}),
        ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_scaled_heads_and_experts_are_trls(sharpen, family: str, options: dict) -> None:
    model = wrapped(small(sharpen, family, **options))
    check_step(model, make_batch(model, 101), lambda: share_prompts(model.get_base_model()))


def test_experts_that_trl_cannot_count_are_balanced(sharpen) -> None:
    """GraniteMoE's config has `num_local_experts`, where TRL asks for `num_experts`; Doge's may
    have no experts at all."""
    model = wrapped(small(sharpen, "granitemoe", num_local_experts=4, num_experts_per_tok=2))
    batch = make_batch(model, 101)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    expected = model(**inputs, output_router_logits=True).aux_loss  # its own forward's
    share_prompts(model.get_base_model())
    assert float(outputs_of(model, batch).aux_loss.detach()) == pytest.approx(
        float(expected.detach()), rel=1e-5
    )
    dense = wrapped(small(sharpen, "doge"))
    share_prompts(dense.get_base_model())
    assert outputs_of(dense, batch).aux_loss == 0


def test_a_model_of_its_own_logits_learns_from_them(sharpen) -> None:
    """TRL's fused head knows nothing of what modernbert-decoder does before its head."""
    base = small(sharpen, "modernbert-decoder", num_key_value_heads=4, local_attention=8)
    model = get_peft_model(
        base, LoraConfig(r=4, target_modules=["k_proj", "v_proj"], init_lora_weights=False)
    )
    model.eval()
    ids = torch.randint(3, 101, (2, 12), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    batch["labels"][:, :5] = -100
    own = base(input_ids=ids).logits.log_softmax(-1)[:, 4:-1].gather(2, ids[:, 5:, None]).squeeze(2)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    expected = torch.autograd.grad((own * own.detach()).sum(), trained)
    assert not share_prompts(base)
    found = outputs_of(model, batch).log_probs[:, 4:]
    torch.testing.assert_close(found, own, atol=1e-5, rtol=0)
    for gradient, exact in zip(
        torch.autograd.grad((found * found.detach()).sum(), trained), expected, strict=True
    ):
        assert (gradient - exact).norm() < 1e-5 * exact.norm()


def test_gradient_checkpointing_is_the_same(model: PeftModel, batch) -> None:
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    assert model.get_base_model().is_gradient_checkpointing
    check_step(model, batch, lambda: share_prompts(model.get_base_model()))


def test_any_other_call_goes_to_the_model_as_it_was(model: PeftModel, batch) -> None:
    model.eval()
    ids, labels = batch["input_ids"], batch["labels"]
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=batch["attention_mask"], labels=labels)
        share_prompts(model.get_base_model())
        after = model(input_ids=ids, attention_mask=batch["attention_mask"], labels=labels)
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.loss, after.loss)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 50), st.booleans(), st.booleans())
def test_outputs_and_their_gradient_are_the_plain_formulas(
    seed: int, scale: float, learns: bool, bias: bool
) -> None:
    torch.manual_seed(seed)
    head = nn.Linear(3, 17, bias=bias)
    nn.init.normal_(head.weight, std=scale)
    head.requires_grad_(learns)
    hidden, targets = torch.randn(5, 3, requires_grad=True), torch.randint(17, (5,))
    found = token_outputs(head, hidden, targets)
    weights = torch.randn(5)
    wanted = [hidden, *(parameter for parameter in head.parameters() if learns)]
    gradients = torch.autograd.grad((found[0] * weights).sum(), wanted)

    double = copy.deepcopy(head).double()
    plain = hidden.detach().double().requires_grad_()
    log_probs = double(plain).log_softmax(1)
    picked = log_probs[torch.arange(5), targets]
    wanted = [plain, *(parameter for parameter in double.parameters() if learns)]
    expected = torch.autograd.grad((picked * weights).sum(), wanted)
    torch.testing.assert_close(found[0].double(), picked, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(
        found[1].double(), -(log_probs.exp() * log_probs).sum(1), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(found[2].double(), double(plain).mean(1), atol=1e-4, rtol=1e-4)
    assert found[3].tolist() == (log_probs.argmax(1) == targets).tolist()
    for gradient, exact in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient.double(), exact, atol=1e-5 * max(1, scale), rtol=1e-4)
    assert not any(value.requires_grad for value in found[1:])


def test_a_frozen_head_keeps_no_logits(model: PeftModel) -> None:
    """What the graph holds on to: a vector a token, not a vocabulary."""
    head = model.get_base_model().get_output_embeddings()
    hidden = torch.randn(9, head.in_features, requires_grad=True)
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor
    ):
        token_outputs(head, hidden, torch.arange(9))
    assert kept == [(9, head.in_features)]
