"""Combinations of settings that cannot work, found from config and environment alone, before data
or a model is touched."""

import math
from dataclasses import asdict, fields, is_dataclass
from importlib.util import find_spec

from mvp_align.config import Config, Prompt
from mvp_align.data.formats import AUTO_FORMAT, FORMATS
from mvp_align.data.histories import history_problems
from mvp_align.data.licences import text_problems
from mvp_align.data.profiles import KINDS
from mvp_align.data.prompts import prompt_problems
from mvp_align.data.recognition import may_be_conversations
from mvp_align.data.sets import set_problems
from mvp_align.generation.api_model import api_problems
from mvp_align.modeling.launcher import launcher_problems
from mvp_align.runtime.recipes import recipe_named
from mvp_align.tracking.tracker import BACKENDS
from mvp_align.tracking.variables import trackio_problems, wandb_problems
from mvp_align.training.best_checkpoint import best_problems
from mvp_align.training.bounds import bound_problems
from mvp_align.training.options import adapter_option_problems, loss_problems


def _declared_choices(settings: object, prefix: str = "") -> dict[str, tuple[str, ...]]:
    """The choices that stand beside the fields of `mvp_align.config`, by dotted key."""
    found: dict[str, tuple[str, ...]] = {}
    for one in fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, one.name)
        if is_dataclass(value):
            found |= _declared_choices(value, f"{prefix}{one.name}.")
        elif "choices" in one.metadata:
            found[f"{prefix}{one.name}"] = one.metadata["choices"]
    return found


CHOICES: dict[str, tuple[str, ...]] = {
    "data.format": (AUTO_FORMAT, *FORMATS),
    "evals.profiles": KINDS,
    "tracking.backend": (*BACKENDS, "none"),
    **_declared_choices(Config()),
}
"""What a setting, or each entry of a list, can be, where it is one of a few words."""


def combination_problems(config: Config) -> list[str]:
    """Every reason why this config cannot run, each with what to do; empty where it can."""
    problems = [
        *_choice_problems(config),
        *_range_problems(config),
        *_training_problems(config),
        *loss_problems(config),
        *adapter_option_problems(config),
        *best_problems(config),
        *bound_problems(config),
        *_data_problems(config),
        *_prompt_problems(config),
        *api_problems(config),
        *_tracking_problems(config),
        *variable_problems(config),
    ]
    told = {problem.partition("=")[0] for problem in problems}
    return problems + [
        text for key, text in _number_problems("", asdict(config)) if key not in told
    ]


def _choice_problems(config: Config) -> list[str]:
    problems = []
    for key, choices in CHOICES.items():
        value: object = config
        for part in key.split("."):
            value = getattr(value, part)
        if isinstance(value, list):
            problems += [
                f"{key}: '{one}' is not one of {', '.join(choices)}."
                for one in value
                if one not in choices
            ]
        elif value not in choices:
            problems.append(f"{key}={value}: must be one of {', '.join(choices)}.")
    return problems + set_problems(config)


def _number_problems(key: str, value: object) -> list[tuple[str, str]]:
    """Every number that is NaN or infinite, with its key: comparisons with NaN are false, whichever
    way they are put."""
    if isinstance(value, dict):
        return [
            problem
            for name, part in value.items()
            for problem in _number_problems(f"{key}.{name}", part)
        ]
    if isinstance(value, list | tuple):
        return [
            problem
            for place, part in enumerate(value)
            for problem in _number_problems(f"{key}[{place}]", part)
        ]
    if isinstance(value, float) and not math.isfinite(value):
        name = key.removeprefix(".")
        return [(name, f"{name}={value}: must be a finite number.")]
    return []


