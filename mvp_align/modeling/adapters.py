"""LoRA adapters: made, loaded against the right base, saved whole or not at all."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from mvp_align.atomic import full_disk_explained, move_folder
from mvp_align.config import Lora
from mvp_align.errors import UserError

WEIGHTS = "adapter_model.safetensors"
ADAPTER = "default"
"""PEFT's name for the adapter that is trained, or evaluated."""
REFERENCE = "ref"
"""The name under which TRL's DPOTrainer looks for a frozen reference adapter."""
LINEAR = ("Linear", "Linear4bit", "Conv1D")
"""Classes of layers that carry LoRA here (`Conv1D` is GPT-2's transposed one)."""


def new_adapter(base: PreTrainedModel, lora: Lora, seed: int) -> PeftModel:
    """Wrap `base` with a fresh adapter: A random from `seed`, B zero, so that the first step equals the base model.

    Seeding here, before PEFT draws A, is what makes two runs of one seed equal (huggingface/trl#6688).
    Raises UserError where the model has no layer of the asked names.
    """
    config = lora_config(base, lora)
    set_seed(seed)
    return get_peft_model(base, config)


def lora_config(base: PreTrainedModel, lora: Lora) -> LoraConfig:
    """Raises UserError where the model has no layer of the asked names."""
    every = lora.target_modules == ["all-linear"]
    if not every:
        check_targets(base, lora.target_modules)
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if every else list(lora.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )


def check_targets(base: PreTrainedModel, names: list[str]) -> None:
    """Raise UserError for names that fit no linear layer: PEFT passes over those as long as one of them fits."""
    layers = [name for name, module in base.named_modules() if type(module).__name__ in LINEAR]
    unknown = [name for name in names if not any(f".{layer}".endswith(f".{name}") for layer in layers)]
    if unknown:
        known = sorted({layer.rsplit(".", 1)[-1] for layer in layers} - {"lm_head"})
        raise UserError(
            f"lora.target_modules: {base.name_or_path} has no linear layer {', '.join(unknown)}. It has {', '.join(known)}."
        )


def load_adapter(base: PreTrainedModel, path: Path, *, trainable: bool = False) -> PeftModel:
    """Wrap `base` with the adapter in `path`.

    Raises UserError for a folder without an adapter, an adapter of another base, and one whose tensors do not fit.
    """
    check_adapter(path, str(base.name_or_path))
    with misfits_explained(path, str(base.name_or_path)):
        model = PeftModel.from_pretrained(base, path, is_trainable=trainable)
        check_tensors(model, path, ADAPTER)
        return model


def load_reference(model: PeftModel, path: Path) -> None:
    """Put the adapter in `path` beside the trained one, frozen.

    Raises UserError as `load_adapter` does.
    """
    base_id = str(model.get_base_model().name_or_path)
    check_adapter(path, base_id)
    with misfits_explained(path, base_id):
        model.load_adapter(str(path), REFERENCE, is_trainable=False)
        check_tensors(model, path, REFERENCE)
    for module in model.modules():  # TRL switched dropout off before this one came
        if isinstance(module, LoraLayer) and REFERENCE in module.lora_dropout:
            module.lora_dropout[REFERENCE] = nn.Identity()
    model.set_adapter(ADAPTER)


@contextmanager
def misfits_explained(path: Path, base_id: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        text = " ".join(str(error).split())[:300]
        raise UserError(
            f"adapter={path} does not fit {base_id}: {text} Copy the adapter again, or choose the model it was trained on."
        ) from error


def check_tensors(model: PeftModel, path: Path, name: str) -> None:
    """Raise ValueError where the file lacks a LoRA tensor or holds one without a place: PEFT only warns, or says nothing."""
    with safe_open(path / WEIGHTS, "pt") as file:
        there = file.keys()
    here = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    found, wanted = ({key for key in keys if "lora_" in key} for keys in (there, here))
    if found != wanted:
        raise ValueError(
            f"{len(wanted - found)} tensors are missing, {len(found - wanted)} have no place in this model, "
            f"such as {min(found ^ wanted)}."
        )


def check_adapter(path: Path, base_id: str) -> None:
    config_file = path / "adapter_config.json"
    if not config_file.is_file() or not (path / WEIGHTS).is_file():
        raise UserError(
            f"adapter={path}: no adapter there (adapter_config.json and {WEIGHTS} are needed). "
            "A run keeps its adapter in outputs/<run>/adapter."
        )
    try:
        settings = json.loads(config_file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(
            f"adapter={path}: adapter_config.json is not JSON ({error}). Copy the adapter again."
        ) from error
    if not isinstance(settings, dict):
        raise UserError(f"adapter={path}: adapter_config.json holds no object. Copy the adapter again.")
    made_for = settings.get("base_model_name_or_path")
    if made_for and Path(made_for).name.lower() != Path(base_id).name.lower():  # a local copy keeps the last part
        raise UserError(
            f"adapter={path} was trained on {made_for}, but the model is {base_id}: choose the model it was trained on "
            "(model=... or model.id=...)."
        )


def save_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, target: Path, *, writes: bool = True) -> None:
    """Write the trained adapter and the tokenizer to `target`: aside, then renamed, so a half-written one never stands.

    Where several processes hold parts of the adapter all must call it, and one of them `writes`.
    Raises UserError where the disk is full; nothing of `target` is touched then.
    """
    trained = {name: whole(value) for name, value in model.named_parameters() if f".{ADAPTER}." in name}
    if not writes:
        return
    aside = target.with_name(f".{target.name}-writing")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with full_disk_explained(target):
            # Without the last one PEFT asks the Hub whether the base's embeddings were resized; here they never are.
            model.save_pretrained(
                str(aside), state_dict=trained, selected_adapters=[ADAPTER], save_embedding_layers=False
            )
            tokenizer.save_pretrained(aside)
            move_folder(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def whole(tensor: Tensor) -> Tensor:
    """`tensor`, put together from the parts that FSDP has given to several processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
