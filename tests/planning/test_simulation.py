"""Compare the simulated step with real ones: by tensor on a tiny model, and by process memory."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from benchmarks.memory import Setting, in_fresh_process, simulated_peak
from benchmarks.work import training_flop
from mvp_align.config import Config
from mvp_align.modeling.adapters import start_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import Placement
from mvp_align.modeling.source import load_model_config, packaged_gguf
from mvp_align.planning.simulation import Counter, Pass, Simulated, simulate
from mvp_align.scoring.tokens import Answer, TokenizedPair
from mvp_align.training.step import as_in_training, largest_batch, score_pass, train_pass

Compose = Callable[..., Config]
LAYERS = 2
SHAPE = LlamaConfig(vocab_size=32_000, num_hidden_layers=LAYERS)
"""LLaMA-2-7B's, but for its 32 layers."""
IN_LINEAR = LAYERS * (4 * 4096**2 + 3 * 4096 * 11_008)
PARAMETERS = IN_LINEAR + 2 * 32_000 * 4096 + (2 * LAYERS + 1) * 4096


def pairs_of(prompt: int, answer: int, count: int = 3) -> list[TokenizedPair]:
    made = []
    for number in range(count):
        start = tuple(range(10 * number + 1, 10 * number + 1 + prompt))
        chosen, rejected = (Answer((*start, *(first,) * answer), prompt) for first in (5, 6))
        made.append(TokenizedPair(f"p{number}", f"u{number}", chosen, rejected))
    return made


def real(
    config: Config, placement: Placement, pairs: list[TokenizedPair], accumulates: bool
) -> tuple[Pass, Pass]:
    """Measure what `simulate` computes, on a model with real tensors."""
    model = start_adapter(load_base(config.model, placement, config.quantization), config)
    largest = largest_batch(model, [pairs], config)
    with Counter() as count:
        for tensor in (*model.parameters(), *model.buffers()):
            count.see(tensor)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, fused=True)
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        if not accumulates:
            optimizer.zero_grad()
        count.start()
        with as_in_training(
            model, config, checkpointing=config.hardware.gradient_checkpointing is True
        ):
            train_pass(model, pairs, config)
        training = Pass(count.peak, count.flop, 0)
        optimizer.zero_grad()
        count.start()
        score_pass(model, largest)
        return training, Pass(count.peak, count.flop, 0)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["hardware.gradient_checkpointing=true"],
        ["hardware.attention=eager"],
        ["recipe=lora_sft"],
        ["recipe=lora_sft", "hardware.gradient_checkpointing=true"],
        ["lora.target_modules=[all-linear]", "train.disable_dropout=false"],
        ["train.batch_size=3"],
        ["+lora.rank_pattern.v_proj=4"],
        ["lora.use_dora=true"],
        ["lora.init=pissa"],
    ],
    ids=" ".join,
)
def test_every_byte_and_product_is_the_real_steps(
    compose: Compose, sharp: list[str], placement: Placement, overrides: list[str]
) -> None:
    config = compose(*sharp, *overrides)
    placement = Placement(placement.device, placement.dtype, config.hardware.attention)
    accumulates = config.train.batch_size > 3
    pairs = pairs_of(40, 60)
    training, scoring = real(config, placement, pairs, accumulates)
    found = simulate(
        config,
        load_model_config(config.model),
        torch.float32,
        pairs,
        [pairs],
        accumulates=accumulates,
    )
    assert found.training and found.scoring
    # transformers makes a mask on fake tensors where it looks into real ones and needs none: 0.1 %
    # under SFT
    assert found.training.peak == pytest.approx(
        training.peak, rel=2e-3 if config.recipe == "lora_sft" else 1e-6
    )
    assert found.scoring.peak == pytest.approx(scoring.peak, rel=1e-6)
    assert (found.training.flop, found.scoring.flop) == (training.flop, scoring.flop)
    assert found.peak == max(found.training.peak, found.scoring.peak)


def test_flop_are_those_of_the_formula(
    compose: Compose, sharp: list[str], placement: Placement
) -> None:
    config = compose(*sharp)
    base = load_base(config.model, placement)
    pairs = pairs_of(40, 60)
    adapter = 2 * 16 * ((64 + 64) + 2 * (64 + 32))
    found = simulate(config, load_model_config(config.model), torch.float32, pairs, [])
    assert found.training
    assert found.training.flop == pytest.approx(
        training_flop(base, pairs, adapter), rel=0.1
    )  # masked attention counted
    assert found.adapter == 16 * adapter + 4 * 12  # and AdamW's count of steps, one a tensor


