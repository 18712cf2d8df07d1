"""Compare steps of our trainer and of TRL's DPOTrainer on a LLaMA with random weights.

Both run in one process with the same adapter, pairs, seed and arguments. Prints a JSON object per
line:

python -m benchmarks.trainers_beside_trl [7B|13B|tiny] [--micro 4,8,16] [--parts steps,scoring]

Speed and memory do not depend on the values of weights, so nothing is downloaded. `tiny` takes
seconds on a CPU.
"""

import gc
import json
import os
import random
import shutil
import statistics
import tempfile
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from typing_extensions import override

from benchmarks.machine import gemm_rate, machine_name, now
from benchmarks.memory import GIB, SHAPES
from benchmarks.rivals import padded_batches
from benchmarks.training import OURS, TRL, TRL_LIGER, TRL_PRECOMPUTED, Setup, make_trainer
from benchmarks.work import Task, forward_flop, render_and_tokenize, rows_of, training_flop
from mvp_align.config import Config
from mvp_align.data.load import load_data
from mvp_align.modeling.adapters import start_adapter
from mvp_align.modeling.fingerprint import fingerprint
from mvp_align.modeling.hardware import resolve_hardware
from mvp_align.modeling.source import load_tokenizer
from mvp_align.schema import PreferencePair
from mvp_align.scoring.logps import score_pairs

SIZES = {name.removeprefix("LLaMA-2-"): shape for name, shape in SHAPES.items()} | {
    "tiny": LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4
    )
}
PARTS = ("steps", "scoring", "profile")
WARM_UP = 2
"""Steps before timing starts."""
PROFILED = 3
"""The step to profile."""


@dataclass
class Clock(TrainerCallback):
    """Measure the seconds of each step, including its pending work on the device."""

    device: torch.device
    seconds: list[float] = field(default_factory=list)
    began: float = 0.0

    @override
    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.began = now(self.device)

    @override
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.seconds.append(now(self.device) - self.began)


@dataclass
class Profiler(TrainerCallback):
    profile: profile

    @override
    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == PROFILED - 1:
            self.profile.start()

    @override
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == PROFILED:
            self.profile.stop()


@dataclass(frozen=True, slots=True)
class Bench:
    base: PreTrainedModel
    setup: Setup
    task: Task
    batch: int
    gemm: float
    """FLOP/s of matrix products on this machine."""

    def config(self, micro: int = 1) -> Config:
        return self.task.config(
            f"train.batch_size={self.batch}", f"train.micro_batch_size={micro}", "train.epochs=1"
        )


def print_json(**facts: object) -> None:
    print(json.dumps(facts, allow_nan=False), flush=True)


def random_llama(size: str, tokenizer: str | None, root: Path) -> tuple[PreTrainedModel, Task]:
    """Return a model of this size on our runs' device, and a task with its config and tokenizer."""
    on_gpu = torch.cuda.is_available()
    named = [f"model.id={tokenizer}", "model.name=tokenizer"] if tokenizer else []
    words = load_tokenizer(Task("smollm2_135m", "sample", 0, tuple(named)).config().model)
    shape = SIZES[size]
    shape.vocab_size, shape.architectures = len(words), ["LlamaForCausalLM"]
    shape.bos_token_id, shape.eos_token_id = words.bos_token_id, words.eos_token_id
    folder = root / "model"
    shape.save_pretrained(folder)
    words.save_pretrained(folder)
    torch.manual_seed(0)
    with torch.device("cuda" if on_gpu else "cpu"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            shape, dtype=torch.bfloat16 if on_gpu else torch.float32
        )
    model.name_or_path = model.config._name_or_path = str(folder)
    model.config.use_cache = False
    model.requires_grad_(False)
    overrides = (
        f"hardware={'cuda' if on_gpu else 'cpu'}", f"model.id={folder}", "model.name=random",
        "tracking=none", "train.save_steps=100000",
    )  # fmt: skip
    return model, Task("smollm2_135m", "sample", 0, overrides)


def steps(bench: Bench, contender: str, micro: int) -> dict[str, object]:
    """Time one epoch, and return its figures.

    They are seconds before the first step, median seconds per step, peak memory, and the first
    losses and gradient norms, which all contenders should share.
    """
    device, on_gpu = bench.setup.placement.device, torch.cuda.is_available()
    release(bench)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    config, clock = bench.config(micro), Clock(device)
    model = start_adapter(bench.base, config)
    try:
        began = now(device)
        trainer = make_trainer(contender, config, model, bench.setup)
        before = now(device) - began
        trainer.add_callback(clock)
        trainer.train()
        adapter = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    finally:
        model.unload()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    second = statistics.median(clock.seconds[WARM_UP:])
    found: dict[str, object] = {
        "before_seconds": before,
        "step_seconds": second,
        "pairs_per_second": bench.batch / second,
        "peak_gib": torch.cuda.max_memory_allocated() / GIB if on_gpu else None,
        "losses": [entry["loss"] for entry in logged[:4]],
        "grad_norms": [entry["grad_norm"] for entry in logged[:4]],
    }
    if contender == OURS:
        _, pairs = render_and_tokenize(bench.setup.pairs, config)
        flop = training_flop(bench.base, pairs, adapter) / len(pairs) * bench.batch
        found["gemm_share"] = flop / second / bench.gemm
    return found


