"""Parts of a GPU session that no other benchmark has: scoring, generation, and losses.

python -m benchmarks.session_parts {scoring,generation,losses} FOLDER --json FILE

FOLDER holds a LLaMA with random weights (benchmarks/random_llama.py).
"""

import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks import our_trainer, rival_trainers
from benchmarks.contenders import TRL, rival_job
from benchmarks.machine import now
from benchmarks.our_trainer import OurRun
from benchmarks.rival_trainers import measured_rate
from benchmarks.rivals import padded_batches
from benchmarks.work import compose, forward_flop, render_and_tokenize, rows_of, without_weights
from mvp_align.config import Generation
from mvp_align.data.load import load_data
from mvp_align.data.prompts import render_prompts
from mvp_align.generation.local import generate_locally
from mvp_align.modeling.adapters import new_adapter, save_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import resolve_hardware
from mvp_align.modeling.source import load_model_config, load_tokenizer
from mvp_align.runtime.json_files import write_json
from mvp_align.scoring.logps import score_pairs

PLAIN_BATCH = 8
CONTINUOUS_BATCH = 64
"""Answers that continuous batching writes at once. At plain `generate`'s 8 most of a GPU idles."""
STARTING_STD = 0.02
"""Of lora_B where losses are compared: some percent of what q, k and v give."""

app = typer.Typer()
Folder = Annotated[Path, typer.Argument(help="A random LLaMA with a tokenizer.")]
Json = Annotated[Path, typer.Option("--json", help="File to write the figures to.")]


def words_for(folder: Path, *more: str) -> list[str]:
    on_cpu = [] if torch.cuda.is_available() else ["hardware=cpu"]
    return [
        "experiment=divervalue_llama2_7b",
        "data=sample",
        *on_cpu,
        "model.name=random",
        f"model.id={folder}",
        *more,
    ]


@app.command()
def scoring(
    folder: Folder,
    json_file: Json,
    pairs: Annotated[int, typer.Option(help="Training pairs to score.")] = 512,
    batches: Annotated[str, typer.Option(help="Pairs a batch; several with commas.")] = "32,64",
    plain: Annotated[int, typer.Option(help="Pairs that are scored in padded rows, too.")] = 256,
) -> None:
    """Time our scoring, and padded rows with two rows a pair."""
    config = compose(words_for(folder))
    placement = resolve_hardware(config.hardware)
    device = placement.device
    rate = measured_rate(device, placement.dtype, 3 if device.type == "cuda" else 1)
    assert rate is not None
    drawn = random.Random(0).sample(load_data(config).train, pairs)
    _, tokens = render_and_tokenize(drawn, config)
    model = load_base(config.model, placement).eval()
    flop = forward_flop(without_weights(load_model_config(config.model)), rows_of(tokens))
    found: dict[str, Any] = {}
    for size in map(int, batches.split(",")):
        score_pairs(model, tokens[:size], batch_size=size)
        began = now(device)
        scores = score_pairs(model, tokens, batch_size=size)
        seconds = now(device) - began
        if len(tokens) / seconds > found.get("pairs_per_second", 0.0):
            found |= {
                "batch": size,
                "pairs_per_second": len(tokens) / seconds,
                "product_share": flop / seconds / rate,
            }
    some = tokens[:plain]
    padded_batches(model, some[:size], 2 * size)
    began = now(device)
    sums = padded_batches(model, some, 2 * size)
    found["plain_pairs_per_second"] = len(some) / (now(device) - began)
    found["gemm_tflops"] = rate / 1e12
    found["max_error_per_token"] = max(
        abs(chosen - score.chosen_logp) / score.chosen_tokens
        for (chosen, _), score in zip(sums, scores, strict=False)
    )
    write_json(json_file, found)


