"""LoRA adapters: made, loaded against the right base, saved whole or not at all."""

import json
import shutil
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from mvp_align.config import Lora
from mvp_align.errors import UserError

WEIGHTS = "adapter_model.safetensors"


def new_adapter(base: PreTrainedModel, lora: Lora, seed: int) -> PeftModel:
    """Wrap `base` with a fresh adapter: A random from `seed`, B zero, so that the first step equals the base model.

    Seeding here, before PEFT draws A, is what makes two runs of one seed equal (huggingface/trl#6688).
    Raises UserError where the model has no layer of the asked names.
    """
    set_seed(seed)
    targets: str | list[str] = "all-linear" if lora.target_modules == ["all-linear"] else list(lora.target_modules)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(base, config)
    except ValueError as error:
        linear = sorted({name.rsplit(".", 1)[-1] for name, m in base.named_modules() if "Linear" in type(m).__name__})
        raise UserError(
            f"lora.target_modules={targets}: {base.name_or_path} has no such layers. Its linear layers: {', '.join(linear)}."
        ) from error


def load_adapter(base: PreTrainedModel, path: Path, *, trainable: bool = False) -> PeftModel:
    """Wrap `base` with the adapter in `path`.

    Raises UserError for a folder without an adapter, an adapter of another base, and one whose shapes do not fit.
    """
    check_adapter(path, str(base.name_or_path))
    try:
        return PeftModel.from_pretrained(base, path, is_trainable=trainable)
    except (RuntimeError, ValueError, SafetensorError) as error:
        text = " ".join(str(error).split())[:300]
        raise UserError(f"adapter={path} does not fit {base.name_or_path}: {text}") from error


def check_adapter(path: Path, base_id: str) -> None:
    config_file = path / "adapter_config.json"
    if not config_file.is_file() or not (path / WEIGHTS).is_file():
        raise UserError(
            f"adapter={path}: no adapter there (adapter_config.json and {WEIGHTS} are needed). "
            "A run keeps its adapter in outputs/<run>/adapter."
        )
    try:
        made_for = json.loads(config_file.read_text("utf-8")).get("base_model_name_or_path")
    except ValueError as error:
        raise UserError(
            f"adapter={path}: adapter_config.json is not JSON ({error}). Copy the adapter again."
        ) from error
    if made_for and Path(made_for).name.lower() != Path(base_id).name.lower():  # a local copy keeps the last part
        raise UserError(
            f"adapter={path} was trained on {made_for}, but the model is {base_id}: choose the model it was trained on "
            "(model=... or model.id=...)."
        )


def save_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, target: Path) -> None:
    """Write the trained adapter and the tokenizer to `target`: aside, then renamed, so a half-written one never stands.

    Raises OSError where the disk is full; nothing of `target` is touched then.
    """
    aside = target.with_name(f".{target.name}-writing")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        model.save_pretrained(str(aside), selected_adapters=["default"], safe_serialization=True)
        tokenizer.save_pretrained(aside)
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
