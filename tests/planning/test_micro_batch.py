"""Trying the longest batches before a run, under a real memory limit of the process."""

import re
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.machine import Worker, close
from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.evaluation.eval_sets import EvalSet
from mvp_align.modeling.adapters import new_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import resolve_hardware
from mvp_align.planning.micro_batch import (
    CPU_SHARE,
    HELD_ON_CPU,
    _faster,
    _kept_for_gradients,
    fit_micro_batch,
)
from mvp_align.runs.run_folder import Passes
from mvp_align.scoring.tokens import Answer, TokenizedPair
from mvp_align.training.plan import Batches, Plan
from mvp_align.training.step import longest_first

GIB = 2**30


def pairs_of(tokens: int, count: int) -> list[TokenizedPair]:
    """Pairs with `tokens` tokens per answer; a token has 0.2 MB of logits, in 3 to 4 copies."""

    def answer(number: int, first: int) -> Answer:
        return Answer((number + 1, *range(first, first + tokens)), 1)

    return [TokenizedPair(str(n), str(n), answer(n, 1), answer(n, 7)) for n in range(count)]


def plan_of(tokens: int, batch_size: int, scored_tokens: int = 20) -> Plan:
    scored = EvalSet("in_domain", pairs_of(scored_tokens, 8), [], {}, {}, 0, 0)
    batches = Batches(batch_size, batch_size, 1, 1, 1)
    return Plan([], pairs_of(tokens, batch_size), [], 0, 0, [scored], None, [], batches)


def fitted(config: Config, tokens: int, gib: float, scored_tokens: int = 20) -> Passes | str:
    """Return the passes, or the error, with `gib` of additional address space.

    Run it in its own process, where no memory freed by earlier tests counts.
    """
    model = adapted(config)
    # libraries are loaded before the limit stands
    fit_micro_batch(given(plan_of(2, 8, 2), config), model, config)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + int(gib * GIB), most))
    try:
        batches = fit_micro_batch(
            given(plan_of(tokens, 8, scored_tokens), config), model, config
        ).batches
    except UserError as error:
        return str(error)
    assert batches is not None and batches.micro * batches.accumulation == 8
    assert all(parameter.grad is None for parameter in model.parameters())
    return batches.passes


