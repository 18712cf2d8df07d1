"""First-generation Qwen's weights in the layout of Qwen2, which computes the same up to
`seq_length`.

Beyond that length Qwen's own code scales rotary frequencies (`use_dynamic_ntk`) and queries
(`use_logn_attn`) by the length of the text. Qwen2's layout cannot say so, so a converted model's
context ends there, and longer texts are refused as for every model.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForCausalLM, Qwen2Config

from mvp_align.errors import UserError, combined_error
from mvp_align.modeling.qwen1_tokenizer import RANKS, SPECIAL_IDS
from mvp_align.runtime.json_files import write_json

LAYER = re.compile(r"transformer\.h\.(\d+)\.(.+)")
OUTSIDE_LAYERS = {
    "transformer.wte.weight": "model.embed_tokens.weight",
    "transformer.ln_f.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
IN_LAYER = {
    "ln_1.weight": ("input_layernorm.weight",),
    "ln_2.weight": ("post_attention_layernorm.weight",),
    "attn.c_attn.weight": tuple(f"self_attn.{part}_proj.weight" for part in "qkv"),
    "attn.c_attn.bias": tuple(f"self_attn.{part}_proj.bias" for part in "qkv"),
    "attn.c_proj.weight": ("self_attn.o_proj.weight",),
    # c_proj(w1(x) * silu(w2(x)))
    "mlp.w1.weight": ("mlp.up_proj.weight",),
    "mlp.w2.weight": ("mlp.gate_proj.weight",),
    "mlp.c_proj.weight": ("mlp.down_proj.weight",),
}
"""Names of Qwen's tensors in a layer, and of the tensors that each is cut into, row by row."""
RECOMPUTED = re.compile(r"\.(rotary_emb\.inv_freq|masked_bias|logn_tensor|registered_causal_mask)$")
"""Buffers in files of early versions, which follow from the config."""
DTYPES_KEPT = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


