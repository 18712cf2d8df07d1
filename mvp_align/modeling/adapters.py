"""Create, load and save LoRA adapters, with checks that they fit their base."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from mvp_align.config import Config, Lora
from mvp_align.errors import UserError
from mvp_align.modeling.adapter_base import check_base, confirm_base
from mvp_align.modeling.adapter_folder import (
    MERGED,
    WEIGHTS,
    read_adapter,
    read_tensor,
    resized_vocabulary,
    shapes,
)
from mvp_align.modeling.fingerprint import gather_shards, unwrapped_name
from mvp_align.modeling.fused_lora import fuse_adapters
from mvp_align.modeling.pissa import principal_config, start_at_principal_part
from mvp_align.runtime.atomic import full_disk_explained, move_folder

ADAPTER = "default"
"""PEFT's name for the adapter that we train or evaluate."""
REFERENCE = "ref"
"""Name under which TRL's DPOTrainer looks for a frozen reference adapter."""
LINEAR = ("Linear", "Linear4bit", "Conv1D")
"""Layer classes that LoRA can wrap here (`Conv1D` is GPT-2's transposed linear layer)."""
HALF = re.compile(r"(\.lora_(?:embedding_)?)([AB])(?=\.)")
"""Matches the factors A and B in parameter names."""


def start_adapter(base: PreTrainedModel, config: Config) -> PeftModel:
    """Return the adapter to train: the one in `config.adapter`, or a new one from the seed."""
    if config.adapter is None:
        return new_adapter(base, config.lora, config.seed)
    any_base = config.adapter_base == "any"
    return load_adapter(base, Path(config.adapter), trainable=True, any_base=any_base)


def new_adapter(base: PreTrainedModel, lora: Lora, seed: int) -> PeftModel:
    """Wrap `base` with a new adapter that starts by `lora.init`: A random from `seed`, B zero, or
    as the principal part of each weight.

    The adapted model starts out equal to the base either way. PEFT draws from the global random
    state, so we seed it here to make runs with one seed equal (huggingface/trl#6688). Raises the
    same errors as `lora_config`.
    """
    config = lora_config(base, lora)
    set_seed(seed)
    model: PeftModel = get_peft_model(base, config)
    if lora.init != "default":
        start_at_principal_part(model, ADAPTER, lora.init)
    fuse_adapters(model)
    return model


def lora_config(base: PreTrainedModel, lora: Lora) -> LoraConfig:
    """Return PEFT's config. Raises UserError if the model lacks one of the target layers, or if a
    pattern names none of them."""
    every = lora.target_modules == ["all-linear"]
    if not every:
        _check_targets(base, lora.target_modules)
    _check_patterns(base, lora)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT divides it
        lora_dropout=lora.dropout,
        target_modules="all-linear" if every else list(lora.target_modules),
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return config if lora.init == "default" else principal_config(config)


def _check_targets(base: PreTrainedModel, names: list[str]) -> None:
    """Raise UserError for names that match no linear layer.

    PEFT ignores such names as long as another one matches.
    """
    layers = _linear_layers(base)
    unknown = [name for name in names if not any(_named_by(name, layer) for layer in layers)]
    if unknown:
        known = sorted({layer.rsplit(".", 1)[-1] for layer in layers} - {"lm_head"})
        raise UserError(
            f"lora.target_modules: {base.name_or_path} has no linear layer {', '.join(unknown)}. It"
            f" has {', '.join(known)}."
        )


def _linear_layers(base: nn.Module) -> list[str]:
    return [name for name, module in base.named_modules() if type(module).__name__ in LINEAR]


def _named_by(name: str, layer: str) -> bool:
    return f".{layer}".endswith(f".{name}")