def given(plan: Plan, config: Config) -> Plan:
    """Use the micro-batch size of the config, if it sets one."""
    micro = config.train.micro_batch_size
    return (
        plan
        if isinstance(micro, str)
        else replace(plan, batches=Batches(8, micro, 8 // micro, 1, 1))
    )


def in_fresh_process(
    config: Config, tokens: int, gib: float, scored_tokens: int = 20
) -> Passes | str:
    worker = Worker()
    found = worker.call(fitted, config, tokens, gib, scored_tokens)
    close({"": worker})
    return found


def adapted(config: Config) -> PeftModel:
    base = load_base(config.model, resolve_hardware(config.hardware))
    return new_adapter(base, config.lora, config.seed)


@pytest.fixture
def auto(compose: Callable[..., Config], tiny: list[str]) -> Config:
    return compose(*tiny, "train.micro_batch_size=auto", "train.batch_size=8")


def test_takes_the_whole_batch_where_it_fits(auto: Config) -> None:
    model = adapted(auto)
    batches = fit_micro_batch(plan_of(20, 8), model, auto).batches
    assert batches is not None
    assert (batches.micro, batches.accumulation, batches.effective) == (8, 1, 8)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_takes_a_smaller_divisor_where_memory_is_short(auto: Config) -> None:
    short = replace(auto, evals=replace(auto.evals, batch_size=1))
    found = in_fresh_process(short, 60, 0.25)
    assert isinstance(found, Passes) and found.micro in (1, 2, 4)


def test_leaves_a_given_size_alone(auto: Config) -> None:
    model = adapted(auto)
    fixed = replace(auto, train=replace(auto.train, micro_batch_size=2))
    plan = given(plan_of(20, 8), fixed)
    assert fit_micro_batch(plan, model, fixed) == plan


def test_takes_no_more_than_a_cpus_memory_has_room_for(
    auto: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(auto)
    kept = _kept_for_gradients(model, longest_first(plan_of(20, 8).train_tokens, auto)[0], auto)
    for pairs, expected in ((8.5, 8), (7.5, 4), (0.5, 1)):
        room = SimpleNamespace(total=pairs * HELD_ON_CPU * kept / CPU_SHARE)
        monkeypatch.setattr("psutil.virtual_memory", lambda room=room: room)
        batches = fit_micro_batch(plan_of(20, 8), model, auto).batches
        assert batches is not None and batches.micro == expected


def test_counts_what_a_pass_keeps_once(auto: Config) -> None:
    """Twice the tokens keep twice as much, but for what does not depend on them."""
    model = adapted(auto)
    short, long = (_kept_for_gradients(model, pairs_of(n, 1)[0], auto) for n in (100, 200))
    assert 1.8 < long / short < 2.3
    weights = sum(weight.nbytes for weight in model.parameters())
    assert short < _kept_for_gradients(model, pairs_of(101, 1)[0], auto) < short + weights


def test_checkpoints_where_nothing_fits_without(auto: Config, tmp_path: Path) -> None:
    """Of a deep model with a small vocabulary, whose layers are what passes keep."""
    shape = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=512, num_hidden_layers=48,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(tmp_path)
    deep = replace(auto, model=replace(auto.model, id=str(tmp_path)))
    fixed = replace(deep, train=replace(auto.train, micro_batch_size=4))
    assert in_fresh_process(fixed, 300, 0.5) == Passes(4, checkpointing=True)
    without = replace(fixed, hardware=replace(auto.hardware, gradient_checkpointing=False))
    assert "not fit in a training pass" in str(in_fresh_process(without, 300, 0.5))


def test_a_resumed_run_keeps_its_passes(auto: Config, capsys: pytest.CaptureFixture[str]) -> None:
    model = adapted(auto)
    for kept, expected in (
        (Passes(2, True), Passes(2, True)),
        (Passes(3, False), Passes(8, False)),  # begun in another number of processes
        (None, Passes(8, False)),
    ):
        batches = fit_micro_batch(plan_of(20, 8), model, auto, kept).batches
        assert batches is not None and batches.passes == expected
        assert batches.accumulation == 8 // expected.micro
    shown = capsys.readouterr().out
    assert "hardware.gradient_checkpointing=auto: true, as the run was begun" in shown


@pytest.mark.parametrize(("loss", "said"), [("sigmoid+sft", True), ("ipo", False)])
def test_a_loss_that_depends_on_the_size_is_told(
    loss: str, said: bool, auto: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(auto, train=replace(auto.train, loss_type=loss))
    fit_micro_batch(plan_of(20, 8), adapted(config), config)
    shown = capsys.readouterr().out
    assert ("sft depends on the pairs of a pass: set train.micro_batch_size" in shown) == said


def test_the_faster_passes_are_taken_and_the_reason_is_told(auto: Config) -> None:
    batches, pairs = plan_of(60, 8).batches, pairs_of(60, 8)
    assert batches is not None
    both = [Passes(1, False), Passes(8, True)]
    found, why = _faster(both, batches, adapted(auto), pairs, auto)
    times = re.fullmatch(
        r"because a pair takes (\S+) s without \(1 a pass\) and (\S+) s with \(8 a pass\)", why
    )
    assert times
    assert found == both[float(times[2]) < float(times[1])]


def test_a_size_that_does_not_fit_is_an_error_before_step_1(auto: Config) -> None:
    fixed = replace(auto, train=replace(auto.train, micro_batch_size=8))
    told = in_fresh_process(fixed, 60, 0.2)
    assert str(told).startswith(
        "The 8 longest pairs do not fit in a training pass (61 tokens with the longer answer): try "
    )
    assert "try train.micro_batch_size=4, quantization=4bit, a lower data.max_tokens" in str(told)


def test_scoring_that_does_not_fit_is_an_error_too(auto: Config) -> None:
    fixed = replace(auto, train=replace(auto.train, micro_batch_size=1))
    told = in_fresh_process(fixed, 20, 0.2, scored_tokens=600)
    assert str(told).startswith(
        "The largest batch of evals.batch_size=8 does not fit: try evals.batch_size=4, "
    )


def test_trying_leaves_model_and_random_state_as_they_were(auto: Config) -> None:
    hardware = replace(auto.hardware, gradient_checkpointing=True)
    config = replace(
        auto,
        hardware=hardware,
        train=replace(auto.train, disable_dropout=False, micro_batch_size=2),
    )
    model = adapted(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [
        (name, module.training, getattr(module, "p", None))
        for name, module in model.named_modules()
    ]
    random = torch.get_rng_state()
    fit_micro_batch(plan_of(20, 8), model, config)
    assert torch.equal(torch.get_rng_state(), random)
    assert [
        (n, module.training, getattr(module, "p", None)) for n, module in model.named_modules()
    ] == modes
    assert not model.get_base_model().is_activation_checkpointing
    after = model.state_dict()
    assert after.keys() == before.keys() and all(
        torch.equal(after[name], value) for name, value in before.items()
    )
    embedded = model.get_input_embeddings()(torch.tensor([[1, 2]]))
    assert not embedded.requires_grad
