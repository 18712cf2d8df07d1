"""Compare the dry run's memory forecast with training SmolLM2, and print it for LLaMA-2.

`python -m benchmarks.memory` prints the tables of docs/memory.md. The measured figure is a fresh
process's peak from loading the model to the second step, minus what it held before.
"""

import ctypes
import tempfile
from dataclasses import dataclass
from pathlib import Path

import hydra
import torch
from accelerate import PartialState
from transformers import LlamaConfig

from benchmarks.machine import Worker, close
from benchmarks.random_llama import SHAPES as LLAMAS
from mvp_align.config import Config
from mvp_align.data.load import DataSets
from mvp_align.launch import to_config
from mvp_align.modeling.adapters import start_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import Placement, keep_freed_memory
from mvp_align.modeling.source import load_tokenizer
from mvp_align.planning.forecast import CONTEXT_GIB, FRAGMENTED, simulated
from mvp_align.planning.preflight import make_plan
from mvp_align.planning.simulation import simulate
from mvp_align.runtime.folders import CONF_DIR
from mvp_align.schema import PreferencePair
from mvp_align.scoring.tokens import Answer, TokenizedPair
from mvp_align.training.plan import Plan
from mvp_align.training.trainers import TrainerParts, dpo_trainer

GIB = 2**30
WORDS = ("tea", "rain", "bread", "snow", "cats", "jazz", "soup", "salt", "moss", "maps")
PROMPT, ANSWER = 128, 192
"""Tokens of a LLaMA-2 pair's prompt, and of each of its answers."""
MICRO_BATCHES = (1, 2, 4, 8, 16)
SHAPES = {f"LLaMA-2-{size}": LLAMAS[size] for size in ("7B", "13B")}


@dataclass(frozen=True, slots=True)
class Setting:
    """Pairs per pass, tokens per prompt (approximately) and per answer, and checkpointing."""

    pairs: int
    prompt: int
    answer: int
    checkpointing: bool
    overrides: tuple[str, ...] = ()


SETTINGS = (
    Setting(1, 128, 192, False),
    Setting(4, 64, 96, False),
    Setting(2, 256, 320, True),
    Setting(8, 128, 192, True),
)


def simulated_peak(setting: Setting) -> int:
    config, plan = planned(setting)
    return simulated(config, plan, torch.float32).peak


def measured_peak(setting: Setting, keep_freed: bool) -> int:
    """Train in this process, which must be fresh, and return its peak in bytes.

    With `keep_freed`, glibc keeps freed memory, as in our runs on a CPU. Otherwise it returns every
    block, so that the peak is what is in use.
    """
    PartialState(cpu=True)
    if keep_freed:
        keep_freed_memory()
    else:
        trim_threshold, mmap_threshold = -1, -3
        glibc = ctypes.CDLL("libc.so.6")
        glibc.mallopt(mmap_threshold, 2**16)
        glibc.mallopt(trim_threshold, 2**16)
    config, plan = planned(setting)
    placement, tokenizer = on_cpu(), load_tokenizer(config.model)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # reset the peak
    model = start_adapter(load_base(config.model, placement, config.quantization), config)
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder)
        dpo_trainer(TrainerParts(config, plan, model, tokenizer, placement, kept, kept)).train()
    return resident("VmHWM") - before


def planned(setting: Setting) -> tuple[Config, Plan]:
    """Plan two steps of one micro-batch each, with pairs of equal length."""
    overrides = [
        "hardware=cpu",
        "tracking=none",
        "evals.sets=[]",
        "prompt=question",
        "run.logp_cache=false",
        f"train.batch_size={setting.pairs}",
        f"train.micro_batch_size={setting.pairs}",
        "train.max_steps=2",
        f"hardware.gradient_checkpointing={str(setting.checkpointing).lower()}",
        *setting.overrides,
    ]
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        config = to_config(hydra.compose("train", overrides))
    pairs = [
        PreferencePair(
            f"p{n}",
            f"u{n}",
            f"{n}" + f" {WORDS[n % 10]}" * setting.prompt,
            *answer_texts(setting.answer),
        )
        for n in range(2 * setting.pairs)
    ]
    return config, make_plan(
        config, DataSets(train=pairs, test=[]), load_tokenizer(config.model), on_cpu()
    )