def test_four_bit_layers_take_what_bitsandbytes_takes(
    compose: Compose, sharp: list[str], placement: Placement
) -> None:
    config = compose(*sharp, "quantization=4bit")
    pairs = pairs_of(40, 60)
    training, _ = real(config, placement, pairs, accumulates=True)
    found = simulate(config, load_model_config(config.model), torch.float32, pairs, [])
    assert found.training and found.training.peak == pytest.approx(training.peak, rel=0.02)


def test_dora_of_four_bit_layers_takes_their_weights_whole(
    compose: Compose, sharp: list[str], placement: Placement
) -> None:
    config = compose(*sharp, "quantization=4bit", "lora.use_dora=true")
    pairs = pairs_of(40, 60)
    training, _ = real(config, placement, pairs, accumulates=True)
    found = simulate(config, load_model_config(config.model), torch.float32, pairs, [])
    assert found.training and found.training.peak == pytest.approx(training.peak, rel=0.05)


def test_options_of_the_adapter_cost_what_their_tensors_cost(compose: Compose) -> None:
    """By hand: 16 bytes a number that is trained, and 4 a tensor (AdamW's count of steps)."""
    plain, dora, pissa, narrow, every = (
        llama(compose, *words)
        for words in (
            [],
            ["lora.use_dora=true"],
            ["lora.init=pissa"],
            ["+lora.rank_pattern.v_proj=4"],
            ["lora.target_modules=[all-linear]"],
        )
    )
    one = 16 * LAYERS * (4096 + 4096)  # rank 1 in a square layer
    assert dora.adapter - plain.adapter == LAYERS * 3 * (16 * 4096 + 4)
    assert pissa.adapter - plain.adapter == 3 * 16 * one
    assert plain.adapter - narrow.adapter == 12 * one
    wide = 16 * LAYERS * 3 * (4096 + 11_008) + one
    assert every.adapter - plain.adapter == 16 * wide + LAYERS * 4 * 2 * 4
    assert dora.training and plain.training and pissa.training
    assert dora.training.peak > plain.training.peak + 3 * 4096**2 * 4
    assert dora.training.flop > 1.05 * plain.training.flop
    assert pissa.training.flop > plain.training.flop


def test_offloaded_activations_leave_the_gpu(compose: Compose, sharp: list[str]) -> None:
    config = compose(*sharp, "lora.target_modules=[all-linear]")
    shape, pairs = load_model_config(config.model), pairs_of(40, 60)
    without = simulate(config, shape, torch.float32, pairs, []).training
    config.hardware.activation_offloading = True
    found = simulate(config, shape, torch.float32, pairs, []).training
    assert found and without
    assert without.offloaded == 0
    assert found.flop == without.flop
    freed = without.peak - found.peak
    assert 0 < freed <= found.offloaded
    config.hardware.gradient_checkpointing = True
    checkpointed = simulate(config, shape, torch.float32, pairs, []).training
    tokens = sum(40 + 2 * 60 for _ in pairs)
    # a layer keeps its input alone, and what lies behind the layers is small
    assert checkpointed
    assert checkpointed.offloaded >= LAYERS * tokens * 64 * 4
    assert checkpointed.offloaded < found.offloaded / 3


def llama(compose: Compose, *overrides: str) -> Simulated:
    pairs = pairs_of(8, 8, count=1)
    return simulate(compose(*overrides), SHAPE, torch.bfloat16, pairs, [])


def test_llama_2_by_hand(compose: Compose) -> None:
    found = llama(compose)
    rotary = 2 * 64 * 4  # frequencies, and the original ones
    assert found.weights == 2 * PARAMETERS + rotary
    tensors = LAYERS * 3 * 2
    assert found.adapter == 16 * LAYERS * 3 * 16 * (4096 + 4096) + 4 * tensors
    packed = llama(compose, "quantization=4bit")
    assert packed.weights == pytest.approx(
        4.127 / 8 * IN_LINEAR + 2 * (PARAMETERS - IN_LINEAR), rel=1e-4
    )


def test_nothing_random_is_drawn_and_nothing_is_left_behind(
    compose: Compose, sharp: list[str]
) -> None:
    config = compose(*sharp, "train.disable_dropout=false", "hardware.gradient_checkpointing=true")
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    shape = load_model_config(config.model)
    simulate(config, shape, torch.float32, pairs_of(8, 8), [])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]
    assert torch.ones(2).sum().item() == 2  # no mode stays on


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_is_that_of_training_smollm2(compose: Compose, checkpointing: bool) -> None:
    """`benchmarks.memory` measures more settings, for docs/memory.md; these two take a minute."""
    if packaged_gguf(compose().model) is None:
        pytest.skip("the demo model's package is not installed: `make setup`")
    setting = Setting(2, 64, 96, checkpointing)
    assert simulated_peak(setting) == pytest.approx(
        in_fresh_process(setting, keep_freed=False), rel=0.15
    )
