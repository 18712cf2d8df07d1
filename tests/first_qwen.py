"""A small first-generation Qwen as its folder on the Hub is, and what Qwen's own code computes."""

import base64
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers.convert_slow_tokenizer import bytes_to_unicode

RANKS = 151_643
LAYERS, HEADS, HEAD, HIDDEN, FF = 2, 4, 8, 32, 48
CONFIG: dict[str, Any] = {
    "architectures": ["QWenLMHeadModel"],
    "auto_map": {
        "AutoConfig": "configuration_qwen.QWenConfig",
        "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
    },
    "model_type": "qwen",
    "bf16": False,
    "fp16": False,
    "hidden_size": HIDDEN,
    "intermediate_size": 2 * FF,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "kv_channels": HEAD,
    "layer_norm_epsilon": 1e-6,
    "max_position_embeddings": 1024,
    "seq_length": 256,
    "rotary_pct": 1.0,
    "rotary_emb_base": 10000,
    "no_bias": True,
    "attn_dropout_prob": 0.0,
    "emb_dropout_prob": 0.0,
    "scale_attn_weights": True,
    "tie_word_embeddings": False,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "use_flash_attn": "auto",
    "tokenizer_class": "QWenTokenizer",
    "vocab_size": 151_936,
}
"""With the keys of Qwen/Qwen-7B's config.json, and smaller sizes."""
GENERATION = {
    "chat_format": "raw",
    "eos_token_id": 151643,
    "pad_token_id": 151643,
    "stop_words_ids": [[151643]],
    "max_new_tokens": 512,
    "do_sample": True,
    "top_k": 0,
    "top_p": 0.8,
}


def trained_ranks(texts: Sequence[str], count: int) -> dict[bytes, int]:
    """Token -> rank of a byte-level BPE that is trained on `texts`."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=count, initial_alphabet=alphabet, show_progress=False)
    )
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    return {bytes(byte_of[c] for c in t): rank for t, rank in trained.get_vocab().items()}


def all_ranks(texts: Sequence[str]) -> dict[bytes, int]:
    """As many tokens as Qwen has: trained ones, then every pair of bytes and many triples.

    Two or three bytes are always left as two tokens, whatever was joined first.
    """
    ranks = trained_ranks(texts, 4000)
    pairs = [bytes([one, other]) for one in range(256) for other in range(256)]
    draw = random.Random(12)
    draw.shuffle(pairs)
    for token in pairs:
        ranks.setdefault(token, len(ranks))
    while len(ranks) < RANKS:
        ranks.setdefault(draw.randbytes(3), len(ranks))
    return ranks


def random_weights(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Large enough that attention is far from uniform."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float) -> Tensor:
        return (torch.randn(*shape, generator=draw) * std).to(dtype)

    rows = CONFIG["vocab_size"]
    weights = {"transformer.wte.weight": normal(rows, HIDDEN, std=1.0)}
    for layer in range(LAYERS):
        start = f"transformer.h.{layer}"
        weights |= {
            f"{start}.ln_1.weight": 1 + normal(HIDDEN, std=0.2),
            f"{start}.attn.c_attn.weight": normal(3 * HIDDEN, HIDDEN, std=0.3),
            f"{start}.attn.c_attn.bias": normal(3 * HIDDEN, std=0.3),
            f"{start}.attn.c_proj.weight": normal(HIDDEN, HIDDEN, std=0.2),
            f"{start}.ln_2.weight": 1 + normal(HIDDEN, std=0.2),
            f"{start}.mlp.w1.weight": normal(FF, HIDDEN, std=0.2),
            f"{start}.mlp.w2.weight": normal(FF, HIDDEN, std=0.2),
            f"{start}.mlp.c_proj.weight": normal(HIDDEN, FF, std=0.2),
        }
    weights["transformer.ln_f.weight"] = 1 + normal(HIDDEN, std=0.2)
    weights["lm_head.weight"] = normal(rows, HIDDEN, std=0.1)
    return weights


def write_qwen(
    folder: Path,
    ranks: Mapping[bytes, int],
    weights: Mapping[str, Tensor],
    *,
    shards: int = 3,
    config: Mapping[str, Any] = CONFIG,
    chat: bool = False,
) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    generation = GENERATION | ({"chat_format": "chatml"} if chat else {})
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "modeling_qwen.py").write_text('raise RuntimeError("code of the model was run")\n')
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()]
    (folder / "qwen.tiktoken").write_text("".join(lines))
    (folder / "LICENSE").write_text("Tongyi Qianwen LICENSE AGREEMENT\n")
    names = [*weights]
    for number in range(shards):
        part = {name: weights[name] for name in names[number::shards]}
        save_file(part, folder / f"model-{number + 1:05}-of-{shards:05}.safetensors")
    return folder


def qwen_logits(
    weights: Mapping[str, Tensor], config: Mapping[str, Any], ids: Sequence[int]
) -> Tensor:
    """Logits [tokens, vocabulary] that Qwen's modeling_qwen.py computes in eval mode.

    Written after it, for one text at a time, in plain products.
    """
    length, seq_length = len(ids), config["seq_length"]
    places = torch.arange(length).float()
    base = float(config["rotary_emb_base"])
    if config["use_dynamic_ntk"]:
        alpha = max(2 ** math.ceil(math.log2(length / seq_length) + 1) - 1, 1)
        base *= alpha ** (HEAD / (HEAD - 2))
    frequencies = 1.0 / base ** (torch.arange(0, HEAD, 2).float() / HEAD)
    angles = torch.outer(places, frequencies).repeat(1, 2)[:, None, :]
    log_n = torch.ones(length)
    if config["use_logn_attn"]:
        log_n = torch.tensor([max(1.0, math.log(n, seq_length)) for n in range(1, length + 1)])

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        mean = x.pow(2).mean(-1, keepdim=True)
        return x * torch.rsqrt(mean + config["layer_norm_epsilon"]) * weight

    def rotated(x: Tensor) -> Tensor:
        half = torch.cat((-x[..., HEAD // 2 :], x[..., : HEAD // 2]), dim=-1)
        return x * angles.cos() + half * angles.sin()

    x = weights["transformer.wte.weight"][torch.tensor(ids)]
    causal = torch.ones(length, length).tril().bool()
    for layer in range(LAYERS):
        part = {
            name.split(".", 3)[3]: value
            for name, value in weights.items()
            if name.startswith(f"transformer.h.{layer}.")
        }
        mixed = norm(x, part["ln_1.weight"]) @ part["attn.c_attn.weight"].T
        mixed = mixed + part["attn.c_attn.bias"]
        q, k, v = (one.view(length, HEADS, HEAD) for one in mixed.split(HIDDEN, dim=-1))
        q, k = rotated(q) * log_n[:, None, None], rotated(k)
        scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(HEAD)
        shares = scores.masked_fill(~causal, -math.inf).softmax(-1)
        seen = torch.einsum("hij,jhd->ihd", shares, v).reshape(length, HIDDEN)
        x = x + seen @ part["attn.c_proj.weight"].T
        y = norm(x, part["ln_2.weight"])
        inner = (y @ part["mlp.w1.weight"].T) * F.silu(y @ part["mlp.w2.weight"].T)
        x = x + inner @ part["mlp.c_proj.weight"].T
    return norm(x, weights["transformer.ln_f.weight"]) @ weights["lm_head.weight"].T
