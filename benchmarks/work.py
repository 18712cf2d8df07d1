"""Pairs for timing, and the FLOP that they need at least."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mvp_align.config import Config, Lora
from mvp_align.data.load import load_data
from mvp_align.data.prompts import render_prompts
from mvp_align.launch import to_config
from mvp_align.modeling.hardware import DTYPES, Placement, best_precision
from mvp_align.modeling.source import load_model_config, load_tokenizer
from mvp_align.runtime.folders import CONF_DIR
from mvp_align.schema import PreferencePair, PromptedPair
from mvp_align.scoring.packing import PackedSequence, pack_answers
from mvp_align.scoring.tokens import TokenizedPair, tokenize_pairs
from mvp_align.training.step import pair_tokens


@dataclass(frozen=True, slots=True)
class Task:
    """The workload that the command line selects.

    `data` is `sample` or a file in UF-P-4's schema.
    """

    model: str
    data: str
    pairs: int
    overrides: tuple[str, ...] = ()

    def words(self, *more: str) -> list[str]:
        """Return the overrides of `train.py` that select the workload."""
        source = ["data=sample"]
        if self.data != "sample":
            source = ["data=files", "data.format=ufp4", f"data.train={Path(self.data).resolve()}"]
            source += [
                "data.drop_repeats=true",
                "data.max_tokens=2048",
                "data.max_prompt_tokens=1024",
            ]
        return [f"model={self.model}", *source, "evals=in_domain", *self.overrides, *more]

    def config(self, *more: str) -> Config:
        return compose(self.words(*more))


def compose(words: Sequence[str]) -> Config:
    """Return the config of `train.py` with these overrides."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return to_config(hydra.compose("train", list(words)))


def native_placement() -> Placement:
    """Return our runs' device and precision, without changing allocator settings as they do.

    Rivals run with their own defaults.
    """
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    return Placement(device, DTYPES[best_precision(on_gpu)], None)


def evaluation_pairs(task: Task) -> tuple[list[PromptedPair], list[TokenizedPair]]:
    """Return the first `task.pairs` test pairs, sorted by user. A file is used whole."""
    config = task.config()
    data = load_data(config)
    pairs = data.test if task.data == "sample" else data.train + data.test
    return render_and_tokenize(sorted(pairs, key=lambda pair: pair.user_id)[: task.pairs], config)


def training_pairs(task: Task) -> list[PreferencePair]:
    """Return a seeded sample of the training pairs, without those over the config's limits."""
    config = task.config()
    pairs = load_data(config).train
    drawn = random.Random(0).sample(pairs, min(task.pairs, len(pairs)))
    limits = config.data
    return [
        pair
        for pair, tokens in zip(drawn, render_and_tokenize(drawn, config)[1], strict=True)
        if tokens.prompt_tokens <= limits.max_prompt_tokens and tokens.longest < limits.max_tokens
    ]


@dataclass(frozen=True, slots=True)
class Workload:
    """What an epoch over some pairs is made of."""

    texts: list[PromptedPair]
    tokens: int
    """Prompts counted once a pair."""
    training_flop: float
    """FLOP of a forward and backward pass over all pairs, without the reference."""
    reference_flop: float
    """FLOP of one reference pass over all pairs."""


def workload(pairs: Sequence[PreferencePair], config: Config) -> Workload:
    texts, tokenized = render_and_tokenize(pairs, config)
    model = without_weights(load_model_config(config.model))
    return Workload(
        texts=texts,
        tokens=sum(map(pair_tokens, tokenized)),
        training_flop=training_flop(model, tokenized, adapter_weights(model, config.lora)),
        reference_flop=forward_flop(model, rows_of(tokenized)),
    )


def without_weights(shape: PreTrainedConfig) -> PreTrainedModel:
    """Return a model of this shape on the meta device, to count its FLOP."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(shape)
    return model


def adapter_weights(model: PreTrainedModel, lora: Lora) -> int:
    """Return the number of weights of an adapter on `model`."""
    every = lora.target_modules == ["all-linear"]
    return sum(
        lora.r * (module.in_features + module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and (
            not name.endswith("lm_head")
            if every
            else name.rpartition(".")[2] in lora.target_modules
        )
    )


def render_and_tokenize(
    pairs: Sequence[PreferencePair], config: Config
) -> tuple[list[PromptedPair], list[TokenizedPair]]:
    tokenizer: PreTrainedTokenizerBase = load_tokenizer(config.model)
    texts = render_prompts(pairs, config.prompt, tokenizer)
    return texts, tokenize_pairs(texts, tokenizer).pairs


def largest_relative_gap(found: Sequence[float], expected: Sequence[float]) -> float:
    return max(abs(a - b) / max(abs(b), 1e-12) for a, b in zip(found, expected, strict=True))


def tokens_two_rows(pairs: Sequence[TokenizedPair]) -> int:
    """Count tokens with one row per answer, the common unit of tokens/s."""
    return sum(len(pair.chosen.ids) + len(pair.rejected.ids) for pair in pairs)


def rows_of(pairs: Sequence[TokenizedPair]) -> list[PackedSequence]:
    answers = list(
        dict.fromkeys(answer for pair in pairs for answer in (pair.chosen, pair.rejected))
    )
    return pack_answers(answers, share=True)


def forward_flop(model: PreTrainedModel, rows: Sequence[PackedSequence]) -> float:
    """Return the FLOP of matrix products that one forward pass needs.

    That is every token in every linear layer, attention to visible tokens only, and the vocabulary
    head on answer tokens only; no padding and no elementwise operations. torch's FlopCounterMode,
    which tests compare with, also counts masked products, and misses FlashAttention's.
    """
    weights: int = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "lora_" not in name and not name.endswith("lm_head")
    )
    tokens = sum(row.length for row in rows)
    answer_tokens = sum(
        len(ids) for row in rows for branch in row.branches for _, ids in branch.answers
    )
    head: int = model.get_output_embeddings().weight.numel()
    return 2.0 * weights * tokens + attention_flop(model, rows) + 2.0 * head * answer_tokens


def attention_flop(model: PreTrainedModel, rows: Sequence[PackedSequence]) -> float:
    config = model.config.get_text_config()
    head_width: int = (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    per_pair: int = 4 * config.num_hidden_layers * config.num_attention_heads * head_width
    return float(per_pair * sum(map(attended_pairs, rows)))


def attended_pairs(row: PackedSequence) -> int:
    """Count the (query, key) pairs of a row. A token attends to its ancestors and itself."""
    prefix = len(row.prefix)
    total = causal_pairs(prefix)
    for branch in row.branches:
        context = len(branch.context)
        total += context * prefix + causal_pairs(context)
        total += sum(
            len(ids) * (prefix + context) + causal_pairs(len(ids)) for _, ids in branch.answers
        )
    return total


def causal_pairs(tokens: int) -> int:
    return tokens * (tokens + 1) // 2


def training_flop(
    model: PreTrainedModel, pairs: Sequence[TokenizedPair], adapter_weights: int
) -> float:
    """Return the FLOP of a training pass, without the reference.

    That is a forward pass, the gradient with respect to activations (as much again, but twice for
    attention; base weights are frozen), and the adapter's forward pass and both gradients.
    """
    rows = [row for pair in pairs for row in rows_of([pair])]
    return (
        2 * forward_flop(model, rows)
        + attention_flop(model, rows)
        + 6.0 * adapter_weights * sum(row.length for row in rows)
    )
