"""Forecast LLaMA-2's training and scoring time on GPUs from FLOP and bytes.

`python -m benchmarks.forecast` prints the table. Nothing here is measured: every assumption is a
constant below.
"""

from dataclasses import dataclass

import torch
from accelerate import init_empty_weights
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from benchmarks.memory import SHAPES
from benchmarks.work import forward_flop, training_flop
from mvp_align.scoring.packing import pack_answers
from mvp_align.scoring.tokens import Answer, TokenizedPair

PROMPT, ANSWER = 80, 60
"""Approximate tokens of a pair in the benchmark's format with LLaMA-2's tokenizer."""
TRAIN_PAIRS, EPOCHS = 16_000, 3
MFU_TRAINING, MFU_SCORING = 0.40, 0.50
"""Model FLOP utilisation, as reported for dense bf16 training; lower with small micro-batches."""
EIGHT_GPUS = 0.92
"""Scaling efficiency of eight GPUs.

All-reducing adapter gradients is cheap, but each step waits for the slowest of eight micro-batches.
"""
GPUS = {"A100 80 GB": (312e12, 2.0e12), "H100 SXM": (989e12, 3.35e12)}
"""Peak dense bf16 FLOP/s and memory bytes/s, from NVIDIA's data sheets."""
LORA_RANK = 16


@dataclass(frozen=True, slots=True)
class Forecast:
    scoring_flop: float
    training_flop: float
    weight_bytes: float


def forecast(config: LlamaConfig) -> Forecast:
    """Return one pair's FLOP in scoring and in training, and the weight bytes that a pass reads."""
    with init_empty_weights():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    context = tuple(range(PROMPT))
    chosen, rejected = (Answer((*context, *(first,) * ANSWER), PROMPT) for first in (1, 2))
    pair = TokenizedPair("", "", chosen, rejected)
    adapter = 3 * LORA_RANK * 2 * config.hidden_size * config.num_hidden_layers  # q, k, v
    return Forecast(
        scoring_flop=forward_flop(model, pack_answers([chosen, rejected], share=True)),
        training_flop=training_flop(model, [pair], adapter),
        weight_bytes=2.0 * sum(parameter.numel() for parameter in model.parameters()),
    )


def main() -> None:
    table = Table(title="Computed, not measured", title_justify="left")
    for column in (
        "model",
        "GPUs",
        "TFLOP a pair, training",
        "pairs/s training",
        "hours, 3 epochs of 16,000",
        "pairs/s scoring",
    ):
        table.add_column(column, justify="left" if column in ("model", "GPUs") else "right")
    for name, config in SHAPES.items():
        one = forecast(config)
        for gpu, (peak, _) in GPUS.items():
            for count in (1, 8):
                scale = count * (EIGHT_GPUS if count > 1 else 1.0)
                training = peak * MFU_TRAINING / one.training_flop * scale
                scoring = peak * MFU_SCORING / one.scoring_flop * scale
                hours = (EPOCHS * TRAIN_PAIRS / training + TRAIN_PAIRS / scoring) / 3600
                numbers = (
                    f"{one.training_flop / 1e12:.1f}",
                    f"{training:.0f}",
                    f"{hours:.2f}",
                    f"{scoring:.0f}",
                )
                table.add_row(name, f"{count} x {gpu}", *numbers)
    Console(width=120).print(table)
    for name, config in SHAPES.items():
        one = forecast(config)
        for gpu, (peak, bandwidth) in GPUS.items():
            pairs = one.weight_bytes / bandwidth * peak / one.scoring_flop
            print(
                f"{name}, {gpu}: reading the weights once takes as long as the products of"
                f" {pairs:.1f} scored pairs"
            )


if __name__ == "__main__":
    main()
