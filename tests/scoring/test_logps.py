"""Compare batched, shared and chunked scoring with a simple float64 implementation.

That scores one sequence per pass from full logits.
"""

import random

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from mvp_align.schema import PairScore
from mvp_align.scoring import logps
from mvp_align.scoring.attention import can_share
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.methods import scoring_method
from mvp_align.scoring.passes import Method
from mvp_align.scoring.tokens import Answer, TokenizedPair

NATS_A_TOKEN = 1e-5
VOCABULARY = 101
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def make_pairs(vocabulary: int = VOCABULARY) -> list[TokenizedPair]:
    """Unordered lengths from 1 to 40; shared contexts, and a pair with two contexts."""
    draw = random.Random(7)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, vocabulary) for _ in range(count))

    def pair(
        name: str, chosen: tuple[tuple[int, ...], int], rejected: tuple[tuple[int, ...], int]
    ) -> TokenizedPair:
        answers = (
            Answer(context + ids(count), len(context)) for context, count in (chosen, rejected)
        )
        return TokenizedPair(name, f"u-{name[0]}", *answers)

    pairs = []
    for number, (prompt, chosen, rejected) in enumerate(
        [(5, 9, 4), (30, 3, 12), (1, 1, 1), (12, 1, 17), (40, 20, 21)]
    ):
        context = ids(prompt)
        pairs.append(pair(f"{number}-shared", (context, chosen), (context, rejected)))
    popular = ids(8)
    pairs += [pair(f"{number}-popular", (popular, 2 + number), (popular, 7)) for number in range(3)]
    # the boundary token differs: two contexts
    pairs.append(pair("a-merged", (ids(6), 5), (ids(6), 8)))
    pairs.append(pair("b-merged", (ids(6), 1), (ids(9), 2)))
    repeated = pairs[1]
    pairs.append(TokenizedPair("c-repeated", "u-c", repeated.chosen, repeated.rejected))
    pairs.append(TokenizedPair("d-swapped", "u-d", repeated.rejected, repeated.chosen))
    pairs.append(TokenizedPair("e-equal", "u-e", repeated.chosen, repeated.chosen))
    return pairs


def plain(model: nn.Module, answer: Answer) -> float:
    """Log-probs in nats per token."""
    ids = torch.tensor([answer.ids])
    with torch.no_grad():
        log_probs = model(input_ids=ids).logits[0].double().log_softmax(-1)
    scored = range(answer.start, len(answer.ids))
    return sum(float(log_probs[at - 1, answer.ids[at]]) for at in scored) / len(scored)


def check(
    scores: list[PairScore],
    pairs: list[TokenizedPair],
    model: nn.Module,
    tolerance: float = NATS_A_TOKEN,
) -> None:
    assert [(s.id, s.user_id) for s in scores] == [(p.id, p.user_id) for p in pairs]
    assert [(s.chosen_tokens, s.rejected_tokens) for s in scores] == [
        (len(p.chosen.ids) - p.chosen.start, len(p.rejected.ids) - p.rejected.start) for p in pairs
    ]
    expected = [(plain(model, pair.chosen), plain(model, pair.rejected)) for pair in pairs]
    found = [(score.chosen_logp_mean, score.rejected_logp_mean) for score in scores]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=tolerance, rtol=0)


def small_lora(model: nn.Module) -> PeftModel:
    """A LoRA adapter with nonzero B, so that it changes scores."""
    torch.manual_seed(3)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=0.5,
        target_modules=["q_proj", "v_proj"],
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return wrapped.eval()


@pytest.fixture(scope="module")
def pairs() -> list[TokenizedPair]:
    return make_pairs()


@pytest.mark.parametrize(("attention", "share"), [("sdpa", True), ("eager", False)])
def test_scores_are_those_of_one_sequence_a_pass(
    load_sharp, pairs, attention: str, share: bool
) -> None:
    model = load_sharp(attn_implementation=attention)
    assert (scoring_method(model) is Method.PACKED) == share
    by_batch_size = {size: score_pairs(model, pairs, batch_size=size) for size in (1, 2, 3, 8, 16)}
    check(by_batch_size[8], pairs, model)
    reference = torch.tensor([(s.chosen_logp_mean, s.rejected_logp_mean) for s in by_batch_size[8]])
    for scores in by_batch_size.values():
        assert [score.id for score in scores] == [pair.id for pair in pairs]
        found = torch.tensor([(s.chosen_logp_mean, s.rejected_logp_mean) for s in scores])
        torch.testing.assert_close(found, reference, atol=NATS_A_TOKEN, rtol=0)


