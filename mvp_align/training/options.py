"""Options of TRL's losses and PEFT's adapters that cannot work in a config, found without torch."""

import re

from mvp_align.config import Config, Train
from mvp_align.runtime.recipes import recipe_named
from mvp_align.training.losses import (
    PAIR_LOSSES,
    SORTING_LOSSES,
    losses_with_divergence,
    trl_losses,
)

PISSA = re.compile(r"pissa(_niter_\d+)?")
"""What PEFT calls an adapter that starts as each weight's principal part."""


def loss_problems(config: Config) -> list[str]:
    """Return what is wrong with the losses, and which of their options cannot go together."""
    train = config.train
    losses, known = train.loss_type.split("+"), trl_losses()
    problems = [
        f"train.loss_type: '{loss}' is not one of {', '.join(known)}."
        for loss in losses
        if loss not in known
    ]
    if train.loss_weights is not None and len(train.loss_weights) != len(losses):
        problems.append(
            f"train.loss_weights has {len(train.loss_weights)} weights for {len(losses)} losses in "
            f"train.loss_type={train.loss_type}: give one each."
        )
    if "exo_pair" in losses and train.label_smoothing == 0:
        problems.append(
            "train.loss_type=exo_pair needs train.label_smoothing above 0 (its paper recommends"
            " 1e-3)."
        )
    smoothed = [name for name, formula in known.items() if "self.label_smoothing" in formula]
    if (
        recipe_named(config.recipe).trains_on == "pairs"
        and 0 < train.label_smoothing < 1
        and not {*losses} & {*smoothed}
    ):
        problems.append(
            f"train.label_smoothing={train.label_smoothing} would change nothing: of the losses"
            f" only {', '.join(smoothed)} have it. train.loss_type=robust is sigmoid with label"
            " smoothing."
        )
    return [
        *problems,
        *_objective_problems(train),
        *_divergence_problems(train, losses),
        *_weighting_problems(train, losses),
    ]


def _objective_problems(train: Train) -> list[str]:
    if train.objective == "mean":
        return []
    if train.loss_type not in PAIR_LOSSES:
        return [
            f"train.objective={train.objective} weighs pairs by their own losses, which"
            f" train.loss_type={train.loss_type} does not have here: use {', '.join(PAIR_LOSSES)}."
        ]
    default = Train()
    return [
        f"train.objective={train.objective} weighs pairs by their losses, which are not computed"
        f" here with {name}={getattr(train, name.partition('.')[2])}: leave out either."
        for name in ("train.f_divergence_type", "train.ld_alpha", "train.use_weighting")
        if getattr(train, name.partition(".")[2]) != getattr(default, name.partition(".")[2])
    ]


def _divergence_problems(train: Train, losses: list[str]) -> list[str]:
    problems = []
    taken = [*losses_with_divergence(), "sft"]
    others = [loss for loss in losses if loss in trl_losses() and loss not in taken]
    if train.f_divergence_type != "reverse_kl" and others:
        problems.append(
            f"train.f_divergence_type={train.f_divergence_type} does not go with"
            f" {', '.join(others)}, which is defined for reverse_kl alone: use"
            f" {', '.join(losses_with_divergence())}, or leave it out."
        )
    if not 0 < train.f_alpha_divergence_coef < 1:
        problems.append(
            f"train.f_alpha_divergence_coef={train.f_alpha_divergence_coef}: must lie between 0 and"
            " 1."
        )
    return problems


def _weighting_problems(train: Train, losses: list[str]) -> list[str]:
    sorting = [loss for loss in losses if loss in SORTING_LOSSES]
    if not train.use_weighting or not sorting:
        return []
    return [
        f"train.use_weighting=true does not go with train.loss_type={sorting[0]}, which sorts the"
        " pairs of a pass, so that their weights would fall on others: leave out either."
    ]


def adapter_option_problems(config: Config) -> list[str]:
    """Return which options of the adapter, its optimizer and its memory cannot work."""
    lora, train, hardware = config.lora, config.train, config.hardware
    problems = []
    if lora.init != "default" and not PISSA.fullmatch(lora.init):
        problems.append(
            f"lora.init={lora.init}: must be one of default, pissa, pissa_niter_N (a number of"
            " iterations)."
        )
    elif lora.init != "default":
        problems += _pissa_problems(config)
    ratio = train.loraplus_lr_ratio
    if ratio is not None and not ratio > 1:
        problems.append(
            f"train.loraplus_lr_ratio={ratio}: must be above 1, which would be plain LoRA."
        )
    if ratio is not None and hardware.sharding != "none":
        problems.append(
            "train.loraplus_lr_ratio needs an optimizer of its own, which does not go with"
            f" hardware.sharding={hardware.sharding}: leave out either."
        )
    if hardware.activation_offloading:
        problems += _offloading_problems(config)
    return problems


def _pissa_problems(config: Config) -> list[str]:
    problems = []
    if config.quantization == "4bit":
        problems.append(
            f"lora.init={config.lora.init} takes each weight apart, which quantization=4bit has"
            " rounded: leave out either."
        )
    if config.hardware.sharding != "none":
        problems.append(
            f"lora.init={config.lora.init} holds half of the adapter at its start, which"
            f" hardware.sharding={config.hardware.sharding} would take apart: leave out either."
        )
    if config.train.weight_decay > 0:
        problems.append(
            f"train.weight_decay={config.train.weight_decay} would also shrink the half of the"
            f" adapter that lora.init={config.lora.init} holds at its start, and so move the model:"
            " leave out either."
        )
    return problems


def _offloading_problems(config: Config) -> list[str]:
    hardware = config.hardware
    problems = []
    if hardware.device == "cpu":
        problems.append(
            "hardware.activation_offloading=true frees a GPU's memory, and hardware.device=cpu has"
            " none: leave it out."
        )
    if hardware.sharding != "none":
        problems.append(
            "hardware.activation_offloading=true was never tried with"
            f" hardware.sharding={hardware.sharding}: leave out either."
        )
    if hardware.compile:
        problems.append(
            "hardware.activation_offloading=true was never tried with hardware.compile=true: leave"
            " out either."
        )
    return problems
