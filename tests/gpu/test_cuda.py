"""On a GPU, settings alone suffice for what other tests check on a CPU (`make test-gpu`)."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from benchmarks.llama_gpu import config_of, measure
from benchmarks.memory import llama_pairs
from benchmarks.random_llama import random_model
from mvp_align.config import Config, Generation
from mvp_align.errors import UserError
from mvp_align.generation.local import generate_locally
from mvp_align.modeling.adapters import new_adapter, start_adapter
from mvp_align.modeling.base import four_bit_layers, load_base
from mvp_align.modeling.hardware import DTYPES, Placement
from mvp_align.planning.micro_batch import fit_micro_batch
from mvp_align.planning.simulation import simulate
from mvp_align.runs.checkpoints import latest_valid
from mvp_align.runtime.preemption import EXIT_CODE
from mvp_align.schema import PairScore, PreferencePair, PromptedPair
from mvp_align.scoring.attention import attend, lay_out, takes_varlen
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.tokens import Answer, TokenizedPair, tokenize_pairs
from mvp_align.training.plan import Batches, Plan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU"),
]

ROOT = Path(__file__).parents[2]
STEPS = 6


@pytest.fixture(scope="module")
def settings(sharp_model: Path) -> list[str]:
    """6 steps of 4 pairs on the GPU, in the precision that reproduces a CPU's numbers."""
    return [
        f"model.id={sharp_model}",
        "model.name=sharp",
        "tracking=none",
        "run.logp_cache=false",
        "data.limit=24",
        "train.batch_size=4",
        f"train.max_steps={STEPS}",
        "train.learning_rate=5e-3",
        "train.save_steps=2",
        "evals.batch_size=4",
    ]


def command(*overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *overrides]


def train(folder: Path, *overrides: str) -> Path:
    done = subprocess.run(
        command(*overrides, f"run.dir={folder}"), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def on_gpu(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(
        tmp_path_factory.mktemp("runs") / "gpu",
        *settings,
        "hardware=cuda",
        "hardware.precision=fp32",
    )


def scores(run: Path, stage: str) -> dict[str, tuple[float, float]]:
    lines = (run / "scores" / f"{stage}-in_domain.jsonl").read_text().splitlines()
    return {
        entry["id"]: (entry["chosen_logp"], entry["rejected_logp"])
        for entry in map(json.loads, lines)
    }


def losses(run: Path) -> list[float]:
    checkpoint = latest_valid(run / "checkpoints")
    assert checkpoint is not None
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def adapter(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def test_a_run_in_fp32_ends_in_the_cpu_s_numbers(
    on_gpu: Path, settings: list[str], tmp_path: Path
) -> None:
    on_cpu = train(tmp_path / "cpu", *settings, "hardware=cpu")
    assert losses(on_gpu) == pytest.approx(losses(on_cpu), rel=1e-4)
    for stage in ("base", "tuned"):
        found, expected = scores(on_gpu, stage), scores(on_cpu, stage)
        assert found.keys() == expected.keys()
        for name in found:
            assert found[name] == pytest.approx(expected[name], rel=1e-3)
    environment = json.loads((on_gpu / "environment.json").read_text())
    assert environment["device"]["name"] == torch.cuda.get_device_name()


def test_a_run_that_is_signalled_goes_on_to_the_same_numbers(
    on_gpu: Path, settings: list[str], tmp_path: Path
) -> None:
    """The order in which CUDA adds is not fixed everywhere, so the last bits may differ; on a CPU
    they do not."""
    folder = tmp_path / "stopped"
    words = [*settings, "hardware=cuda", "hardware.precision=fp32", f"run.dir={folder}"]
    process = subprocess.Popen(
        command(*words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    until = time.monotonic() + 120
    while not (folder / "scores" / "base-in_domain.jsonl").exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.002)
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == EXIT_CODE, out
    train(folder, *words)
    assert (folder / "DONE").is_file()
    assert losses(folder) == pytest.approx(losses(on_gpu), rel=1e-4)
    expected = adapter(on_gpu)
    for name, tensor in adapter(folder).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "overrides",
    [
        ["quantization=4bit"],
        ["recipe=lora_sft"],
        ["hardware.gradient_checkpointing=true", "train.micro_batch_size=auto"],
        ["hardware.attention=eager"],
        ["hardware.precision=fp16"],
    ],
    ids=" ".join,
)
def test_every_kind_of_run_ends_in_its_own_precision(
    settings: list[str], tmp_path: Path, overrides: list[str]
) -> None:
    run = train(tmp_path / "run", *settings, "hardware=cuda", *overrides)
    found = losses(run)
    assert len(found) == STEPS and all(0 < loss < 20 for loss in found)
    if "recipe=lora_sft" not in overrides:
        assert found[0] == pytest.approx(0.6931, abs=0.02)
        assert max(abs(loss - found[0]) for loss in found) > 0.01
    assert any(tensor.abs().max() > 0 for name, tensor in adapter(run).items() if "lora_B" in name)


def test_accelerate_launch_starts_it(settings: list[str], tmp_path: Path) -> None:
    words = [
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        "1",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
    ]
    process = [
        sys.executable,
        *words,
        "train.py",
        *settings,
        "hardware=cuda",
        f"run.dir={tmp_path / 'run'}",
    ]
    done = subprocess.run(process, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "DONE").is_file()


@pytest.fixture
def pairs(sharp_model: Path, few_pairs: list[PreferencePair]) -> list[TokenizedPair]:
    from transformers import AutoTokenizer

    texts = [PromptedPair(p.id, p.user_id, p.question, p.chosen, p.rejected) for p in few_pairs]
    return tokenize_pairs(texts, AutoTokenizer.from_pretrained(sharp_model)).pairs


def placed(precision: str, device: str = "cuda") -> Placement:
    return Placement(torch.device(device), DTYPES[precision], None)


def scored(
    config: Config, pairs: list[TokenizedPair], placement: Placement, batch_size: int
) -> list[PairScore]:
    return score_pairs(load_base(config.model, placement), pairs, batch_size=batch_size)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.1)])