class Qwen1Shape(BaseModel):
    """What Qwen's config.json says of the computation, with the defaults of QWenConfig.

    Values that Qwen2's layout cannot express do not validate.
    """

    model_type: Literal["qwen"]
    vocab_size: Annotated[int, Field(ge=RANKS + len(SPECIAL_IDS))]
    """Rows of the embeddings: all tokens, and some that are not used."""
    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    intermediate_size: PositiveInt
    """Twice the width of the MLP."""
    seq_length: PositiveInt
    """Tokens from which on the scaling for long texts begins."""
    max_position_embeddings: PositiveInt = 8192
    kv_channels: PositiveInt = 128
    layer_norm_epsilon: PositiveFloat = 1e-6
    initializer_range: float = 0.02
    rotary_emb_base: PositiveFloat = 10_000.0
    use_dynamic_ntk: bool = True
    use_logn_attn: bool = True
    rotary_pct: Literal[1] = 1
    no_bias: Literal[True] = True
    scale_attn_weights: Literal[True] = True
    tie_word_embeddings: Literal[False] = False
    attn_dropout_prob: Literal[0] = 0
    emb_dropout_prob: Literal[0] = 0
    quantization_config: None = None
    visual: None = None
    audio: None = None

    @property
    def context(self) -> int:
        """Return up to how many tokens Qwen2's layout computes what Qwen's code does."""
        scaled = self.use_dynamic_ntk or self.use_logn_attn
        return self.seq_length if scaled else self.max_position_embeddings

    def as_qwen2(self, dtype: torch.dtype, **special_ids: Any) -> Qwen2Config:
        """Return the same shape as Qwen2's config, with `eos_token_id` and `pad_token_id`."""
        return Qwen2Config(
            architectures=["Qwen2ForCausalLM"],
            dtype=dtype,
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size // 2,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_attention_heads,
            max_position_embeddings=self.context,
            rope_parameters={"rope_type": "default", "rope_theta": self.rotary_emb_base},
            rms_norm_eps=self.layer_norm_epsilon,
            initializer_range=self.initializer_range,
            tie_word_embeddings=False,
            **special_ids,
        )


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file, as its header describes it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def shard_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model. Raises UserError if there are none."""
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    if pickled:
        raise UserError(
            f"{folder} has pickled weights alone ({pickled[0]}), and these are not loaded, because"
            " a pickle can run any code. Qwen/Qwen-7B and Qwen/Qwen-14B on the Hub have safetensors"
            " files: convert those."
        )
    raise UserError(f"{folder} has no safetensors weights: is it the whole folder of a model?")


def read_headers(files: list[Path]) -> dict[str, StoredTensor]:
    """Return all tensors of the files by name, without reading their values.

    Raises UserError for a damaged file, and for a name in two files.
    """
    found: dict[str, StoredTensor] = {}
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    part = opened.get_slice(name)
                    if name in found:
                        raise UserError(
                            f"{name} is in {found[name].file.name} and in {file.name}: files of two"
                            " models lie in one folder."
                        )
                    found[name] = StoredTensor(file, part.get_dtype(), tuple(part.get_shape()))
        except SafetensorError as error:
            raise UserError(
                f"{file} is cut off or damaged ({error}): fetch it again, or copy it again."
            ) from None
    return found


def stored_dtype(tensors: Mapping[str, StoredTensor]) -> torch.dtype:
    """Return the one dtype of all tensors. Raises UserError if there are others or several."""
    dtypes = {t.dtype for name, t in tensors.items() if not RECOMPUTED.search(name)}
    if len(dtypes) != 1 or not dtypes <= DTYPES_KEPT.keys():
        raise UserError(
            f"the weights are stored as {', '.join(sorted(dtypes)) or 'nothing'}, and only weights"
            f" that are all {', '.join(DTYPES_KEPT)} can be converted: take the model before it was"
            " quantised."
        )
    return DTYPES_KEPT[dtypes.pop()]


def new_names(name: str) -> tuple[str, ...]:
    """Return Qwen2's names of a tensor of Qwen: three for c_attn, none for what is recomputed.

    Raises KeyError for a tensor that Qwen has not.
    """
    if RECOMPUTED.search(name):
        return ()
    found = LAYER.fullmatch(name)
    if not found:
        return (OUTSIDE_LAYERS[name],)
    return tuple(f"model.layers.{found[1]}.{new}" for new in IN_LAYER[found[2]])


def check_complete(tensors: Mapping[str, StoredTensor], shape: Qwen2Config) -> None:
    """Raise UserError unless the tensors fill exactly the parameters of a model of `shape`."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    problems = []
    for name, tensor in sorted(tensors.items()):
        try:
            names = new_names(name)
        except KeyError:
            problems.append(f"{name} in {tensor.file.name} is no tensor of Qwen.")
            continue
        for new in names:
            expected = wanted.pop(new, None)
            rows = tensor.shape[0] / len(names) if tensor.shape else 0
            if expected != (rows, *tensor.shape[1:]):
                problems.append(
                    f"{name} in {tensor.file.name} has the shape {[*tensor.shape]}, which does not"
                    " fit config.json."
                )
                break
    problems += [f"{name} has no counterpart in the files." for name in sorted(wanted)]
    if problems:
        raise combined_error(problems, "These weights cannot be converted:")


def convert_shards(files: list[Path], target: Path) -> None:
    """Write each file's tensors to a file in `target`, and the index of several files.

    At most one file's tensors are in memory. Values and dtype are kept bit by bit.
    """
    names: dict[str, tuple[str, int]] = {}
    for number, file in enumerate(tqdm(files, desc="converting", unit="file", delay=2), start=1):
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        if len(files) == 1:
            name = "model.safetensors"
        names |= {key: (name, size) for key, size in _convert_shard(file, target / name).items()}
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(size for _, size in names.values())},
            "weight_map": {key: name for key, (name, _) in sorted(names.items())},
        }
        write_json(target / "model.safetensors.index.json", index)


def _convert_shard(file: Path, target: Path) -> dict[str, int]:
    """Write a file's tensors to `target`, and return the bytes of each."""
    tensors = dict(_converted(file))
    save_file(tensors, target, metadata={"format": "pt"})
    return {name: value.nbytes for name, value in tensors.items()}


def _converted(file: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118
            names = new_names(name)
            if not names:
                continue
            parts = opened.get_tensor(name).chunk(len(names))
            # safetensors writes no tensor that shares its memory with another
            yield from zip(names, (part.clone() for part in parts), strict=True)
