"""`micro_batch_size=auto` against a real limit on the process's memory."""

import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mvp_align.config import Config
from mvp_align.modeling.adapters import new_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import place
from mvp_align.scoring.tokens import Answer, TokenizedPair
from mvp_align.training.micro_batch import fit_micro_batch
from mvp_align.training.preflight import Batches, Plan

GIB = 2**30


def plan_of(tokens: int, batch_size: int) -> Plan:
    """Pairs whose answers have `tokens` tokens each; 49,152 logits a token make 0.2 MB, three to four times over."""
    answers = [Answer(tuple(range(1, tokens + 2)), 1), Answer((1, *range(7, tokens + 7)), 1)]
    pairs = [TokenizedPair(str(n), str(n), *answers) for n in range(batch_size)]
    return Plan([], pairs, [], 0, 0, [], None, [], Batches(batch_size, batch_size, 1, 1, 1))


@pytest.fixture
def limited() -> Callable[[float], None]:
    """Let the process take so many GiB of addresses more than it has now."""
    before = resource.getrlimit(resource.RLIMIT_AS)

    def limit(gib: float) -> None:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + int(gib * GIB), before[1]))

    yield limit  # type: ignore[misc]
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def auto(compose: Callable[..., Config], tiny: list[str]) -> Config:
    return compose(*tiny, "train.micro_batch_size=auto", "train.batch_size=8")


def test_takes_the_whole_batch_where_it_fits(auto: Config) -> None:
    model = new_adapter(load_base(auto.model, place(auto.hardware)), auto.lora, auto.seed)
    batches = fit_micro_batch(plan_of(20, 8), model, auto).batches
    assert batches is not None
    assert (batches.micro, batches.accumulation, batches.effective) == (8, 1, 8)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_takes_a_smaller_divisor_where_memory_is_short(auto: Config, limited: Callable[[float], None]) -> None:
    model = new_adapter(load_base(auto.model, place(auto.hardware)), auto.lora, auto.seed)
    fit_micro_batch(plan_of(20, 8), model, auto)  # libraries and buffers loaded before the limit stands
    limited(2.5)
    batches = fit_micro_batch(plan_of(600, 8), model, auto).batches
    assert batches is not None
    assert batches.micro in (1, 2, 4)
    assert batches.micro * batches.accumulation == 8


def test_leaves_a_given_size_alone(auto: Config) -> None:
    model = new_adapter(load_base(auto.model, place(auto.hardware)), auto.lora, auto.seed)
    given = replace(auto, train=replace(auto.train, micro_batch_size=2))
    plan = plan_of(20, 8)
    assert fit_micro_batch(plan, model, given) is plan
