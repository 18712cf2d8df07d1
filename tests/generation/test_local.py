"""Compare generated answers with a naive loop: one prompt at a time, without a KV cache."""

import random
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mvp_align.config import Generation, Lora
from mvp_align.errors import UserError
from mvp_align.generation import local
from mvp_align.generation.answers import Drafts, Generated, read_drafts
from mvp_align.generation.local import generate_locally, stop_ids
from mvp_align.generation.sampling import Draw, uniforms
from mvp_align.modeling.adapters import new_adapter
from mvp_align.runtime.preemption import Preempted
from mvp_align.schema import PromptedPair
from mvp_align.scoring.methods import scoring_method
from mvp_align.scoring.passes import Method

SEED = 12


def plainly(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[PromptedPair],
    settings: Generation,
    stops: set[int],
    seed: int = SEED,
) -> list[Generated]:
    """Sample from the cumulated softmax with the pair's next random number, or take the argmax."""
    answers = []
    for prompt in prompts:
        ids, written, finished = tokenizer(prompt.prompt).input_ids, [], False
        draws = uniforms(seed, prompt.id, settings.max_new_tokens)
        for step in range(settings.max_new_tokens):
            with torch.no_grad():
                logits = (
                    model(input_ids=torch.tensor([ids + written]), use_cache=False)
                    .logits[0, -1]
                    .double()
                )
            if settings.temperature:
                shares = torch.softmax(logits / settings.temperature, dim=0).numpy()
                token = int(np.flatnonzero(np.cumsum(shares) > draws[step])[0])
            else:
                token = int(logits.argmax())
            if token in stops:
                finished = True
                break
            written.append(token)
        text = tokenizer.decode(written, skip_special_tokens=True)
        answers.append(Generated(prompt.id, prompt.user_id, text, len(written), finished))
    return answers


@pytest.mark.parametrize("temperature", [0, 0.7])
@pytest.mark.parametrize("batch_size", [1, 5, 16])
def test_equal_to_one_at_a_time_without_a_cache(
    talker: PreTrainedModel,
    tokenizer,
    prompts,
    greedy: Generation,
    temperature: float,
    batch_size: int,
) -> None:
    settings = replace(greedy, temperature=temperature, batch_size=batch_size)
    found = generate_locally(talker, tokenizer, prompts, settings, SEED)
    assert found == plainly(
        talker.eval(), tokenizer, prompts, settings, {tokenizer.eos_token_id, 0}
    )
    if not temperature:
        assert {answer.finished for answer in found} == {True, False}
        assert any(answer.empty for answer in found)
        assert {answer.tokens for answer in found} > {0, 12}