def test_scores_are_the_cpu_s_at_any_batch_size(
    compose: Callable[..., Config],
    sharp: list[str],
    pairs: list[TokenizedPair],
    precision: str,
    tolerance: float,
) -> None:
    """Nats a token."""
    config = compose(*sharp)
    expected = scored(config, pairs, placed("fp32", "cpu"), 8)
    for batch_size in (1, 16):
        for found, known in zip(
            scored(config, pairs, placed(precision), batch_size), expected, strict=True
        ):
            assert found.chosen_logp_mean == pytest.approx(known.chosen_logp_mean, abs=tolerance)
            assert found.rejected_logp_mean == pytest.approx(
                known.rejected_logp_mean, abs=tolerance
            )


@pytest.mark.parametrize("key_heads", [8, 2], ids=["heads", "grouped heads"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_all_segments_in_one_call_are_segments_one_by_one(
    dtype: torch.dtype, key_heads: int
) -> None:
    """Output and gradients, against fp32 and a call a segment, of a row with contexts of one span,
    of two, and of none."""
    spans = [((), (0, 40)), (((0, 40),), (40, 45)), (((0, 45),), (45, 60)), (((0, 45),), (60, 61)),
             (((0, 40), (61, 90)), (90, 99)), (((0, 40),), (61, 90))]  # fmt: skip
    spans = sorted(spans, key=lambda span: span[1])
    layout = lay_out(spans).mapped(torch.Tensor.cuda)
    torch.manual_seed(0)
    exact = [
        torch.randn(1, heads, 99, 64, device="cuda", requires_grad=True)
        for heads in (8, key_heads, key_heads)
    ]
    rounded = [tensor.detach().to(dtype).requires_grad_() for tensor in exact]
    assert takes_varlen(rounded[0]) and not takes_varlen(exact[0])
    module = torch.nn.Module()
    module.num_key_value_groups = 8 // key_heads
    grad = torch.randn(1, 99, 8, 64, device="cuda")
    outputs = []
    for tensors in (exact, rounded):
        output, _ = attend(
            module, *tensors, None, layout=layout, scaling=0.2, dropout=0.0, is_causal=True
        )
        output.backward(grad.to(output.dtype))
        outputs.append(output)
    torch.testing.assert_close(outputs[1].float(), outputs[0], atol=2e-2, rtol=2e-2)
    for found, expected in zip(rounded, exact, strict=True):
        torch.testing.assert_close(found.grad.float(), expected.grad, atol=6e-2, rtol=3e-2)


def test_four_bit_layers_are_four_bit_and_train(
    compose: Callable[..., Config], sharp: list[str]
) -> None:
    config = compose(*sharp, "quantization=4bit")
    base = load_base(config.model, placed("bf16"), "4bit")
    assert four_bit_layers(base) == 2 * 7  # two layers of seven; the head stays as it is
    assert next(base.parameters()).device.type == "cuda"


def plan_of(tokens: int, batch_size: int) -> Plan:
    """Plan pairs with two answers of so many tokens, each with 49,152 fp32 logits."""

    def answer(number: int, first: int) -> Answer:
        return Answer((number + 1, *range(first, first + tokens)), 1)

    pairs = [TokenizedPair(str(n), str(n), answer(n, 1), answer(n, 7)) for n in range(batch_size)]
    return Plan([], pairs, [], 0, 0, [], None, [], Batches(batch_size, batch_size, 1, 1, 1))


def test_the_micro_batch_shrinks_to_what_the_gpu_has(
    compose: Callable[..., Config], sharp: list[str]
) -> None:
    """Against a cap on this process's share of the GPU: the caching allocator's own out-of-memory
    error."""
    config = compose(*sharp, "train.micro_batch_size=auto", "train.batch_size=8")
    model = new_adapter(load_base(config.model, placed("fp32")), config.lora, config.seed)
    total = torch.cuda.get_device_properties(0).total_memory

    def at_most(plan: Plan, gib: float) -> int:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(
            (torch.cuda.memory_reserved() + gib * 2**30) / total
        )
        try:
            batches = fit_micro_batch(plan, model, config).batches
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert batches is not None and batches.micro * batches.accumulation == 8
        return batches.micro

    def peak(pairs: int) -> float:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        fit_micro_batch(plan_of(4096, pairs), model, config)
        return (torch.cuda.max_memory_reserved() - torch.cuda.memory_reserved()) / 2**30

    plan = plan_of(4096, 8)
    one, all_of_them = peak(1), peak(8)
    assert at_most(plan, 2 * all_of_them) == 8
    assert at_most(plan, (one + all_of_them) / 2) in (1, 2, 4)
    with pytest.raises(UserError, match="The longest pair does not fit in a training pass"):
        at_most(plan, one / 4)


SHAPE = LlamaConfig(
    vocab_size=32_000,
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=8,
    num_attention_heads=16,
)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("quantization", ["none", "4bit"])
def test_the_simulated_peak_is_cuda_s(
    tmp_path: Path, quantization: str, checkpointing: bool
) -> None:
    """Of a model of half a billion weights. docs/memory.md promises 15 %."""
    config = config_of(random_model(SHAPE, tmp_path / "model"), quantization, checkpointing)
    before = torch.cuda.memory_allocated()
    base = load_base(config.model, placed("bf16"), quantization)
    found = measure(start_adapter(base, config), config, 4, before)
    known = simulate(config, SHAPE, torch.bfloat16, llama_pairs(4), [llama_pairs(8)])
    assert known.training and known.scoring
    print(known.training.peak / found.training, known.scoring.peak / found.scoring)
    assert known.training.peak == pytest.approx(found.training, rel=0.15)
    assert known.scoring.peak == pytest.approx(found.scoring, rel=0.15)


@pytest.mark.parametrize("temperature", [0, 0.7])
def test_both_engines_write_the_same_in_fp32(
    sharp_model: Path, few_pairs: list[PreferencePair], temperature: float
) -> None:
    model = AutoModelForCausalLM.from_pretrained(sharp_model, dtype=torch.float32).cuda()
    tokenizer = AutoTokenizer.from_pretrained(sharp_model)
    prompts = [
        PromptedPair(p.id, p.user_id, p.question * (1 + n % 4), p.chosen, p.rejected)
        for n, p in enumerate(few_pairs)
    ]
    plain, continuous = (
        generate_locally(
            model, tokenizer, prompts, Generation(engine=engine, temperature=temperature), 12
        )
        for engine in ("plain", "continuous")
    )
    assert sum(one == other for one, other in zip(plain, continuous, strict=True)) >= 15