def _check_patterns(base: PreTrainedModel, lora: Lora) -> None:
    """Raise UserError for a pattern of ranks or alphas that decides for no adapted layer.

    PEFT ignores such a pattern. Of several that match a layer, it takes the first.
    """
    every = lora.target_modules == ["all-linear"]
    adapted = [
        layer
        for layer in _linear_layers(base)
        if every or any(_named_by(name, layer) for name in lora.target_modules)
    ]
    for setting in ("rank_pattern", "alpha_pattern"):
        patterns = list(getattr(lora, setting))
        try:
            used = {get_pattern_key(patterns, layer) for layer in adapted}
        except re.error as error:
            raise UserError(
                f"lora.{setting}: a name is no regular expression ({error}). Names of layers, or"
                " ends of them, are enough: {v_proj: 8}."
            ) from error
        unused = [name for name in patterns if name not in used]
        if unused:
            known = sorted({layer.rsplit(".", 1)[-1] for layer in adapted})
            raise UserError(
                f"lora.{setting}: {', '.join(unused)} would change nothing: no adapted layer has"
                f" that name, or an earlier pattern has it. They are {', '.join(known)}."
            )


def load_adapter(
    base: PreTrainedModel, path: Path, *, trainable: bool = False, any_base: bool = False
) -> PeftModel:
    """Wrap `base` with the adapter in `path`, which must have been trained on it unless `any_base`.

    Raises UserError if the folder holds no adapter, if the adapter is of a type that we cannot
    score or save, if it was trained on another base, or if its tensors do not fit or would change
    the base itself. Unless `trainable`, also raises UserError if the adapter changes nothing.
    """
    with _fitting(base, path, "adapter", any_base):
        model = PeftModel.from_pretrained(base, path, is_trainable=trainable)
        _check_tensors(model, path, ADAPTER)
        fuse_adapters(model)
    if trainable and isinstance(base.get_output_embeddings(), BaseTunerLayer):
        raise UserError(
            f"adapter={path} has LoRA on the output head, where training cannot go on (TRL reads"
            f" the head's weight directly). {MERGED.replace('evaluate', 'train on')}"
        )
    if not trainable and has_no_effect(model):
        raise UserError(
            f"adapter={path} changes nothing: each of its products B A is zero, so tuned and base"
            " would be one model. Was it saved before training, or trained without an effect?"
            " Leave adapter out to score the base alone."
        )
    return model


def load_reference(model: PeftModel, path: Path, *, any_base: bool = False) -> None:
    """Load the adapter in `path` next to the trained one, frozen.

    Raises the same errors as `load_adapter`, but accepts an adapter that changes nothing, because
    it is equal to the base, which is a valid reference.
    """
    base = model.get_base_model()
    assert isinstance(base, PreTrainedModel)
    with _fitting(base, path, "train.reference", any_base):
        model.load_adapter(str(path), REFERENCE, is_trainable=False)
        _check_tensors(model, path, REFERENCE)
    for module in model.modules():  # TRL disabled dropout before this adapter was loaded
        if isinstance(module, LoraLayer) and REFERENCE in module.lora_dropout:
            module.lora_dropout[REFERENCE] = nn.Identity()
    model.set_adapter(ADAPTER)


@contextmanager
def _fitting(base: PreTrainedModel, path: Path, setting: str, any_base: bool) -> Iterator[None]:
    """Check an adapter before and after PEFT loads it.

    PEFT reports little of what does not fit. It also copies whole base weights that other tools
    save next to LoRA (mostly embeddings) into the base itself, which this undoes.
    """
    base_id = str(base.name_or_path)
    settings = read_adapter(path, setting)
    check_base(path, settings, base_id, setting=setting, any_base=any_base)
    if not any_base:
        confirm_base(path, settings, base, setting)
    try:
        kept = _weights_also_in(path, base, setting)
        yield
    except SafetensorError as error:
        raise UserError(
            f"{setting}={path} does not fit: {WEIGHTS} is cut off. Copy the adapter again."
        ) from error
    except (RuntimeError, ValueError, KeyError, TypeError, IndexError) as error:
        text = " ".join(str(error).split())[:300].rstrip(".")
        raise UserError(
            f"{setting}={path} does not fit {base_id}: {text}. Choose the model it was trained on"
            " (model.id), or, where tensors are missing, copy the adapter again."
        ) from error
    for key, (weight, before) in kept.items():
        if torch.equal(weight, before):  # PEFT loaded the file's tensor into the adapter's own copy
            continue
        weight.data.copy_(before)
        if not _same_rounded(read_tensor(path, key), before):
            raise UserError(
                f"{setting}={path} brings {unwrapped_name(key)} whole, and not as {base_id} has it:"
                f" switching the adapter off would not bring the base back. {MERGED}"
            )


