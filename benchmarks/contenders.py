"""The trainers that are compared, and the jobs that they get: same pairs, seed and batch."""

from collections.abc import Sequence
from typing import Any

from benchmarks.rival_trainers import Job
from mvp_align.config import Config
from mvp_align.schema import PromptedPair

OURS, TRL, TRL_PRECOMPUTED = "mvp-align", "TRL", "TRL, reference precomputed"
TRL_LIGER, UNSLOTH = "TRL with Liger kernels", "Unsloth with TRL"
EPOCHS = 3
"""As in the paper."""
RIVALS: dict[str, dict[str, bool]] = {
    TRL: {},
    TRL_PRECOMPUTED: {"precomputed": True},
    TRL_LIGER: {"liger": True},
    UNSLOTH: {"unsloth": True},
}
"""Each with what is particular to its job."""


def rival_job(
    rival: str,
    config: Config,
    folder: str,
    texts: Sequence[PromptedPair],
    dtype: str,
    tries: Sequence[tuple[int, bool]],
    **more: Any,
) -> Job:
    """Return the job that trains as `config` says, on the model in `folder`.

    `dtype` is torch's name for the base's precision; `tries` are pairs a pass, and checkpointing.
    """
    train, lora = config.train, config.lora
    every = lora.target_modules == ["all-linear"]
    return Job(
        model=folder,
        dtype=dtype,
        pairs=[
            {"prompt": text.prompt, "chosen": text.chosen, "rejected": text.rejected}
            for text in texts
        ],
        lora={
            "r": lora.r,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "target_modules": "all-linear" if every else list(lora.target_modules),
            "bias": "none",
        },
        arguments={
            "seed": config.seed,
            "data_seed": config.seed,
            "beta": train.beta,
            "loss_type": train.loss_type.split("+"),
            "learning_rate": train.learning_rate,
            "lr_scheduler_type": train.lr_scheduler,
            "warmup_steps": train.warmup_share,
            "weight_decay": train.weight_decay,
            "max_grad_norm": train.max_grad_norm,
            "num_train_epochs": train.epochs,
            "max_steps": train.max_steps or -1,
        },
        batch=train.batch_size,
        tries=list(tries),
        four_bit=config.quantization == "4bit",
        adapter=config.adapter,
        **RIVALS[rival],
        **more,
    )
