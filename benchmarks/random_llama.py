"""Save LLaMAs with random weights, since speed and memory do not depend on their values.

`python -m benchmarks.random_llama NAME FOLDER [--tokenizer FOLDER]` makes one with a tokenizer, as
`model.id=FOLDER` wants it.
"""

import gc
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from benchmarks.work import Task
from mvp_align.data.load import load_data
from mvp_align.modeling.source import load_tokenizer

SHAPES = {
    "7B": LlamaConfig(vocab_size=32_000),
    "13B": LlamaConfig(
        vocab_size=32_000,
        hidden_size=5120,
        intermediate_size=13_824,
        num_hidden_layers=40,
        num_attention_heads=40,
    ),
    "smollm2": LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    ),
    "tiny": LlamaConfig(
        vocab_size=1024,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
    ),
}
"""LLaMA-2's two, SmolLM2-135M's, and one that takes seconds on a CPU."""


def random_model(shape: LlamaConfig, folder: Path) -> Path:
    """Save a model of this shape with random weights, in bf16 on a GPU, and return its folder."""
    on_gpu = torch.cuda.is_available()
    set_seed(0)
    with torch.device("cuda" if on_gpu else "cpu"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            shape, dtype=torch.bfloat16 if on_gpu else torch.float32
        )
    model.save_pretrained(folder)
    del model
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
    return folder


def is_finished(folder: Path) -> bool:
    return (folder / "tokenizer_config.json").is_file()


def with_tokenizer(name: str, folder: Path, tokenizer: str | None = None) -> Path:
    """Save a model of a named shape, with a tokenizer: of a folder, or else the demo model's.

    The shape's vocabulary is widened to the tokenizer's, if that is larger; `tiny` gets a small
    tokenizer of its own. A folder that already holds a finished model is left as it is.
    """
    if is_finished(folder):
        return folder
    named = [f"model.id={tokenizer}", "model.name=tokenizer"] if tokenizer else []
    config = Task("smollm2_135m", "sample", 0, tuple(named)).config()
    words: PreTrainedTokenizerBase = load_tokenizer(config.model)
    if name == "tiny":
        texts = (f"{pair.question} {pair.chosen}" for pair in load_data(config).train)
        words = words.train_new_from_iterator(texts, SHAPES[name].vocab_size)
    shape = LlamaConfig.from_dict(SHAPES[name].to_dict())
    shape.vocab_size = max(shape.vocab_size, len(words))
    shape.bos_token_id, shape.eos_token_id = words.bos_token_id, words.eos_token_id
    shape.pad_token_id = None
    random_model(shape, folder)
    words.save_pretrained(folder)  # last: it marks the folder as finished
    return folder


def main(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(SHAPES)}.")],
    folder: Path,
    tokenizer: Annotated[
        str | None, typer.Option(help="A folder; by default the demo model's.")
    ] = None,
) -> None:
    """Save a LLaMA with random weights and a tokenizer."""
    if name not in SHAPES:
        raise typer.BadParameter(f"must be one of {', '.join(SHAPES)}")
    with_tokenizer(name, folder, tokenizer)


if __name__ == "__main__":
    typer.run(main)
