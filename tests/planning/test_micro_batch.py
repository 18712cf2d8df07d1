"""Trying the longest batches before a run, under a real memory limit of the process."""

import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.machine import Worker, close
from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.evaluation.eval_sets import EvalSet
from mvp_align.modeling.adapters import new_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import resolve_hardware
from mvp_align.planning.micro_batch import fit_micro_batch
from mvp_align.scoring.tokens import Answer, TokenizedPair
from mvp_align.training.plan import Batches, Plan

GIB = 2**30


def pairs_of(tokens: int, count: int) -> list[TokenizedPair]:
    """Pairs with `tokens` tokens per answer; a token has 0.2 MB of logits, in 3 to 4 copies."""

    def answer(number: int, first: int) -> Answer:
        return Answer((number + 1, *range(first, first + tokens)), 1)

    return [TokenizedPair(str(n), str(n), answer(n, 1), answer(n, 7)) for n in range(count)]


def plan_of(tokens: int, batch_size: int, scored_tokens: int = 20) -> Plan:
    scored = EvalSet("in_domain", pairs_of(scored_tokens, 8), [], {}, None, 0, 0)
    batches = Batches(batch_size, batch_size, 1, 1, 1)
    return Plan([], pairs_of(tokens, batch_size), [], 0, 0, [scored], None, [], batches)


def fitted(config: Config, tokens: int, gib: float, scored_tokens: int = 20) -> int | str:
    """Return the pairs per pass, or the error, with `gib` of additional address space.

    Run it in its own process, where no memory freed by earlier tests counts.
    """
    model = new_adapter(
        load_base(config.model, resolve_hardware(config.hardware)), config.lora, config.seed
    )
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
    return batches.micro


def given(plan: Plan, config: Config) -> Plan:
    """Use the micro-batch size of the config, if it sets one."""
    micro = config.train.micro_batch_size
    return (
        plan
        if isinstance(micro, str)
        else replace(plan, batches=Batches(8, micro, 8 // micro, 1, 1))
    )


def in_fresh_process(config: Config, tokens: int, gib: float, scored_tokens: int = 20) -> int | str:
    worker = Worker()
    found = worker.call(fitted, config, tokens, gib, scored_tokens)
    close({"": worker})
    return found


@pytest.fixture
def auto(compose: Callable[..., Config], tiny: list[str]) -> Config:
    return compose(*tiny, "train.micro_batch_size=auto", "train.batch_size=8")


def test_takes_the_whole_batch_where_it_fits(auto: Config) -> None:
    model = new_adapter(
        load_base(auto.model, resolve_hardware(auto.hardware)), auto.lora, auto.seed
    )
    batches = fit_micro_batch(plan_of(20, 8), model, auto).batches
    assert batches is not None
    assert (batches.micro, batches.accumulation, batches.effective) == (8, 1, 8)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_takes_a_smaller_divisor_where_memory_is_short(auto: Config) -> None:
    short = replace(auto, evals=replace(auto.evals, batch_size=1))
    assert in_fresh_process(short, 60, 0.25) in (1, 2, 4)


def test_leaves_a_given_size_alone(auto: Config) -> None:
    model = new_adapter(
        load_base(auto.model, resolve_hardware(auto.hardware)), auto.lora, auto.seed
    )
    fixed = replace(auto, train=replace(auto.train, micro_batch_size=2))
    plan = given(plan_of(20, 8), fixed)
    assert fit_micro_batch(plan, model, fixed) is plan


def test_a_size_that_does_not_fit_is_an_error_before_step_1(auto: Config) -> None:
    fixed = replace(auto, train=replace(auto.train, micro_batch_size=8))
    told = in_fresh_process(fixed, 60, 0.2)
    assert str(told).startswith(
        "The 8 longest pairs do not fit in a training pass (61 tokens with the longer answer): try "
    )
    assert (
        "try train.micro_batch_size=4, hardware.gradient_checkpointing=true, quantization=4bit, "
        in str(told)
    )


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
    model = new_adapter(
        load_base(config.model, resolve_hardware(config.hardware)), config.lora, config.seed
    )
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
