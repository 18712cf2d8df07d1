"""How a trainer is timed, on trainers of a tiny model: ours, TRL's, and one that cannot run."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.contenders import OURS, TRL, TRL_LIGER, TRL_PRECOMPUTED, rival_job
from benchmarks.our_trainer import OurRun
from benchmarks.our_trainer import attempt as attempt_ours
from benchmarks.random_llama import with_tokenizer
from benchmarks.rival_trainers import Attempt, attempts
from benchmarks.step_rows import Row, ratios
from benchmarks.step_times import WARM_UP, Timed, kernels_of, union_length
from benchmarks.work import adapter_weights, compose, workload
from mvp_align.modeling.adapters import start_adapter
from mvp_align.modeling.base import load_base

STEPS, BATCH = 4, 4


@pytest.fixture(scope="module")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_tokenizer("tiny", tmp_path_factory.mktemp("random") / "model")


@pytest.fixture
def words(random_folder: Path) -> list[str]:
    return [
        "experiment=divervalue_llama2_7b",
        "hardware=cpu",
        "model.name=random",
        f"model.id={random_folder}",
        "data=sample",
        "train.epochs=1",
        f"train.batch_size={BATCH}",
        "train.micro_batch_size=2",
        "train.learning_rate=1e-2",
    ]


def test_overlaps_count_once() -> None:
    assert union_length([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.6)]) == 4.0
    assert union_length([]) == 0.0


def test_a_trace_names_its_operators() -> None:
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        began = torch.ones(300, 300) @ torch.ones(300, 300)
    found = kernels_of(trace, began.device)
    products = [times for name, _, times in found.top if name == "aten::mm"]
    assert products == [1]
    assert found.count >= sum(times for _, _, times in found.top)
    assert 0 < found.busy_seconds <= sum(seconds for _, seconds, _ in found.top) * 1.01


def test_warm_up_and_the_traced_step_are_not_counted() -> None:
    timed = Timed(20.0, 1.0, [5.0, 3.0, 1.0, 2.0, 9.0], [], [], 0)
    assert timed.counted == [1.0, 2.0, 9.0]
    assert timed.step == 2.0
    assert timed.warm_up_seconds == 4.0
    assert timed.busy_share is None
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        torch.ones(2)
    kernels = replace(kernels_of(trace, torch.device("cpu")), busy_seconds=1.2)
    traced = replace(timed, kernels=kernels)
    assert traced.counted == [1.0, 2.0]
    assert traced.busy_share == pytest.approx(0.8)
    assert Timed.from_json(json.loads(json.dumps(asdict(traced)))) == traced


def test_trainers_agree_and_are_compared(words, few_pairs) -> None:
    pairs, config = few_pairs[: STEPS * BATCH], compose(words)
    load, folder = workload(pairs, config), config.model.id
    found = {OURS: attempt_ours(OurRun(words, pairs, traced=True, rates=1))}
    for rival in (TRL, TRL_PRECOMPUTED, TRL_LIGER):
        job = rival_job(
            rival, config, folder, load.texts, "float32", [(2, False), (4, False)],
            every=False, traced=True, rates=1,
        )  # fmt: skip
        (found[rival],) = attempts(job)
    for rival in (TRL, TRL_PRECOMPUTED):
        ours, theirs = found[OURS].timed, found[rival].timed
        assert ours is not None and theirs is not None
        assert len(ours.losses) == STEPS and ours.losses[-1] < ours.losses[0]
        assert ours.losses == pytest.approx(theirs.losses, rel=1e-4)
        assert ours.grad_norms == pytest.approx(theirs.grad_norms, rel=1e-4)
        assert len(theirs.counted) == STEPS - WARM_UP - 1
    missing = found[TRL_LIGER]
    assert missing.timed is None and "liger" in str(missing.failed)

    rows = [
        Row(name, name, BATCH, len(pairs), load, one).figures("NVIDIA H100 80GB HBM3")
        for name, one in found.items()
    ]
    assert rows[-1] == {
        "name": TRL_LIGER, "contender": TRL_LIGER, "batch": BATCH, "failed": missing.failed
    }  # fmt: skip
    ours = rows[0]
    assert ours["micro"] == 2 and ours["checkpointing"] is False
    rate = ours["pairs_per_second"]
    assert rate == pytest.approx(BATCH / found[OURS].timed.step)
    assert ours["tokens_per_second"] == pytest.approx(rate * load.tokens / len(pairs))
    flop = load.training_flop / len(pairs) * rate
    assert ours["product_share"] == pytest.approx(flop / found[OURS].gemm)
    assert ours["data_sheet_share"] == pytest.approx(flop / 989e12)
    compared = {one["rival"]: one for one in ratios(rows)}
    assert compared.keys() == {TRL, TRL_PRECOMPUTED}
    theirs = rows[2]
    assert compared[TRL_PRECOMPUTED]["outside"] == pytest.approx(rate / theirs["pairs_per_second"])
    whole = found[TRL_PRECOMPUTED].timed
    inside = whole.before_seconds + whole.warm_up_seconds + 3 * STEPS * whole.step
    assert theirs["seconds_of_a_pair_inside"] * 3 * len(pairs) == pytest.approx(inside)
    json.dumps(rows, allow_nan=False)


def test_a_run_that_cannot_be_says_why(words, few_pairs) -> None:
    found = attempt_ours(OurRun([*words, "train.micro_batch_size=3"], few_pairs))
    assert found.timed is None and "micro_batch_size=3" in str(found.failed)
    assert Attempt.from_json(json.loads(json.dumps(asdict(found)))) == found


def test_adapters_are_counted_as_peft_makes_them(words, placement) -> None:
    for more in ([], ["lora.target_modules=[all-linear]"]):
        config = compose([*words, *more])
        base = load_base(config.model, placement)
        expected = adapter_weights(base, config.lora)
        model = start_adapter(base, config)
        assert expected == sum(p.numel() for p in model.parameters() if p.requires_grad)
