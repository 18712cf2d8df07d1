"""Forecasts of memory, FLOP, time and disk; for LLaMA-2 from config and tokenizer only."""

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.modeling.hardware import Placement
from mvp_align.planning import forecast
from mvp_align.planning.forecast import (
    GPUS,
    count_flop,
    device_bytes,
    duration,
    forecast_lines,
    remedies,
    simulated,
)
from mvp_align.planning.simulation import Pass, Simulated
from mvp_align.training.step import pair_tokens
from recipes import evaluate, lora_dpo, lora_sft

Compose = Callable[..., Config]
GIB = 2**30
SHAPES = {
    "llama2_7b": LlamaConfig(vocab_size=32_000),
    "llama2_13b": LlamaConfig(
        vocab_size=32_000,
        hidden_size=5120,
        intermediate_size=13_824,
        num_hidden_layers=40,
        num_attention_heads=40,
    ),
}


@pytest.fixture
def dry_run(
    compose: Compose, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """The output of `train.dry_run=true` for a folder with LLaMA-2's config and tokenizer only."""

    def shown(name: str, *overrides: str) -> str:
        shutil.copytree(shared / "data" / "llama2_tokenizer", tmp_path / name)
        SHAPES[name].save_pretrained(tmp_path / name)
        run = [
            "data.limit=24",
            "tracking=none",
            f"run.dir={tmp_path / 'run'}",
            "train.dry_run=true",
        ]
        lora_dpo.main(compose(f"model={name}", f"model.id={tmp_path / name}", *run, *overrides))
        assert not (tmp_path / "run").exists()
        return " ".join(capsys.readouterr().out.split())

    return shown


def figures(shown: str) -> tuple[float, float, float]:
    """Weights, adapter and peak, in GiB."""
    found = re.search(
        r"GiB: weights ([\d.]+), adapter and optimizer ([\d.]+), peak ([\d.]+) \(", shown
    )
    assert found, shown
    return tuple(map(float, found.groups()))  # type: ignore[return-value]


without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@without_gpu
def test_a_laptop_is_told_which_gpu_llama_2_13b_needs_in_4_bits(
    dry_run: Callable[..., str],
) -> None:
    shown = dry_run("llama2_13b", "quantization=4bit", "hardware=cuda")
    weights, adapter, peak = figures(shown)
    # 12.7e9 weights of 4.127 bits, embeddings and head of 16
    assert weights == pytest.approx(6.7, abs=0.1)
    assert adapter == pytest.approx(16 * 40 * 3 * 16 * 2 * 5120 / GIB, abs=0.01)
    assert weights + adapter < peak < 12
    assert "model " in shown and " on cuda, bf16, quantization 4bit" in shown
    assert "DOES NOT FIT" not in shown  # there is no GPU here to fit or not
    assert "on a GPU, in 16 bits: peak" in shown
    fitting = [
        gpu.sold_as
        for gpu in GPUS
        if gpu.gib * GIB >= device_bytes(int(peak * GIB), torch.device("cuda"))
    ]
    assert all(f"{name} " in shown for name in fitting)
    assert "RTX 4090 24 GB" in shown and "H100 80 GB" in shown
    assert re.search(r"work: [\d.]+ TFLOP a step", shown)


@without_gpu
def test_a_laptop_is_told_that_it_cannot_train_llama_2_7b(dry_run: Callable[..., str]) -> None:
    shown = dry_run("llama2_7b", "hardware=cpu", "train.micro_batch_size=8")
    weights, _, _ = figures(shown)
    assert weights == pytest.approx(4 * 6_738_415_616 / GIB, abs=0.01)
    assert (
        "DOES NOT FIT this cpu: try train.micro_batch_size=4, quantization=4bit" in shown
        and "layers checkpointed" in shown
    )
    assert "quantization=4bit" in shown
    gpus = shown.partition("on a GPU, in 16 bits: peak ")[2]
    assert float(gpus.split()[0]) < weights  # of half the bytes a weight
    assert "A100 40 GB" in gpus and "T4 16 GB" not in gpus


def test_a_model_that_cannot_be_simulated_keeps_no_run_from_starting(bench) -> None:
    made = bench()
    odd = replace(
        made.config, hardware=replace(made.config.hardware, attention="no_such_attention")
    )
    (line,) = forecast_lines(odd, made.plan, made.placement)
    assert line.startswith("no forecast: ValueError: ")


def test_a_torch_without_a_name_that_the_simulation_uses_keeps_no_recipe_from_starting(
    compose: Compose,
    sharp: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As after an update of torch: everything that takes part is imported anew."""
    fresh = [
        "mvp_align.planning.simulation",
        "mvp_align.planning.forecast",
        "mvp_align.planning.preflight",
    ]
    for name in (*fresh, "recipes.lora_dpo"):
        package, _, module = name.rpartition(".")
        # what is there again afterwards
        monkeypatch.setattr(import_module(package), module, import_module(name))
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(torch.utils.flop_counter, "flop_registry")
    import_module("recipes.lora_dpo").main(compose(*sharp, "train.dry_run=true"))
    shown = capsys.readouterr().out
    assert "pairs a step = " in shown
    assert "no forecast: ImportError: cannot import name 'flop_registry'" in " ".join(shown.split())


def test_a_forecast_that_fails_anywhere_is_one_line(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench()

    def broken(*_: object) -> None:
        raise OSError("no such\n  device")

    for part in ("_available", "_cpu_rate", "_disk_lines"):
        with monkeypatch.context() as patch:
            patch.setattr(forecast, part, broken)
            assert forecast_lines(made.config, made.plan, made.placement) == [
                "no forecast: OSError: no such device"
            ]


def test_auto_is_simulated_with_one_pair(bench) -> None:
    made = bench("train.micro_batch_size=auto")
    line, *_ = forecast_lines(made.config, made.plan, made.placement)
    assert "training on the longest pair" in line and "more where they fit" in line
    found = simulated(made.config, made.plan, torch.float32)
    assert found.training and found.training.tokens == max(map(pair_tokens, made.plan.train_tokens))


def test_work_is_counted_by_tokens(bench) -> None:
    made = bench("train.max_steps=3")
    found = Simulated(0, 0, Pass(1, 1000, 10), Pass(1, 300, 10))
    step, training, scoring = count_flop(made.config, made.plan, found)
    mean = sum(map(pair_tokens, made.plan.train_tokens)) / len(made.plan.train_tokens)
    assert step == pytest.approx(4 * mean * 100)
    assert training == pytest.approx(3 * step)
    # the reference, once
    assert scoring == pytest.approx(sum(map(pair_tokens, made.plan.train_tokens)) * 30)


def test_a_length_desensitised_reference_is_scored_twice(bench) -> None:
    made = bench("train.max_steps=3", "train.ld_alpha=0.5")
    found = Simulated(0, 0, Pass(1, 1000, 10), Pass(1, 300, 10))
    pairs = made.plan.train_tokens
    tokens = sum(map(pair_tokens, pairs)) + sum(
        pair.prompt_tokens + 2 * min(pair.chosen.tokens, pair.rejected.tokens) for pair in pairs
    )
    assert count_flop(made.config, made.plan, found)[2] == pytest.approx(tokens * 30)


def test_offloading_is_for_gpus_and_its_traffic_is_told(bench) -> None:
    made = bench("train.micro_batch_size=4")
    made.config.hardware.activation_offloading = True
    shown = " ".join(forecast_lines(made.config, made.plan, made.placement))
    assert re.search(r"activation offloading: [\d.]+ GiB a pass to the machine's memory", shown)
    with pytest.raises(UserError, match=r"this run computes on a CPU: leave it out"):
        bench("hardware.activation_offloading=true")


@pytest.mark.parametrize("recipe", [lora_sft, evaluate])
def test_other_recipes_say_what_they_take(
    recipe, compose: Compose, sharp: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = recipe.__name__.rpartition(".")[2]
    overrides = ["train.dry_run=true"]
    config = (
        compose(*sharp, *overrides, f"recipe={name}")
        if name == "lora_sft"
        else compose(*sharp, *overrides, name="evaluate")
    )
    recipe.main(config)
    shown = " ".join(capsys.readouterr().out.split())
    assert "memory, simulated, GiB: weights" in shown
    assert ("training on" in shown) == ("disk: " in shown) == (name == "lora_sft")
    assert "scoring 0." in shown


def test_remedies_leave_out_what_is_done_already(compose: Compose) -> None:
    done = [
        "hardware.gradient_checkpointing=true",
        "quantization=4bit",
        "train.micro_batch_size=1",
        "evals.batch_size=1",
    ]
    for training in (True, False):
        assert remedies(compose(*done), training) == "a lower data.max_tokens, a smaller model"
    assert remedies(compose(), training=False).startswith("evals.batch_size=4, quantization=4bit")


def test_needed_adds_what_tensors_do_not_show() -> None:
    assert device_bytes(10 * GIB, torch.device("cuda")) == pytest.approx(12 * GIB)
    assert device_bytes(10 * GIB, torch.device("cpu")) == 10 * GIB


def test_a_disk_too_small_is_said_to_be(bench, mount_disk: Callable[[str], Path]) -> None:
    made = bench()
    small = replace(made.config, run=replace(made.config.run, dir=str(mount_disk("64k") / "run")))
    assert forecast_lines(small, made.plan, made.placement)[-1].endswith(
        ": TOO LITTLE. Free some, or set run.dir"
    )


@pytest.mark.parametrize(("seconds", "shown"), [(12, "12 s"), (600, "10 min"), (9000, "2.5 h")])
def test_duration(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_under_processes_memory_is_each_ones(bench) -> None:
    class Two(Placement):
        @property
        def processes(self) -> int:
            return 2

    made = bench()
    lines = forecast_lines(made.config, made.plan, Two(torch.device("cpu"), torch.float32, None))
    assert lines[0].startswith("memory a process, simulated")
