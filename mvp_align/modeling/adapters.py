"""LoRA adapters: made, loaded against the right base, saved whole or not at all."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
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
from mvp_align.modeling.fingerprint import own_name, whole
from mvp_align.runtime.atomic import full_disk_explained, move_folder

ADAPTER = "default"
"""PEFT's name for the adapter that is trained, or evaluated."""
REFERENCE = "ref"
"""The name under which TRL's DPOTrainer looks for a frozen reference adapter."""
LINEAR = ("Linear", "Linear4bit", "Conv1D")
"""Classes of layers that carry LoRA here (`Conv1D` is GPT-2's transposed one)."""
HALF = re.compile(r"(\.lora_(?:embedding_)?)([AB])(?=\.)")
"""The two factors of a product, in the names of parameters."""


def start_adapter(base: PreTrainedModel, config: Config) -> PeftModel:
    """The adapter that a run trains: a fresh one from its seed, or the one that `adapter` names."""
    if config.adapter is None:
        return new_adapter(base, config.lora, config.seed)
    any_base = config.adapter_base == "any"
    return load_adapter(base, Path(config.adapter), trainable=True, any_base=any_base)


def new_adapter(base: PreTrainedModel, lora: Lora, seed: int) -> PeftModel:
    """Wrap `base` with a fresh adapter: A random from `seed`, B zero, so that the first step equals
    the base model.

    Seeding here, before PEFT draws A, is what makes two runs of one seed equal
    (huggingface/trl#6688). Raises UserError where the model has no layer of the asked names.
    """
    config = lora_config(base, lora)
    set_seed(seed)
    return get_peft_model(base, config)


def lora_config(base: PreTrainedModel, lora: Lora) -> LoraConfig:
    """Raises UserError where the model has no layer of the asked names."""
    every = lora.target_modules == ["all-linear"]
    if not every:
        _check_targets(base, lora.target_modules)
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT divides it
        lora_dropout=lora.dropout,
        target_modules="all-linear" if every else list(lora.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )


def _check_targets(base: PreTrainedModel, names: list[str]) -> None:
    """Raise UserError for names that fit no linear layer: PEFT passes over those as long as one of
    them fits."""
    layers = [name for name, module in base.named_modules() if type(module).__name__ in LINEAR]
    unknown = [
        name for name in names if not any(f".{layer}".endswith(f".{name}") for layer in layers)
    ]
    if unknown:
        known = sorted({layer.rsplit(".", 1)[-1] for layer in layers} - {"lm_head"})
        raise UserError(
            f"lora.target_modules: {base.name_or_path} has no linear layer {', '.join(unknown)}. It"
            f" has {', '.join(known)}."
        )


def load_adapter(
    base: PreTrainedModel, path: Path, *, trainable: bool = False, any_base: bool = False
) -> PeftModel:
    """Wrap `base` with the adapter in `path`. Without `any_base` it must have been trained on this
    base.

    Raises UserError for a folder without an adapter, a kind that is not computed or not saved here,
    an adapter of another base, one whose tensors do not fit or change the base itself, and, unless
    it is `trainable`, one that changes nothing.
    """
    with _fitting(base, path, "adapter", any_base):
        model = PeftModel.from_pretrained(base, path, is_trainable=trainable)
        _check_tensors(model, path, ADAPTER)
    if trainable and isinstance(base.get_output_embeddings(), BaseTunerLayer):
        raise UserError(
            f"adapter={path} has LoRA on the output head, where training cannot go on (TRL reads"
            f" the head's weight directly). {MERGED.replace('evaluate', 'train on')}"
        )
    if not trainable and changes_nothing(model):
        raise UserError(
            f"adapter={path} changes nothing: each of its products B A is zero, so tuned and base"
            " would be one model. Was it saved before training, or trained without an effect?"
            " Leave adapter out to score the base alone."
        )
    return model


def load_reference(model: PeftModel, path: Path, *, any_base: bool = False) -> None:
    """Put the adapter in `path` beside the trained one, frozen.

    Raises UserError as `load_adapter` does, but for an adapter that changes nothing: the base is a
    reference, too.
    """
    base = model.get_base_model()
    assert isinstance(base, PreTrainedModel)
    with _fitting(base, path, "train.reference", any_base):
        model.load_adapter(str(path), REFERENCE, is_trainable=False)
        _check_tensors(model, path, REFERENCE)
    for module in model.modules():  # TRL switched dropout off before this one came
        if isinstance(module, LoraLayer) and REFERENCE in module.lora_dropout:
            module.lora_dropout[REFERENCE] = nn.Identity()
    model.set_adapter(ADAPTER)