@app.command()
def generation(
    folder: Folder,
    json_file: Json,
    answers: Annotated[int, typer.Option(help="Answers of plain `generate`.")] = 32,
    more: Annotated[int, typer.Option(help="Answers of continuous batching.")] = 256,
    tokens: Annotated[int, typer.Option(help="New tokens of an answer.")] = 128,
) -> None:
    """Time plain `generate` beside continuous batching."""
    config = compose(words_for(folder))
    placement = resolve_hardware(config.hardware)
    tokenizer = load_tokenizer(config.model)
    drawn = random.Random(0).sample(load_data(config).train, max(answers, more))
    prompts = render_prompts(drawn, config.generation.prompt, tokenizer)
    model = load_base(config.model, placement).eval()
    settings = replace(
        config.generation, max_new_tokens=tokens, temperature=0.0, batch_size=PLAIN_BATCH
    )

    def rate(count: int, settings: Generation) -> tuple[float, float]:
        """Return answers, and tokens, a second, after a warm-up."""
        generate_locally(model, tokenizer, prompts[:PLAIN_BATCH], settings, seed=0)
        began = now(placement.device)
        made = generate_locally(model, tokenizer, prompts[:count], settings, seed=0)
        seconds = now(placement.device) - began
        return count / seconds, sum(answer.tokens or 0 for answer in made) / seconds

    found: dict[str, Any] = {"new_tokens": tokens, "plain_batch": PLAIN_BATCH}
    found["plain_answers_per_second"], found["plain_tokens_per_second"] = rate(answers, settings)
    write_json(json_file, found)
    fast = replace(settings, engine="continuous", batch_size=CONTINUOUS_BATCH)
    found["continuous_batch"] = CONTINUOUS_BATCH
    found["answers_per_second"], found["tokens_per_second"] = rate(more, fast)
    found["ratio"] = found["answers_per_second"] / found["plain_answers_per_second"]
    write_json(json_file, found)


@app.command()
def losses(
    folder: Folder,
    json_file: Json,
    steps: Annotated[int, typer.Option(help="Steps whose losses are compared.")] = 20,
    batch: Annotated[int, typer.Option(help="Pairs a step, in one pass.")] = 4,
) -> None:
    """Compare our losses with the plain path's, TRL's with PEFT's layers, in bf16 and in fp32.

    Both start from one adapter whose lora_B is not zero. On a CPU there is fp32 alone.
    """
    on_gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as name:
        adapter = Path(name) / "adapter"
        make_adapter(folder, adapter)
        found: dict[str, Any] = {"steps": steps, "batch": batch}
        for precision in ("fp32", "bf16") if on_gpu else ("fp32",):
            words = words_for(
                folder,
                f"adapter={adapter}",
                f"hardware.precision={precision}",
                f"train.batch_size={batch}",
                f"train.micro_batch_size={batch}",
                "train.epochs=1",
            )
            config = compose(words)
            pairs = random.Random(0).sample(load_data(config).train, steps * batch)
            ours = our_trainer.train(OurRun(words, pairs))
            texts, _ = render_and_tokenize(pairs, config)
            dtype = {"fp32": "float32", "bf16": "bfloat16"}[precision]
            job = rival_job(TRL, config, str(folder), texts, dtype, [])
            plain = rival_trainers.attempt(job, batch, False)
            if plain.timed is None or ours.timed is None:
                raise RuntimeError(f"the plain path failed: {plain.failed}")
            found[f"ours_{precision}"] = ours.timed.losses
            found[f"plain_{precision}"] = plain.timed.losses
            found[f"gap_{precision}"] = gap(ours.timed.losses, plain.timed.losses)
            write_json(json_file, found)
    if on_gpu:
        found["ours_bf16_beside_fp32"] = gap(found["ours_bf16"], found["ours_fp32"])
        found["plain_bf16_beside_fp32"] = gap(found["plain_bf16"], found["plain_fp32"])
        write_json(json_file, found)


def gap(one: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def make_adapter(folder: Path, target: Path) -> None:
    """Save a new adapter whose lora_B is drawn at random."""
    config = compose(words_for(folder))
    placement = resolve_hardware(config.hardware)
    model = new_adapter(load_base(config.model, placement), config.lora, config.seed)
    torch.manual_seed(config.seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=STARTING_STD)
    save_adapter(model, load_tokenizer(config.model), target)


if __name__ == "__main__":
    app()
