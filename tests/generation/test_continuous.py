"""Continuous batching writes what plain `generate` writes, and leaves no trace on the model."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from mvp_align.config import Generation, Lora, Model
from mvp_align.errors import UserError
from mvp_align.generation import continuous, local
from mvp_align.generation.answers import Drafts, Generated, read_drafts
from mvp_align.generation.continuous import check_continuous, check_continuous_shape, paging_fault
from mvp_align.generation.local import generate_locally
from mvp_align.modeling.adapters import new_adapter
from mvp_align.modeling.base import load_base
from mvp_align.runtime import preemption
from mvp_align.runtime.preemption import Preempted
from mvp_align.schema import PromptedPair
from mvp_align.scoring.attention import SHARED
from mvp_align.scoring.methods import scoring_method
from mvp_align.scoring.passes import Method

SEED = 12


def continuously(settings: Generation, **others: object) -> Generation:
    return replace(settings, engine="continuous", **others)


@pytest.mark.parametrize("temperature", [0, 0.7])
@pytest.mark.parametrize("batch_size", [1, 5, 16])
def test_equal_to_plain_generate(
    talker: PreTrainedModel,
    tokenizer,
    prompts,
    greedy: Generation,
    temperature: float,
    batch_size: int,
) -> None:
    settings = replace(greedy, temperature=temperature)
    plain = generate_locally(talker, tokenizer, prompts, settings, SEED)
    found = generate_locally(
        talker, tokenizer, prompts, continuously(settings, batch_size=batch_size), SEED
    )
    assert found == plain
    if not temperature:  # some end in the middle, some at once, and some are cut
        assert {answer.finished for answer in found} == {True, False}
        assert {answer.tokens for answer in found} > {0, 12}


def test_equal_under_an_adapter_and_after_sharing_attention(
    talker, tokenizer, prompts, greedy: Generation
) -> None:
    assert scoring_method(talker) is Method.PACKED
    model = new_adapter(talker, Lora(), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    settings = continuously(greedy)
    found = generate_locally(model, tokenizer, prompts, settings, SEED)
    assert found == generate_locally(model, tokenizer, prompts, greedy, SEED)
    with model.disable_adapter():
        assert generate_locally(model, tokenizer, prompts, settings, SEED) != found


@pytest.mark.parametrize("attention", ["sdpa", "eager", SHARED])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(
    talker, tokenizer, prompts, greedy: Generation, attention: str, training: bool
) -> None:
    talker.set_attn_implementation(attention)
    talker.train(training)
    before = {name: module.training for name, module in talker.named_modules()}
    defaults, weights = talker.generation_config, [*map(torch.clone, talker.parameters())]
    random, threads = torch.get_rng_state(), threading.active_count()
    expected = generate_locally(talker, tokenizer, prompts, greedy, SEED)
    for settings in (continuously(greedy), continuously(greedy, temperature=0.7)):
        found = generate_locally(talker, tokenizer, prompts, settings, SEED)
        assert (found == expected) == (not settings.temperature)
    assert talker.config._attn_implementation == attention
    assert talker.generation_config is defaults and defaults.repetition_penalty == 1.7
    assert talker.config.use_cache is False
    assert {name: module.training for name, module in talker.named_modules()} == before
    assert all(map(torch.equal, weights, talker.parameters()))
    assert torch.equal(torch.get_rng_state(), random)
    assert threading.active_count() == threads
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    talker(input_ids=torch.tensor([[5, 6]])).logits.sum().backward()


def test_prompts_that_begin_alike_share_pages(
    talker, tokenizer, prompts, greedy: Generation, monkeypatch
) -> None:
    """And the answers are those of unshared ones."""
    start = "The quick brown fox jumps over the lazy dog, again and again and again and again. "
    alike = [replace(prompt, prompt=start + prompt.prompt) for prompt in prompts]
    passes = count_tokens(talker)
    found = generate_locally(talker, tokenizer, alike, continuously(greedy, batch_size=2), SEED)
    fewer, passes[:] = sum(passes), []
    whole = continuous._sizes

    def unshared(*args):
        sizes = whole(*args)
        sizes.allow_block_sharing = False
        return sizes

    monkeypatch.setattr(continuous, "_sizes", unshared)
    again = generate_locally(talker, tokenizer, alike, continuously(greedy, batch_size=2), SEED)
    assert again == found == generate_locally(talker, tokenizer, alike, greedy, SEED)
    assert fewer < sum(passes) - 10 * continuous.PAGE


def count_tokens(model: nn.Module) -> list[int]:
    """Return a list that grows by the number of tokens of each pass."""
    counts: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: counts.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    return counts


def test_prompts_over_the_token_budget_are_split(
    talker, tokenizer, prompts, greedy: Generation, monkeypatch
) -> None:
    expected = generate_locally(talker, tokenizer, prompts, greedy, SEED)
    check_continuous(talker, 100)
    monkeypatch.setattr(continuous, "TOKEN_BUDGET", 8)
    passes = count_tokens(talker)
    assert generate_locally(talker, tokenizer, prompts, continuously(greedy), SEED) == expected
    assert max(passes) == 8 < max(len(tokenizer(prompt.prompt).input_ids) for prompt in prompts)


def test_the_end_of_a_turn_stops_where_eos_is_another_token(
    talker, sharp_model, prompts, greedy: Generation
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(sharp_model, eos_token="<|endoftext|>")
    talker.generation_config.eos_token_id = talker.config.eos_token_id = 0
    found = generate_locally(talker, tokenizer, prompts, continuously(greedy), SEED)
    assert found == generate_locally(talker, tokenizer, prompts, greedy, SEED)
    assert any(answer.finished for answer in found)


def test_no_prompts_by_the_continuous_engine(talker, tokenizer, greedy: Generation) -> None:
    assert generate_locally(talker, tokenizer, [], continuously(greedy), SEED) == []


def test_a_cache_that_does_not_fit_is_refused(
    talker, tokenizer, prompts, greedy: Generation, monkeypatch
) -> None:
    check_continuous(talker, 100)
    monkeypatch.setattr(continuous, "SPARE", 1e7)
    with pytest.raises(UserError, match=r"^generation\.batch_size=16: the keys and values"):
        generate_locally(talker, tokenizer, prompts, continuously(greedy, batch_size=16), SEED)
    assert talker.config._attn_implementation == "sdpa"


def test_what_breaks_in_the_thread_is_raised_here(
    talker, tokenizer, prompts, greedy: Generation
) -> None:
    check_continuous(talker, 100)

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("no room")

    talker.lm_head.register_forward_pre_hook(fail)
    threads = threading.active_count()
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        generate_locally(talker, tokenizer, prompts, continuously(greedy), SEED)
    assert threading.active_count() == threads


class Interrupted:
    """Counts groups, and asks to stop (or dies) after so many answers that were kept."""

    def __init__(self, drafts: Drafts, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kept, self.after = 0, after
        add = Drafts.add

        def counted(this: Drafts, answers: dict[str, Generated]) -> None:
            add(this, answers)
            self.kept += len(answers)
            if self.kept >= self.after:
                monkeypatch.setattr(preemption.request, "reason", "SIGTERM")

        monkeypatch.setattr(Drafts, "add", counted)
        monkeypatch.setattr(preemption.request, "listening", True)


@pytest.mark.parametrize("temperature", [0, 0.9])
def test_a_stop_within_a_group_keeps_what_is_finished(
    talker, tokenizer, prompts, greedy: Generation, temperature: float, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(local, "GROUP", 2)
    settings = continuously(greedy, temperature=temperature, batch_size=3)
    undisturbed = generate_locally(talker, tokenizer, prompts, settings, SEED)
    path = tmp_path / "base-in_domain.jsonl"
    kept = [0]
    for after in (1, 4, 1, 2):
        with monkeypatch.context() as patch:
            drafts = Drafts(tmp_path / ".base-in_domain", read_drafts(path))
            Interrupted(drafts, after, patch)
            with pytest.raises(Preempted):
                generate_locally(talker, tokenizer, prompts, settings, SEED, drafts=drafts)
        kept.append(len(read_drafts(path)))
    assert 0 < kept[1] < len(prompts)
    assert kept == sorted(kept)
    drafts = Drafts(tmp_path / ".base-in_domain", read_drafts(path))
    assert (
        generate_locally(talker, tokenizer, prompts, settings, SEED, drafts=drafts) == undisturbed
    )


def test_groups_run_in_the_same_passes_again(
    talker, tokenizer, prompts, greedy: Generation, monkeypatch
) -> None:
    """Also where another group has run before, so that a resumed run rounds as the first one."""
    monkeypatch.setattr(local, "GROUP", 2)
    settings = continuously(greedy, batch_size=3)
    check_continuous(talker, 100)
    inputs: list[list[int]] = []
    talker.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.append(kwargs["input_ids"][0].tolist()),
        with_kwargs=True,
    )
    drafts = Drafts(None)
    whole = generate_locally(talker, tokenizer, prompts, settings, SEED, drafts=drafts)
    passes, inputs[:] = list(inputs), []
    last = max(drafts.known, key=[*drafts.known].index)
    rest = Drafts(None, {key: answer for key, answer in drafts.known.items() if key != last})
    assert generate_locally(talker, tokenizer, prompts, settings, SEED, drafts=rest) == whole
    assert 0 < len(inputs) < len(passes)
    assert passes[-len(inputs) :] == inputs


def test_engines_do_not_take_each_others_drafts(
    talker, tokenizer, prompts, greedy: Generation
) -> None:
    drafts = Drafts(None)
    generate_locally(talker, tokenizer, prompts, greedy, SEED, drafts=drafts)
    generate_locally(talker, tokenizer, prompts, continuously(greedy), SEED, drafts=drafts)
    assert len(drafts.known) == 2 * len(prompts)


def test_answers_are_kept_as_they_finish(
    talker, tokenizer, prompts: Sequence[PromptedPair], greedy: Generation, monkeypatch
) -> None:
    """The first ones long before the last one."""
    moments: list[tuple[float, int]] = []
    add = Drafts.add

    def timed(this: Drafts, answers: dict[str, Generated]) -> None:
        moments.append((time.monotonic(), len(answers)))
        add(this, answers)

    monkeypatch.setattr(Drafts, "add", timed)
    generate_locally(talker, tokenizer, prompts, continuously(greedy, batch_size=1), SEED)
    assert sum(count for _, count in moments) == len(prompts)
    assert len(moments) > len(prompts) / 2


def test_a_model_that_is_not_paged_is_refused_before_any_answer(
    talker, tokenizer, prompts, greedy: Generation, monkeypatch
) -> None:
    """A model whose layers do not hand the cache on attends to the tokens of one pass alone."""
    for layer in talker.model.layers:
        forward = layer.self_attn.forward

        def forgetful(*args, forward=forward, **kwargs):
            kwargs.pop("cache", None)
            return forward(*args, **kwargs)

        layer.self_attn.forward = forgetful
    drafts = Drafts(None)
    with pytest.raises(UserError, match=r"LlamaForCausalLM cannot be .*engine=plain") as refused:
        generate_locally(talker, tokenizer, prompts, continuously(greedy), SEED, drafts=drafts)
    assert "\n" not in str(refused.value)
    assert drafts.known == {}
    assert generate_locally(talker, tokenizer, prompts, greedy, SEED)


def test_the_check_of_a_model_runs_once(
    talker, tokenizer, prompts, greedy: Generation, monkeypatch
) -> None:
    tried = []

    def counted(causal: PreTrainedModel) -> str:
        tried.append(causal)
        return paging_fault(causal)

    monkeypatch.setattr(continuous, "paging_fault", counted)
    for _ in range(2):
        generate_locally(talker, tokenizer, prompts, continuously(greedy), SEED)
    assert tried == [talker]


def test_positions_that_depend_on_the_pass_are_refused(talker) -> None:
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [8.0] * 8}
    talker.config.rope_parameters = rope | {"original_max_position_embeddings": 32}
    check_continuous_shape(talker.config, 32, trial=False)
    with pytest.raises(UserError, match=r"from 32 tokens on, .* can have 33\. Use"):
        check_continuous_shape(talker.config, 33, trial=False)


def test_answers_in_bf16_are_the_pages_own(talker_folder, tokenizer, prompts, greedy) -> None:
    model = AutoModelForCausalLM.from_pretrained(talker_folder, dtype=torch.bfloat16)
    found = generate_locally(model, tokenizer, prompts, continuously(greedy), SEED)
    plain = generate_locally(model, tokenizer, prompts, greedy, SEED)
    assert sum(one == other for one, other in zip(found, plain, strict=True)) > len(prompts) / 2


def test_equal_over_a_base_in_4_bits(
    sharp_model, placement, tokenizer, prompts, greedy: Generation
) -> None:
    base = load_base(Model("sharp", str(sharp_model)), placement, "4bit")
    model = new_adapter(base, Lora(), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    found = generate_locally(model, tokenizer, prompts, continuously(greedy), SEED)
    assert found == generate_locally(model, tokenizer, prompts, greedy, SEED)