def time_steps(bench: Bench, micros: list[int]) -> None:
    """Time each contender with each micro-batch size.

    Our first run scores the reference; later ones find it in the cache.
    """
    began = now(bench.setup.placement.device)
    fingerprint(bench.base)
    print_json(what="fingerprint", seconds=now(bench.setup.placement.device) - began)
    liger = [TRL_LIGER] if torch.cuda.is_available() and find_spec("liger_kernel") else []
    turns = [(f"{OURS}, cold reference", OURS, micros[0])]
    # Liger last: it patches the model's classes
    for contender in (OURS, TRL, TRL_PRECOMPUTED, *liger):
        turns += [(contender, contender, micro) for micro in micros]
    for what, contender, micro in turns:
        try:
            print_json(what=what, micro_batch=micro, **steps(bench, contender, micro))
        except torch.OutOfMemoryError:
            print_json(what=what, micro_batch=micro, error="out of memory")


def time_scoring(bench: Bench, pairs: list[PreferencePair], batch: int) -> None:
    """Time our scoring, and batches of padded rows with two rows per pair."""
    _, tokens = render_and_tokenize(pairs, bench.config())
    device = bench.setup.placement.device
    with torch.no_grad():
        score_pairs(bench.base, tokens[:batch], batch_size=batch)
        began = now(device)
        scores = score_pairs(bench.base, tokens, batch_size=batch)
        ours = now(device) - began
    began = now(device)
    plain = padded_batches(bench.base, tokens, 2 * batch)
    theirs = now(device) - began
    print_json(
        what="scoring", batch=batch, pairs_per_second=len(tokens) / ours,
        plain_pairs_per_second=len(tokens) / theirs,
        gemm_share=forward_flop(bench.base, rows_of(tokens)) / ours / bench.gemm,
        max_abs_error_per_token=max(
            abs(chosen - score.chosen_logp) / score.chosen_tokens
            for (chosen, _), score in zip(plain, scores, strict=True)
        ),
    )  # fmt: skip


def profile_step(bench: Bench, micro: int, shown: int = 25) -> None:
    """Print where the time of one of our steps goes: by kernel on a GPU, by operator on a CPU."""
    on_gpu = torch.cuda.is_available()
    release(bench)
    kernels = profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU])
    config = bench.config(micro)
    model = start_adapter(bench.base, config)
    try:
        trainer = make_trainer(OURS, config, model, bench.setup)
        trainer.add_callback(Profiler(kernels))
        trainer.train()
    finally:
        model.unload()
    taken = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total)
        for event in kernels.key_averages()
    }
    total = sum(taken.values())
    for name, microseconds in sorted(taken.items(), key=lambda one: -one[1])[:shown]:
        print_json(
            what="profile", kernel=name, seconds=microseconds / 1e6, share=microseconds / total
        )


def release(bench: Bench) -> None:
    shutil.rmtree(bench.setup.folder, ignore_errors=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main(
    size: Annotated[str, typer.Argument(help="7B, 13B or tiny.")] = "7B",
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Hugging Face id or folder; by default the demo model's."),
    ] = None,
    micro: Annotated[str, typer.Option(help="Pairs per pass; several with commas.")] = "4,8,16",
    batch: Annotated[int, typer.Option(help="Pairs per step.")] = 16,
    steps: Annotated[int, typer.Option(help="Steps per run; the first two are not timed.")] = 8,
    parts: Annotated[
        str, typer.Option(help="steps, scoring, profile; several with commas.")
    ] = "steps,scoring",
) -> None:
    """Time ours and TRL's on the same random model, pairs and arguments, as JSON lines."""
    if size not in SIZES:
        raise typer.BadParameter(f"size: must be one of {', '.join(SIZES)}")
    wanted, micros = parts.split(","), [int(one) for one in micro.split(",")]
    if not {*wanted} <= {*PARTS}:
        raise typer.BadParameter(f"--parts: must be of {', '.join(PARTS)}")
    if steps < PROFILED:
        raise typer.BadParameter(f"--steps: {PROFILED} at least, as none would be timed else")
    with tempfile.TemporaryDirectory() as root:
        base, task = random_llama(size, tokenizer, Path(root))
        os.environ["MVP_ALIGN_CACHE"] = str(Path(root) / "cache")  # an empty cache
        placement = resolve_hardware(task.config().hardware)
        data = load_data(task.config())
        words = load_tokenizer(task.config().model)
        drawn = random.Random(0).sample(data.train, batch * steps)
        setup = Setup(drawn, words, placement, Path(root) / "run")
        bench = Bench(base, setup, task, batch, gemm_rate(placement.device, base.dtype))
        print_json(
            what="machine", name=machine_name(placement.device), torch=torch.__version__,
            gemm_tflops=bench.gemm / 1e12, pairs=len(drawn),
        )  # fmt: skip
        if "steps" in wanted:
            time_steps(bench, micros)
        if "scoring" in wanted:
            time_scoring(bench, drawn, batch)
        if "profile" in wanted:
            profile_step(bench, micros[-1])


if __name__ == "__main__":
    typer.run(main)