def _range_problems(config: Config) -> list[str]:
    train, lora, data = config.train, config.lora, config.data
    positive = {
        "train.learning_rate": train.learning_rate, "train.epochs": train.epochs,
        "train.max_steps": train.max_steps,
        "train.batch_size": train.batch_size, "train.beta": train.beta,
        "train.objective_eta": train.objective_eta, "train.objective_tau": train.objective_tau,
        "train.discopop_tau": train.discopop_tau,
        "train.max_grad_norm": train.max_grad_norm,
        "train.save_steps": train.save_steps, "lora.r": lora.r, "lora.alpha": lora.alpha,
        **{f"lora.rank_pattern.{name}": rank for name, rank in lora.rank_pattern.items()},
        **{f"lora.alpha_pattern.{name}": alpha for name, alpha in lora.alpha_pattern.items()},
        "data.limit": data.limit,
        "data.max_prompt_tokens": data.max_prompt_tokens, "data.max_tokens": data.max_tokens,
        "evals.batch_size": config.evals.batch_size, "evals.every_steps": config.evals.every_steps,
        "evals.every_pairs": config.evals.every_pairs, "evals.min_users": config.evals.min_users,
        "generation.max_new_tokens": config.generation.max_new_tokens,
        "generation.batch_size": config.generation.batch_size,
        "generation.limit": config.generation.limit,
        "generation.every_pairs": config.generation.every_pairs,
    }  # fmt: skip
    problems = [
        f"{key}={value}: must be above 0."
        for key, value in positive.items()
        if value is not None and not value > 0  # nan is not
    ]
    for key, value in (
        ("train.weight_decay", train.weight_decay),
        ("generation.temperature", config.generation.temperature),
    ):
        if not value >= 0:
            problems.append(f"{key}={value}: must be 0 or above.")
    shares = {
        "lora.dropout": lora.dropout, "train.label_smoothing": train.label_smoothing,
        "train.warmup_share": train.warmup_share, "train.ld_alpha": train.ld_alpha,
    }  # fmt: skip
    problems += [
        f"{key}={value}: must be from 0 up to 1."
        for key, value in shares.items()
        if value is not None and not 0 <= value < 1
    ]
    if not 0 < data.test_share < 1:
        problems.append(f"data.test_share={data.test_share}: must lie between 0 and 1.")
    if data.max_prompt_tokens >= data.max_tokens:
        problems.append(
            f"data.max_prompt_tokens={data.max_prompt_tokens} leaves no room for an answer in "
            f"data.max_tokens={data.max_tokens}: lower the one, or raise the other."
        )
    return problems


def _training_problems(config: Config) -> list[str]:
    train = config.train
    problems = []
    micro = train.micro_batch_size
    if isinstance(micro, str) and micro != "auto":
        problems.append(
            f"train.micro_batch_size={micro}: must be a whole number of pairs, or auto."
        )
    if isinstance(micro, int) and micro > 0 and train.batch_size % micro:
        problems.append(
            f"train.batch_size={train.batch_size} is not a multiple of"
            f" train.micro_batch_size={micro}: change either."
        )
    if isinstance(micro, int) and micro <= 0:
        problems.append(f"train.micro_batch_size={micro}: must be above 0, or auto.")
    checkpointing = config.hardware.gradient_checkpointing
    if isinstance(checkpointing, str) and checkpointing != "auto":
        problems.append(
            f"hardware.gradient_checkpointing={checkpointing}: must be true, false or auto."
        )
    workers = config.hardware.loader_workers
    if workers != "auto" and (isinstance(workers, str) or workers < 0):
        problems.append(
            f"hardware.loader_workers={workers}: must be a number of processes, or auto."
        )
    recipe = recipe_named(config.recipe)
    if recipe.trains and not recipe.reference and train.reference != "base":
        problems.append(
            f"train.reference has no meaning for recipe={config.recipe}: leave it out, or use"
            " recipe=lora_dpo."
        )
    if (
        recipe.trains_on == "chosen"
        and config.evals.every_steps
        and "in_domain" not in config.evals.sets
    ):
        problems.append("evals.every_steps scores in_domain during training: add it to evals.sets.")
    if (
        recipe.trains
        and config.hardware.sharding == "fsdp"
        and {"spmr", "paa"} & {*config.evals.metrics}
    ):
        problems.append(
            "evals.metrics: a model that hardware.sharding=fsdp has spread over devices cannot"
            " generate. Leave spmr and paa out, and use `mvp-align generate RUN` or evaluate.py"
            " afterwards."
        )
    if "lm_head" in config.lora.target_modules:
        problems.append(
            "lora.target_modules: lm_head cannot carry an adapter here (TRL reads its weight"
            " directly)."
        )
    if not config.lora.target_modules:
        problems.append("lora.target_modules is empty: name linear layers, or [all-linear].")
    if "all-linear" in config.lora.target_modules and len(config.lora.target_modules) > 1:
        problems.append("lora.target_modules: all-linear stands alone; leave the other names out.")
    return problems


