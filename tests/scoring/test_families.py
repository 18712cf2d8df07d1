"""Forty tiny causal model families: scored by their own logits, or refused in one line."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from mvp_align.errors import UserError
from mvp_align.scoring import methods
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.methods import scoring_method, shape_method
from mvp_align.scoring.passes import Method
from mvp_align.scoring.tokens import Answer, TokenizedPair

MARGIN = 4e-5
"""Rounding of fp32 in nats, which is the processor's: of margins up to 7.6, Mamba's scan is 2.7e-5
off on an AMD EPYC, and 5e-7 in float64."""
PACKED, PADDED, OWN = Method.PACKED, Method.PADDED, Method.OWN

SIZES = {
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MOE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_ssm": 128,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
}
GRIFFIN = {
    "block_types": ["recurrent", "attention"],
    "attention_window_size": 8,
    "logits_soft_cap": 3.0,
}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}

FAMILIES: dict[str, tuple[Method | None, dict[str, Any]]] = {
    # linear heads under attention that takes packed rows; grouped heads, biases of projections and
    # heads
    "llama": (PACKED, {"attention_bias": True, "mlp_bias": True}),
    "qwen2": (PACKED, {}),
    "qwen3": (PACKED, {"attention_bias": True, "head_dim": 16}),
    "smollm3": (PACKED, {"no_rope_layers": [1, 0]}),
    "gemma": (PACKED, {"head_dim": 16}),
    "olmo2": (PACKED, {"attention_bias": True}),
    "phi": (PACKED, {"num_key_value_heads": 4}),
    "phi3": (PACKED, {}),
    "glm4": (PACKED, {"head_dim": 16}),
    "gpt_neox": (PACKED, {}),
    "deepseek_v3": (
        PACKED,
        {
            "num_key_value_heads": 4,
            "n_routed_experts": 16,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
        },
    ),
    "mixtral": (PACKED, {"num_local_experts": 4}),
    "qwen2_moe": (PACKED, MOE),
    "olmoe": (PACKED, {"num_experts": 4, "num_experts_per_tok": 2}),
    # logits scaled or soft-capped, as TRL knows it
    "granite": (PACKED, {"logits_scaling": 8.0, "attention_bias": True}),
    "granitemoe": (PACKED, {"logits_scaling": 4.0}),
    "hyperclovax": (PACKED, {"logits_scaling": 0.5}),
    "cohere": (PACKED, {"logit_scale": 0.25, "attention_bias": True}),
    "nanochat": (PACKED, {"final_logit_softcapping": 3.0}),
    "gemma2": (PADDED, {"head_dim": 16, "sliding_window": 4, "final_logit_softcapping": 3.0}),
    # windows, learned positions, ALiBi, attention of their own: a row an answer
    "mistral": (PADDED, {"sliding_window": 4}),
    "gemma3_text": (PADDED, {"head_dim": 16, "sliding_window": 4}),
    "gpt_oss": (PADDED, {"head_dim": 16, "num_local_experts": 4, "sliding_window": 4}),
    "llama4_text": (PADDED, {"head_dim": 16, "intermediate_size_mlp": 96, "num_local_experts": 4}),
    "nemotron": (PADDED, {"attention_bias": True, "mlp_bias": True}),
    "doge": (PADDED, {"attention_bias": True}),
    "stablelm": (PADDED, {"use_qkv_bias": True}),
    "gpt2": (PADDED, {}),
    "opt": (PADDED, {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "bloom": (PADDED, {}),
    "falcon": (PADDED, {"bias": True, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "mpt": (PADDED, {}),
    # states beside attention, and heads that are scaled at the same time
    "mamba": (PADDED, {"state_size": 8, "intermediate_size": 128}),
    "falcon_h1": (PADDED, MAMBA | {"head_dim": 16, "lm_head_multiplier": 0.5}),
    "qwen3_next": (PADDED, MOE | LINEAR | {"head_dim": 16}),
    # more than a linear head over the last hidden states, or states that padding changes
    "modernbert-decoder": (OWN, {"decoder_bias": True, "local_attention": 8}),
    "xlstm": (OWN, {"num_heads": 4, "qk_dim_factor": 0.5, "chunk_size": 16}),
    "recurrent_gemma": (OWN, GRIFFIN),
    "roberta": (OWN, {"is_decoder": True}),
    # sees later tokens
    "bert": (None, {}),
}


def test_no_family_is_missing() -> None:
    assert len(FAMILIES) == 40
    assert [
        sum(method is kind for method, _ in FAMILIES.values())
        for kind in (PACKED, PADDED, OWN, None)
    ] == [
        19,
        16,
        4,
        1,
    ]


def shape_of(family: str) -> PreTrainedConfig:
    _, options = FAMILIES[family]
    known = AutoConfig.for_model(family)
    return AutoConfig.for_model(
        family, **{k: v for k, v in SIZES.items() if hasattr(known, k)} | options
    )


def tiny(shape: PreTrainedConfig) -> PreTrainedModel:
    """Enlarge weights, so that all tokens attend to each other, and move biases away from zero."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
            elif name.endswith("bias"):
                parameter.normal_(std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def pairs() -> list[TokenizedPair]:
    """Pairs of lengths from 2 to 46; two prompts of one person share a prefix."""
    draw = torch.Generator().manual_seed(7)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 101, (count,), generator=draw).tolist())

    profile = ids(20)
    prompts = [ids(3), ids(30), ids(1), profile + ids(4), profile + ids(9)]
    counts = [(9, 4), (3, 16), (1, 1), (12, 2), (6, 7)]
    return [
        TokenizedPair(
            str(number), "u", *(Answer(prompt + ids(count), len(prompt)) for count in both)
        )
        for number, (prompt, both) in enumerate(zip(prompts, counts, strict=True))
    ]