@contextmanager
def _fitting(base: PreTrainedModel, path: Path, setting: str, any_base: bool) -> Iterator[None]:
    """What is checked around PEFT's loading, which says little or nothing of what does not fit, and
    puts whole weights of the base that other tools save beside LoRA (embeddings, mostly) into the
    base itself."""
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
        if torch.equal(weight, before):  # what the file holds has gone into the adapter's own copy
            continue
        weight.data.copy_(before)
        if not _same_rounded(read_tensor(path, key), before):
            raise UserError(
                f"{setting}={path} brings {own_name(key)} whole, and not as {base_id} has it:"
                f" switching the adapter off would not bring the base back. {MERGED}"
            )


def _weights_also_in(
    path: Path, base: PreTrainedModel, setting: str
) -> dict[str, tuple[nn.Parameter, Tensor]]:
    """Of the base's own weights those that the adapter's file holds, too, by their names there,
    each with a copy of what it is now.

    Raises UserError where the file's vocabulary has another size.
    """
    held = shapes(path)
    embedded = base.get_input_embeddings().weight
    assert isinstance(embedded, Tensor)
    rows = int(embedded.shape[0])
    weights = dict(_named_weights(base))
    found = {key: weights[own_name(key)] for key in held if own_name(key) in weights}
    sizes = {held[key][0] for key, weight in found.items() if weight.shape[0] == rows}
    sizes |= {shape[1] for key, shape in held.items() if key.endswith("lora_embedding_A")}
    if sizes - {rows}:
        raise resized_vocabulary(
            f"{setting}={path}", max(sizes - {rows}), str(base.name_or_path), rows
        )
    return {key: (weight, weight.detach().clone()) for key, weight in found.items()}


def _named_weights(base: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return (
        (own_name(name), weight) for name, weight in base.named_parameters(remove_duplicate=False)
    )


def _same_rounded(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal in the lower one of their precisions."""
    return torch.equal(one.to(other.dtype), other) or torch.equal(one, other.to(one.dtype))


def _check_tensors(model: PeftModel, path: Path, name: str) -> None:
    """Raise ValueError where the file lacks a tensor of the adapter or holds one without a
    place."""
    here = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    of_base = {own_name(key) for key, _ in _named_weights(model.get_base_model())}
    found, wanted = shapes(path).keys(), here.keys()
    without_place = {key for key in found - wanted if own_name(key) not in of_base}
    missing = wanted - found
    if missing or without_place:
        raise ValueError(
            f"{len(missing)} tensors are missing, {len(without_place)} have no place in this model,"
            f" such as {min(missing | without_place)}."
        )


def changes_nothing(model: PeftModel, adapter: str = ADAPTER) -> bool:
    """Whether an adapter is of products B A alone, all of which are zero."""
    tensors = {
        name: whole(value) for name, value in model.named_parameters() if adapter in name.split(".")
    }
    zero = {name for name, value in tensors.items() if not value.any()}
    halves = [name for name in tensors if HALF.search(name)]
    return len(halves) == len(tensors) and all({name, _partner(name)} & zero for name in halves)


def _partner(name: str) -> str:
    """The B that belongs to an A, and the other way around."""
    return HALF.sub(lambda found: found[1] + ("B" if found[2] == "A" else "A"), name)


def save_adapter(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, target: Path, *, writes: bool = True
) -> None:
    """Write the trained adapter and the tokenizer to `target`: aside, then renamed, so a
    half-written one never stands.

    Where several processes hold parts of the adapter all must call it, and one of them `writes`.
    Raises UserError where the disk is full; nothing of `target` is touched then.
    """
    trained = {
        name: whole(value) for name, value in model.named_parameters() if ADAPTER in name.split(".")
    }
    if not writes:
        return
    aside = target.with_name(f".{target.name}-writing")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with full_disk_explained(target):
            # Without the last one PEFT asks the Hub whether the base's embeddings were resized;
            # here they never are.
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