def answer_texts(tokens: int) -> tuple[str, str]:
    return " yes" * tokens, " no" * tokens


def on_cpu() -> Placement:
    """Return the placement directly, since `resolve_hardware` would change the allocator."""
    return Placement(torch.device("cpu"), torch.float32, "sdpa")


def resident(field: str) -> int:
    """Return VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def in_fresh_process(setting: Setting, keep_freed: bool) -> int:
    worker = Worker()
    found = worker.call(measured_peak, setting, keep_freed)
    close({"": worker})
    return found


def print_validation() -> None:
    print(
        "| pairs a pass | prompt, answer | checkpointing | simulated | measured | ratio | as our"
        " runs keep it |"
    )
    print("|---|---|---|---|---|---|---|")
    for setting in SETTINGS:
        found, used = simulated_peak(setting), in_fresh_process(setting, keep_freed=False)
        kept = in_fresh_process(setting, keep_freed=True)
        print(
            f"| {setting.pairs} | {setting.prompt}, {setting.answer} |"
            f" {'on' if setting.checkpointing else 'off'} | {found / GIB:.2f} | {used / GIB:.2f} |"
            f" {found / used:.2f} | {kept / GIB:.2f} |",
            flush=True,
        )


def print_llama() -> None:
    sizes = " | ".join(f"{size}" for size in MICRO_BATCHES)
    print(f"| model | | checkpointing | weights | scoring | {sizes} | TFLOP a pair |")
    print("|---|---|---|---|---|" + "---|" * len(MICRO_BATCHES) + "---|")
    for name, shape in SHAPES.items():
        for quantization in ("none", "4bit"):
            for checkpointing in (False, True):
                print(llama_row(name, shape, quantization, checkpointing), flush=True)


def llama_row(name: str, shape: LlamaConfig, quantization: str, checkpointing: bool) -> str:
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        overrides = [
            f"quantization={quantization}",
            f"hardware.gradient_checkpointing={str(checkpointing).lower()}",
        ]
        config = to_config(hydra.compose("train", overrides))
    found = [
        simulate(config, shape, torch.bfloat16, llama_pairs(n), [llama_pairs(8)] * (n == 1))
        for n in MICRO_BATCHES
    ]
    weights, scoring, last = found[0].weights / GIB, found[0].scoring, found[-1].training
    assert scoring is not None and last is not None
    peaks = " | ".join(f"{one.training.peak / GIB:.1f}" for one in found if one.training)
    kind = "QLoRA" if quantization == "4bit" else "LoRA"
    tflop = last.flop / MICRO_BATCHES[-1] / 1e12
    on = "on" if checkpointing else "off"
    return (
        f"| {name} | {kind} | {on} | {weights:.1f} | {scoring.peak / GIB:.1f} | {peaks} |"
        f" {tflop:.1f} |"
    )


def llama_pairs(count: int) -> list[TokenizedPair]:
    """Return pairs that share no prompt."""
    made = []
    for number in range(count):
        prompt = tuple(range(number + 1, number + 1 + PROMPT))
        chosen, rejected = (Answer((*prompt, *(first,) * ANSWER), PROMPT) for first in (1, 2))
        made.append(TokenizedPair(f"{number}", f"{number}", chosen, rejected))
    return made


def main() -> None:
    print("SmolLM2-135M, fp32, on this CPU; GiB\n")
    print_validation()
    print(
        f"\nLLaMA-2 in bf16, prompts of {PROMPT} tokens, answers of {ANSWER}; peaks in GiB,"
        " simulated, by pairs a pass;"
    )
    print(f"a GPU holds about {FRAGMENTED:.0%} and {CONTEXT_GIB:.0f} GiB more\n")
    print_llama()


if __name__ == "__main__":
    main()