def own_logp(model: PreTrainedModel, answer: Answer) -> float:
    """Log-prob in nats per token of the unpadded row, by the model's own forward pass."""
    ids = torch.tensor([answer.ids])
    with torch.no_grad():
        log_probs = model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)
    return (
        sum(float(log_probs[at - 1, answer.ids[at]]) for at in range(answer.start, len(answer.ids)))
        / answer.tokens
    )


def off(
    model: PreTrainedModel, pairs: list[TokenizedPair], expected: list[float], batch_size: int
) -> float:
    margins = [score.margin for score in score_pairs(model, pairs, batch_size=batch_size)]
    return max(abs(found - own) for found, own in zip(margins, expected, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_margins_are_the_models_own(family: str, pairs: list[TokenizedPair]) -> None:
    method, _ = FAMILIES[family]
    shape = shape_of(family)
    model = tiny(shape)
    if method is None:
        for refused in (lambda: score_pairs(model, pairs), lambda: shape_method(shape)):
            with pytest.raises(UserError, match=r"^[^\n]+$"):
                refused()
        return
    expected = [own_logp(model, pair.chosen) - own_logp(model, pair.rejected) for pair in pairs]
    assert max(map(abs, expected)) > 1000 * MARGIN
    told = shape_method(shape)  # as in a dry run
    assert told is None or told[0] is method
    for batch_size in (1, 8):
        assert off(model, pairs, expected, batch_size) < MARGIN, batch_size
    assert scoring_method(model) is method


def test_without_the_self_check_scores_are_wrong(pairs: list[TokenizedPair], monkeypatch) -> None:
    monkeypatch.setattr(methods, "disagreement", lambda *_: "")
    for family in (name for name, (method, _) in FAMILIES.items() if method is OWN):
        model = tiny(shape_of(family))
        expected = [own_logp(model, pair.chosen) - own_logp(model, pair.rejected) for pair in pairs]
        assert off(model, pairs, expected, batch_size=8) > 1000 * MARGIN, family


def test_a_slower_method_is_noted_once(pairs: list[TokenizedPair], capsys) -> None:
    methods.print_once.cache_clear()
    for _ in range(2):
        score_pairs(tiny(shape_of("modernbert-decoder")), pairs[:1])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(
        "ModernBertDecoderForCausalLM: scored by its own logits, a row at a time, for the faster"
        " way is "
    )


def test_the_check_runs_once_a_model(pairs: list[TokenizedPair], monkeypatch) -> None:
    tried: list[PreTrainedModel] = []
    known = methods.tried_method

    def counted(causal: PreTrainedModel, first: Method) -> methods.Found:
        tried.append(causal)
        return known(causal, first)

    monkeypatch.setattr(methods, "tried_method", counted)
    model, other = tiny(shape_of("llama")), tiny(shape_of("llama"))
    for scored in (model, model, other):
        score_pairs(scored, pairs[:1])
    assert tried == [model, other]


def test_in_16_bits_a_fault_below_its_rounding_is_found_on_a_copy(monkeypatch) -> None:
    """bf16 cannot tell an error of 0.2 nats a token from its own."""
    monkeypatch.setattr(methods, "ROUNDINGS", 1e3)
    assert scoring_method(tiny(shape_of("modernbert-decoder")).to(torch.bfloat16)) is OWN
    assert scoring_method(tiny(shape_of("llama")).to(torch.bfloat16)) is PACKED


def test_a_model_without_weights_is_judged_by_a_tiny_copy() -> None:
    """As planning builds it, with LLaMA-2-7B's own sizes; and no random number is drawn."""
    with torch.device("meta"):
        llama = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama"))
        modern = AutoModelForCausalLM.from_config(AutoConfig.for_model("modernbert-decoder"))
    before = torch.get_rng_state()
    assert scoring_method(llama) is PACKED
    assert scoring_method(modern) is OWN
    assert torch.equal(torch.get_rng_state(), before)


def test_models_without_a_tiny_copy_are_tried_when_loaded(capsys) -> None:
    # its attention has no grouped heads
    shape = AutoConfig.for_model("deepseek_v3", num_key_value_heads=2)
    assert shape_method(shape) is None
    with torch.device("meta"):
        scoring_method(AutoModelForCausalLM.from_config(shape))
    assert (
        "DeepseekV3ForCausalLM: how it is scored is taken from its class, and tried"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("layers", ["packed", "windowed"])
def test_a_row_longer_than_longropes_short_range_runs_alone(
    pairs: list[TokenizedPair], layers: str
) -> None:
    """One such row would give all rows of its pass other frequencies."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [8.0] * 8,
    }
    window = {"sliding_window": 8} if layers == "windowed" else {}
    limits = {"original_max_position_embeddings": 32}  # over all that the self-check tries
    model = tiny(AutoConfig.for_model("phi3", **SIZES | limits, rope_parameters=rope, **window))
    assert model.config.rope_parameters["original_max_position_embeddings"] == 32
    expected = [own_logp(model, pair.chosen) - own_logp(model, pair.rejected) for pair in pairs]
    for batch_size in (1, 8):
        assert off(model, pairs, expected, batch_size) < MARGIN
    assert scoring_method(model) is (PADDED if window else PACKED)
    assert {pair.longest > 32 for pair in pairs} == {True, False}


def test_dynamic_rotary_positions_are_refused_beyond_their_range(
    pairs: list[TokenizedPair],
) -> None:
    """Their frequencies grow with the longest text so far, whichever it was."""
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    sizes = SIZES | {"max_position_embeddings": 40}
    model = tiny(AutoConfig.for_model("llama", **sizes, rope_parameters=rope))
    with pytest.raises(UserError, match=r"over the 40 .* data\.max_tokens=40 or less"):
        score_pairs(model, pairs)
    score_pairs(model, pairs[:1])