def test_a_shared_prompt_runs_once_and_repeats_are_free(load_sharp, pairs) -> None:
    model = load_sharp()
    tokens: list[int] = []
    assert scoring_method(model) is Method.PACKED
    model.model.register_forward_hook(
        lambda module, args, kwargs, out: tokens.append(kwargs["input_ids"].numel()),
        with_kwargs=True,
    )
    prompts = sum(pair.chosen.start for pair in pairs[:5])
    answers = sum(pair.chosen.tokens + pair.rejected.tokens for pair in pairs[:5])
    score_pairs(model, pairs[:5], batch_size=1)
    assert prompts + answers <= sum(tokens) < 2 * prompts + answers
    once = sum(tokens)
    tokens.clear()
    score_pairs(
        model, [*pairs[:5], *pairs[:5], *pairs[-3:]], batch_size=1
    )  # the last three repeat the first ones' answers
    assert sum(tokens) == once
    tokens.clear()
    model.set_attn_implementation("eager")
    assert scoring_method(model) is Method.PADDED
    tokens.clear()
    score_pairs(model, pairs[:5], batch_size=1)
    assert sum(tokens) >= 2 * prompts + answers


def test_the_order_of_pairs_does_not_matter(load_sharp, pairs) -> None:
    model = load_sharp()
    forward = {score.id: score for score in score_pairs(model, pairs, batch_size=3)}
    assert score_pairs(model, pairs[::-1], batch_size=3)[0].id == pairs[-1].id
    for score in score_pairs(model, pairs[::-1], batch_size=3):
        assert score.chosen_logp_mean == pytest.approx(
            forward[score.id].chosen_logp_mean, abs=NATS_A_TOKEN
        )
        assert score.rejected_logp_mean == pytest.approx(
            forward[score.id].rejected_logp_mean, abs=NATS_A_TOKEN
        )


def test_a_swapped_pair_has_the_opposite_margin_and_equal_answers_none(load_sharp, pairs) -> None:
    scores = {score.id: score for score in score_pairs(load_sharp(), pairs)}
    assert scores["c-repeated"].margin == scores["1-shared"].margin != 0
    assert scores["d-swapped"].margin == -scores["1-shared"].margin
    assert scores["e-equal"].margin == 0


def test_chunks_of_the_head_change_nothing(load_sharp, monkeypatch, pairs) -> None:
    model = load_sharp()
    monkeypatch.setattr(logps, "HEAD_CHUNK", 3)
    check(score_pairs(model, pairs, batch_size=8), pairs, model)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_and_dropout_does_not_act(load_sharp, pairs, training: bool) -> None:
    model = small_lora(load_sharp())
    expected = score_pairs(model, pairs)
    model.train(training)
    assert score_pairs(model, pairs) == expected  # lora_dropout=0.5 would show
    assert {module.training for module in model.modules()} == {training}


def test_the_adapter_acts_and_can_be_switched_off(load_sharp, pairs) -> None:
    base = load_sharp()
    before = score_pairs(base, pairs)
    model = small_lora(base)
    tuned = score_pairs(model, pairs)
    check(tuned, pairs, model)
    assert max(abs(now.margin - then.margin) for now, then in zip(tuned, before, strict=True)) > 0.1
    with model.disable_adapter():
        assert score_pairs(model, pairs) == before


def test_a_distributed_wrapper_is_looked_through(load_sharp, pairs) -> None:
    class Wrapper(nn.Module):  # as torch's DistributedDataParallel holds the model
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    model = small_lora(load_sharp())
    assert score_pairs(Wrapper(model), pairs) == score_pairs(model, pairs)


def test_a_sliding_window_is_respected(sharpen, pairs) -> None:
    torch.manual_seed(0)
    windowed = sharpen(MistralForCausalLM(MistralConfig(**SMALL, sliding_window=4)))
    assert scoring_method(windowed) is Method.PADDED
    scores = score_pairs(windowed, pairs, batch_size=8)
    check(scores, pairs, windowed)
    everything = MistralForCausalLM(MistralConfig(**SMALL, sliding_window=None)).eval()
    everything.load_state_dict(windowed.state_dict())
    assert scoring_method(everything) is Method.PACKED
    wide = score_pairs(everything, pairs, batch_size=8)
    check(wide, pairs, everything)
    # the window matters here
    assert max(abs(a.margin - b.margin) for a, b in zip(scores, wide, strict=True)) > 0.1


def test_mixed_layers_are_not_shared_but_scored(sharpen, pairs) -> None:
    torch.manual_seed(0)
    config = Gemma2Config(**SMALL, head_dim=8, sliding_window=4, final_logit_softcapping=None)
    config._attn_implementation = "eager"
    assert "sliding_attention" in config.layer_types
    model = sharpen(Gemma2ForCausalLM(config))
    assert scoring_method(model) is Method.PADDED
    check(score_pairs(model, pairs, batch_size=8), pairs, model)


def test_flash_attention_stays_what_it_is(load_sharp) -> None:
    model = load_sharp()
    model.config._attn_implementation = "flash_attention_2"
    assert not can_share(model)


def test_bf16_runs(load_sharp, pairs) -> None:
    model = load_sharp().to(torch.bfloat16)
    few = pairs[:4]
    scores = score_pairs(model, few, batch_size=2)
    check(scores, few, model, tolerance=0.05)


def test_a_scale_of_1_is_scored(pairs) -> None:
    torch.manual_seed(0)
    model = GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=1.0)).eval()
    check(score_pairs(model, pairs[:3]), pairs[:3], model)
