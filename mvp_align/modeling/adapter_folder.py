"""Read and check an adapter's folder before any model is loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from mvp_align.config import Config, Lora
from mvp_align.errors import UserError

if TYPE_CHECKING:  # `launch` reads settings before it loads torch
    from torch import Tensor

SETTINGS = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

Settings = dict[str, Any]
"""Content of adapter_config.json."""

COMPUTED = frozenset(
    {
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "fan_in_fan_out",
        "use_rslora",
        "use_dora",
        "lora_bias",
        "modules_to_save",
        "trainable_token_indices",
        "target_parameters",
        "ensure_weight_tying",
        "init_lora_weights",
        "eva_config",
    }
)
"""Settings that we support (tests/modeling tests each one).

Scoring applies them, disabling the adapter undoes them, and saving keeps them.
"""
SAY_NOTHING = frozenset({
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path",
    "revision", "inference_mode",
    "megatron_core", "runtime_config", "qalora_group_size", "loftq_config",
})  # fmt: skip
"""Settings without an effect of their own: provenance, or options of other settings."""
HARMLESS_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` for which PEFT leaves the base's own weights unchanged."""
IN_THE_INPUT = frozenset({
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE",
    "ADAPTION_PROMPT",
})  # fmt: skip
"""Adapter types that act on the model's input. No weights hold them, so they cannot be merged."""
MERGED = (
    "Fold it into its base with PEFT (`merge_and_unload()`, then `save_pretrained` of model and"
    " tokenizer) and evaluate that folder as model.id."
)


def read_adapter(path: Path, setting: str = "adapter") -> Settings:
    """Return the settings of the adapter in `path`. `setting` is its name in the config.

    Raises UserError if the folder holds no adapter, or a type that we cannot score or save.
    """
    settings = _read_settings(path, setting)
    problem = _kind_problem(settings)
    if problem:
        raise UserError(f"{setting}={path} {problem}")
    return settings


def _read_settings(path: Path, setting: str = "adapter") -> Settings:
    """Read adapter_config.json. Raises UserError if the folder holds no adapter."""
    config_file = path / SETTINGS
    if not config_file.is_file() or not (path / WEIGHTS).is_file():
        raise UserError(
            f"{setting}={path}: no adapter there ({SETTINGS} and {WEIGHTS} are needed). "
            "A run keeps its adapter in outputs/<run>/adapter."
        )
    try:
        settings = json.loads(config_file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(
            f"{setting}={path}: {SETTINGS} is not JSON ({error}). Copy the adapter again."
        ) from error
    if not isinstance(settings, dict):
        raise UserError(f"{setting}={path}: {SETTINGS} holds no object. Copy the adapter again.")
    return settings


def _kind_problem(settings: Settings) -> str | None:
    """Return why we would score this adapter wrongly or save part of it, and a remedy; or None."""
    kind = str(settings.get("peft_type") or "")
    if not kind:
        return f"names no peft_type in its {SETTINGS}. Copy the adapter again."
    if kind in IN_THE_INPUT:
        return (
            f"is an adapter of kind {kind}. It acts on what the model reads, which scoring here"
            " would pass over, and it cannot be merged: only LoRA adapters are taken."
        )
    if kind != "LORA":
        return f"is an adapter of kind {kind}, and only LoRA adapters are taken. {MERGED}"
    start = settings.get("init_lora_weights", True)
    if (start.lower() if isinstance(start, str) else start) not in HARMLESS_STARTS:
        return (
            f"was started by init_lora_weights={start}, which changes the base's own weights, so"
            " that switching it off does not bring the base back. Save it anew as plain LoRA"
            " (PEFT: `save_pretrained(..., path_initial_model_for_weight_conversion=FOLDER)`). Or:"
            f" {MERGED}"
        )
    if settings.get("bias", "none") != "none":
        return (
            f"trains the base's own biases (bias={settings['bias']}), which stay when it is"
            f" switched off. {MERGED} Where "
            f'its file holds no biases, as of LLaMA, set "bias": "none" in its {SETTINGS}.'
        )
    unknown = sorted(set(settings) - set(known_defaults()) - SAY_NOTHING)
    unknown = [name for name in unknown if settings[name]]
    if unknown:
        return (
            f"uses settings that the installed PEFT does not know: {', '.join(unknown)}. It was"
            f" written by PEFT {settings.get('peft_version', '(a newer one)')}: install that"
            f" version, or: {MERGED}"
        )
    defaults = known_defaults()
    others = sorted(set(settings) - COMPUTED - SAY_NOTHING - {"bias"})
    used = [name for name in others if (settings[name] or None) != (defaults[name] or None)]
    if used:
        shown = ", ".join(f"{name}={settings[name]}" for name in used)
        return f"uses {shown}, which is not computed here. {MERGED}"
    return None


def known_defaults() -> Mapping[str, Any]:
    from peft import LoraConfig  # imported here, because `launch` must not load torch

    defaults: dict[str, Any] = LoraConfig().to_dict()
    return defaults


def _lora_of(settings: Settings) -> Lora:
    """Return the adapter's settings as a `Lora` config. Raises KeyError if one is missing."""
    named = settings.get("target_modules") or []
    return Lora(
        r=settings["r"],
        alpha=settings["lora_alpha"],
        dropout=settings["lora_dropout"],
        target_modules=[named] if isinstance(named, str) else sorted(named),
        rank_pattern=settings.get("rank_pattern") or {},
        alpha_pattern=settings.get("alpha_pattern") or {},
        use_rslora=bool(settings.get("use_rslora")),
        use_dora=bool(settings.get("use_dora")),
    )


def adopt_adapter_lora(config: Config) -> None:
    """Set `config.lora` to the settings of the adapter that `config` names, for the run's records.

    An unreadable adapter is ignored here; `read_adapter` reports it.
    """
    if config.adapter is None:
        return
    try:
        config.lora = _lora_of(_read_settings(Path(config.adapter)))
    except (UserError, KeyError):
        return


def recorded_settings(settings: Settings) -> dict[str, Any]:
    """Return what a run records of its adapter.

    That is base, rank, alpha, dropout and targets, plus every setting that differs from PEFT's
    default.
    """
    defaults = known_defaults()
    basics = ("base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "target_modules")
    more = (
        name
        for name in sorted(COMPUTED)
        if (settings.get(name) or None) != (defaults[name] or None)
    )
    found = {name: settings[name] for name in dict.fromkeys((*basics, *more)) if name in settings}
    return {
        name: sorted(value) if isinstance(value, set) else value for name, value in found.items()
    }


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in the adapter's file.

    Raises SafetensorError if the file is truncated.
    """
    with safe_open(path / WEIGHTS, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_tensor(path: Path, key: str) -> "Tensor":
    with safe_open(path / WEIGHTS, "pt") as file:
        tensor: Tensor = file.get_tensor(key)
    return tensor


def resized_vocabulary(adapter: str, tokens: int, base_id: str, rows: int) -> UserError:
    """Build the error for an adapter that was trained with a resized vocabulary.

    `adapter` is the setting with its value, `tokens` the vocabulary size in training, and `rows`
    the size of the base's embeddings.
    """
    return UserError(
        f"{adapter} was trained with a vocabulary of {tokens} tokens, and {base_id} has {rows}:"
        " tokens were added before training. Make the model that it belongs to once: load the base"
        f" with transformers, `resize_token_embeddings({tokens})`, put the adapter on it with PEFT,"
        " `merge_and_unload()`, `save_pretrained` model and tokenizer, and set model.id to that"
        " folder."
    )