def _data_problems(config: Config) -> list[str]:
    data, hardware = config.data, config.hardware
    problems = []
    trains = recipe_named(config.recipe).trains
    if trains and data.train is None:
        problems.append(
            "data.train is not set: data=files data.train=PATH data.test=PATH data.format=FORMAT."
        )
    if not trains and "in_domain" in config.evals.sets and data.test is None and data.train is None:
        problems.append(
            "data.test is not set: data=files data.test=PATH data.format=FORMAT, or"
            " evals.sets=[ufp4] evals.ufp4=FOLDER."
        )
    if hardware.device == "cpu" and hardware.precision == "fp16":
        problems.append(
            "hardware.precision=fp16 needs a GPU: use fp32 or auto with hardware.device=cpu."
        )
    if hardware.device == "cpu" and hardware.attention == "flash_attention_2":
        problems.append(
            "hardware.attention=flash_attention_2 needs a GPU: use auto or sdpa with"
            " hardware.device=cpu."
        )
    if hardware.attention == "flash_attention_2" and hardware.precision == "fp32":
        problems.append(
            "hardware.attention=flash_attention_2 needs bf16 or fp16: change hardware.precision."
        )
    if hardware.compile and hardware.sharding != "none":
        problems.append(
            f"hardware.compile=true does not go with hardware.sharding={hardware.sharding}: leave"
            " out either."
        )
    if hardware.sharding == "zero2" and find_spec("deepspeed") is None:
        problems.append(
            "hardware.sharding=zero2 needs a package that is not installed: pip install deepspeed"
        )
    if hardware.sharding == "zero2" and hardware.precision == "fp16":
        problems.append(
            "hardware.sharding=zero2 computes in bf16 or fp32: change hardware.precision."
        )
    return problems


def _prompt_problems(config: Config) -> list[str]:
    prompts = {"prompt": config.prompt, "generation.prompt": config.generation.prompt}
    problems = [
        problem for key, prompt in prompts.items() for problem in prompt_problems(key, prompt)
    ]
    as_chat = may_be_conversations(config.data.format) or any(
        prompt.chat for prompt in prompts.values()
    )
    if config.prompt.date != Prompt.date and not as_chat:
        problems.append(
            f"prompt.date={config.prompt.date} is for chat templates: set prompt=chat, or leave it"
            " out."
        )
    return problems + history_problems(config)


def _tracking_problems(config: Config) -> list[str]:
    tracking = config.tracking
    problems = (
        [f"tracking.samples={tracking.samples}: must be 0 or above."]
        if tracking.samples < 0
        else []
    )
    if tracking.backend in ("tensorboard", "trackio") and find_spec(tracking.backend) is None:
        problems.append(
            f"tracking.backend={tracking.backend} needs a package that is not installed: pip"
            f" install {tracking.backend}"
        )
    return problems + text_problems(config)


def variable_problems(config: Config) -> list[str]:
    """Every variable that contradicts a setting or that cannot be obeyed, with what to do; empty
    where there is none."""
    tracking = config.tracking
    problems = launcher_problems(config.hardware, dry_run=config.train.dry_run)
    if tracking.backend == "wandb":
        problems += wandb_problems(tracking)
    if tracking.backend == "trackio":
        problems += trackio_problems(tracking)
    return problems
