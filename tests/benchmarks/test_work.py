"""Compare the benchmarks' FLOP counts with torch's counter, and rivals' scores with ours."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rivals import one_at_a_time
from benchmarks.work import (
    Task,
    attended_pairs,
    evaluation_pairs,
    forward_flop,
    render_and_tokenize,
    rows_of,
    training_flop,
    training_pairs,
)
from mvp_align.modeling.adapters import new_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.source import load_tokenizer
from mvp_align.scoring.logps import answer_states, score_pairs
from mvp_align.scoring.methods import scoring_method
from mvp_align.scoring.packing import PackedSequence, pack, pack_answers
from mvp_align.scoring.passes import Method


@pytest.fixture
def case(compose, sharp, placement, few_pairs):
    config = compose(*sharp)
    texts, pairs = render_and_tokenize(few_pairs, config)
    model = load_base(config.model, placement).eval()
    assert scoring_method(model) is Method.PACKED
    with sdpa_kernel(SDPBackend.MATH):  # products that torch's counter sees
        yield config, model, texts, pairs


def test_one_row_takes_the_products_that_torch_counts(case) -> None:
    _, model, _, pairs = case
    row = pack_answers([pairs[0].chosen, pairs[0].rejected], share=True)[0]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hidden, targets, _ = answer_states(model, [row])
        model.get_output_embeddings()(hidden)
    config = model.config
    per_pair = 4 * config.num_hidden_layers * config.hidden_size
    computed, needed = in_segments([row]), attended_pairs(row)
    assert needed < computed < row.length**2
    assert forward_flop(model, [row]) + per_pair * (computed - needed) == counter.get_total_flops()
    assert len(targets) == pairs[0].chosen.tokens + pairs[0].rejected.tokens


def test_training_takes_forward_and_activation_gradients(case) -> None:
    """Torch also counts the gradient of attention with all keys, and none for the first layer's
    input."""
    config, model, _, pairs = case
    wrapped = new_adapter(model, config.lora, seed=1)
    weights = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    row = rows_of(pairs[:1])[0]
    with FlopCounterMode(display=False) as counter:
        hidden, _, _ = answer_states(model, [row])
        model.get_output_embeddings()(hidden).sum().backward()
    expected = training_flop(model, pairs[:1], weights)
    assert expected == pytest.approx(counter.get_total_flops(), rel=0.05)


def in_segments(rows: list[PackedSequence]) -> int:
    """Count (query, key) pairs as the kernels get them: whole segments, with masked pairs."""
    total = 0
    for part in pack(rows).layout.segments:
        own = part.own[1] - part.own[0]
        total += own * (own + sum(end - first for first, end in part.context))
    return total


def test_attended_pairs_are_those_of_the_segments(case) -> None:
    rows = rows_of(case[3])
    upper = [own * (own - 1) // 2 for start, own in owns(rows)]
    assert sum(map(attended_pairs, rows)) == in_segments(rows) - sum(upper)


def owns(rows: list[PackedSequence]) -> list[tuple[int, int]]:
    """Start and number of the tokens of each segment."""
    return [(part.own[0], part.own[1] - part.own[0]) for part in pack(rows).layout.segments]


def test_one_at_a_time_gives_the_same_scores(case) -> None:
    config, model, texts, pairs = case
    scores = score_pairs(model, pairs)
    found = one_at_a_time(model, load_tokenizer(config.model), texts)
    for (chosen, rejected), score in zip(found, scores, strict=True):
        assert chosen == pytest.approx(score.chosen_logp, abs=1e-3)
        assert rejected == pytest.approx(score.rejected_logp, abs=1e-3)


def test_the_sample_gives_pairs_in_order_and_a_seeded_draw() -> None:
    task = Task("smollm2_135m", "sample", 12)
    texts, pairs = evaluation_pairs(task)
    assert len(texts) == len(pairs) == 12
    drawn = training_pairs(task)
    assert drawn == training_pairs(task)
    assert len({pair.id for pair in drawn}) == 12