def test_under_an_adapter_and_after_sharing_attention(
    talker, tokenizer, prompts, greedy: Generation
) -> None:
    assert scoring_method(talker) is Method.PACKED
    model = new_adapter(talker, Lora(), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    found = generate_locally(model, tokenizer, prompts, greedy, SEED)
    assert found == plainly(model.eval(), tokenizer, prompts, greedy, {tokenizer.eos_token_id, 0})
    with model.disable_adapter():
        assert generate_locally(model, tokenizer, prompts, greedy, SEED) != found


def test_the_model_is_left_as_it_was_and_the_cache_was_used(
    talker, tokenizer, prompts, greedy: Generation
) -> None:
    widths = []
    talker.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    talker.train()
    defaults = talker.generation_config
    generate_locally(talker, tokenizer, prompts, greedy, SEED)
    assert talker.training
    assert talker.config.use_cache is False
    assert talker.generation_config is defaults and defaults.repetition_penalty == 1.7
    assert sum(width > 1 for width in widths) == 4  # the prompts of each batch, once
    assert sum(width == 1 for width in widths) > 20
    assert torch.is_grad_enabled()


def test_a_seed_gives_the_same_answers_and_another_others(
    talker, tokenizer, prompts, greedy: Generation
) -> None:
    settings = replace(greedy, temperature=1.0)
    torch.manual_seed(1)
    first = generate_locally(talker, tokenizer, prompts, settings, 1)
    assert generate_locally(talker, tokenizer, prompts, settings, 1) == first
    assert generate_locally(talker, tokenizer, list(reversed(prompts)), settings, 1) == list(
        reversed(first)
    )
    assert generate_locally(talker, tokenizer, prompts[3:4], settings, 1) == first[3:4]
    other = generate_locally(talker, tokenizer, prompts, settings, 2)
    assert sum(one != two for one, two in zip(first, other, strict=True)) > 12


def test_draws_follow_the_softmax_at_that_temperature() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0, 1.0, -torch.inf]])
    count = 4000
    draw = Draw(
        torch.rand(count, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        0.7,
        width=3,
    )
    chosen = draw(torch.zeros(count, 3, dtype=torch.long), logits.expand(count, -1)).argmax(dim=1)
    shares = torch.bincount(chosen, minlength=5) / count
    expected = torch.softmax(logits[0] / 0.7, dim=0)
    error = (expected * (1 - expected) / count).sqrt()
    assert (shares - expected).abs().le(4 * error + 1e-12).all()
    assert shares[4] == 0


def test_stop_tokens_are_the_models_the_tokenizers_and_the_chat_templates(
    talker, tokenizer
) -> None:
    assert stop_ids(talker, tokenizer) == sorted({tokenizer.convert_tokens_to_ids("<|im_end|>"), 0})
    talker.generation_config.eos_token_id = None
    assert stop_ids(talker, tokenizer) == [tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_the_end_of_a_turn_stops_where_eos_is_another_token(talker, sharp_model) -> None:
    """As in Llama-3's chat models: the tokenizer's EOS is <|end_of_text|>, a turn ends with
    <|eot_id|>."""
    tokenizer = AutoTokenizer.from_pretrained(sharp_model, eos_token="<|endoftext|>")
    talker.generation_config.eos_token_id = talker.config.eos_token_id = 0
    assert stop_ids(talker, tokenizer) == sorted({tokenizer.convert_tokens_to_ids("<|im_end|>"), 0})


def test_no_room_in_the_models_context(talker, tokenizer, prompts, greedy: Generation) -> None:
    longest = max(len(tokenizer(prompt.prompt).input_ids) for prompt in prompts)
    with pytest.raises(
        UserError, match=rf"longest prompt has {longest} tokens.* the 2048 that the model can take"
    ):
        generate_locally(talker, tokenizer, prompts, replace(greedy, max_new_tokens=2048), SEED)


@pytest.mark.parametrize("temperature", [0, 0.9])
def test_resuming_gives_the_same_answers(
    talker, tokenizer, prompts, greedy: Generation, temperature: float, tmp_path, monkeypatch
) -> None:
    settings = replace(greedy, temperature=temperature, batch_size=3)
    undisturbed = generate_locally(talker, tokenizer, prompts, settings, SEED)
    draw = random.Random(5)
    path = tmp_path / "base-in_domain.jsonl"
    ran: list[int] = []
    honest = local.batch_answers
    monkeypatch.setitem(
        local.ENGINES, "plain", lambda *args: ran.append(len(args[2])) or honest(*args)
    )
    for _ in range(4):
        left = SimpleNamespace(batches=draw.randrange(1, 3))

        def check(left: SimpleNamespace = left) -> None:
            left.batches -= 1
            if left.batches < 0:
                raise Preempted("test")

        monkeypatch.setattr(local, "raise_if_stop_requested", check)
        drafts = Drafts(tmp_path / ".base-in_domain", read_drafts(path))
        try:
            found = generate_locally(talker, tokenizer, prompts, settings, SEED, drafts=drafts)
        except Preempted:
            continue
    monkeypatch.setattr(local, "raise_if_stop_requested", lambda: None)
    drafts = Drafts(tmp_path / ".base-in_domain", read_drafts(path))
    found = generate_locally(talker, tokenizer, prompts, settings, SEED, drafts=drafts)
    assert found == undisturbed
    assert sum(ran) == len(prompts)  # no batch ran twice


def test_no_prompts(talker, tokenizer, greedy: Generation) -> None:
    assert generate_locally(talker, tokenizer, [], greedy, SEED) == []