def _weights_also_in(
    path: Path, base: PreTrainedModel, setting: str
) -> dict[str, tuple[nn.Parameter, Tensor]]:
    """Return the base weights that the adapter's file also holds, by their names in the file.

    Each comes with a copy of its current value. Raises UserError if the file's vocabulary size
    differs.
    """
    held = shapes(path)
    embedded = base.get_input_embeddings().weight
    assert isinstance(embedded, Tensor)
    rows = int(embedded.shape[0])
    weights = dict(_named_weights(base))
    found = {key: weights[unwrapped_name(key)] for key in held if unwrapped_name(key) in weights}
    sizes = {held[key][0] for key, weight in found.items() if weight.shape[0] == rows}
    sizes |= {shape[1] for key, shape in held.items() if key.endswith("lora_embedding_A")}
    if sizes - {rows}:
        raise resized_vocabulary(
            f"{setting}={path}", max(sizes - {rows}), str(base.name_or_path), rows
        )
    return {key: (weight, weight.detach().clone()) for key, weight in found.items()}


def _named_weights(base: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return (
        (unwrapped_name(name), weight)
        for name, weight in base.named_parameters(remove_duplicate=False)
    )


def _same_rounded(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal in the lower of their precisions."""
    return torch.equal(one.to(other.dtype), other) or torch.equal(one, other.to(one.dtype))


def _check_tensors(model: PeftModel, path: Path, name: str) -> None:
    """Raise ValueError if the file lacks a tensor of the adapter or holds one that fits nowhere."""
    here = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    of_base = {unwrapped_name(key) for key, _ in _named_weights(model.get_base_model())}
    found, wanted = shapes(path).keys(), here.keys()
    without_place = {key for key in found - wanted if unwrapped_name(key) not in of_base}
    missing = wanted - found
    if missing or without_place:
        raise ValueError(
            f"{len(missing)} tensors are missing, {len(without_place)} have no place in this model,"
            f" such as {min(missing | without_place)}."
        )


def has_no_effect(model: PeftModel, adapter: str = ADAPTER) -> bool:
    """Return whether an adapter consists of products B A only, and all of them are zero."""
    tensors = {
        name: gather_shards(value)
        for name, value in model.named_parameters()
        if adapter in name.split(".")
    }
    zero = {name for name, value in tensors.items() if not value.any()}
    halves = [name for name in tensors if HALF.search(name)]
    return len(halves) == len(tensors) and all({name, _partner(name)} & zero for name in halves)


def _partner(name: str) -> str:
    """Return the name of the B that belongs to an A, or of the A that belongs to a B."""
    return HALF.sub(lambda found: found[1] + ("B" if found[2] == "A" else "A"), name)


def save_adapter(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, target: Path, *, writes: bool = True
) -> None:
    """Write the trained adapter and the tokenizer to `target`.

    They go to a temporary folder that is then renamed, so `target` is never half-written. If
    several processes hold parts of the adapter, all must call this, and exactly one `writes`.
    Raises UserError if the disk is full; `target` is unchanged then.
    """
    trained = {
        name: gather_shards(value)
        for name, value in model.named_parameters()
        if ADAPTER in name.split(".")
    }
    if not writes:
        return
    aside = target.with_name(f".{target.name}-writing")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with full_disk_explained(target):
            # Without save_embedding_layers=False, PEFT asks the Hub whether the embeddings were
            # resized. We never resize them.
            model.save_pretrained(
                str(aside),
                state_dict=trained,
                selected_adapters=[ADAPTER],
                save_embedding_layers=False,
            )
            tokenizer.save_pretrained(aside)
            move_folder(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
