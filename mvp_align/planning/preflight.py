"""Plan a run before the model loads: counts, token lengths, batches, steps, and cost.

`planning.plan_text` prints it before every run; `train.dry_run=true` stops after it.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from mvp_align.config import Config, Evals, Train
from mvp_align.data.disagreements import Disagreements, find_disagreements
from mvp_align.data.load import DataSets
from mvp_align.data.prompts import prompts_sha256, render_prompts
from mvp_align.data.sets import IN_DOMAIN
from mvp_align.data.subsets import draw, drawn_line
from mvp_align.errors import UserError
from mvp_align.evaluation.answer_metrics import check_answerable, needs_answers
from mvp_align.evaluation.eval_sets import EvalSet, make_eval_set
from mvp_align.evaluation.profile_ablation import (
    ProfilePasses,
    profile_passes,
)
from mvp_align.judging.judges import SEMANTIC, read_judge
from mvp_align.metrics.groups import with_region
from mvp_align.metrics.regions import load_regions
from mvp_align.metrics.variables import tags_of
from mvp_align.modeling.adapter_base import check_base
from mvp_align.modeling.adapter_folder import adopt_adapter_lora, read_adapter
from mvp_align.modeling.adapter_tokenizer import tokenizer_notes
from mvp_align.modeling.base import run_quantization
from mvp_align.modeling.hardware import Placement
from mvp_align.modeling.packaged import public_name
from mvp_align.modeling.source import context_length, load_model_config
from mvp_align.planning.prompt_notes import chat_notes
from mvp_align.runtime.recipes import recipe_named
from mvp_align.schema import PreferencePair
from mvp_align.scoring.methods import shape_method
from mvp_align.scoring.tokens import tokenize_pairs
from mvp_align.training.best_checkpoint import check_worst_group
from mvp_align.training.objectives import pooled_groups
from mvp_align.training.plan import Batches, Plan


def make_plan(
    config: Config, data: DataSets, tokenizer: PreTrainedTokenizerBase, placement: Placement
) -> Plan:
    """Plan the run. If the config names an adapter, `config.lora` is set to the adapter's settings.

    Raises UserError if no pair is left, batches do not divide, the limits exceed the model's
    context, the model cannot be scored, its weights are stored in an unsupported format, or an
    adapter is missing, belongs to another model, or is of an unsupported type.
    """
    _check_context(config)
    shape_method(load_model_config(config.model))
    _check_options(config, placement)
    notes = _take_up_adapters(config, tokenizer) + chat_notes(config, data, tokenizer)
    texts = render_prompts(data.train, config.prompt, tokenizer)
    tokenized = tokenize_pairs(texts, tokenizer)
    limits = config.data
    fits = [
        p.prompt_tokens <= limits.max_prompt_tokens and p.longest < limits.max_tokens
        for p in tokenized.pairs
    ]
    kept = [number for number, fit in enumerate(fits) if fit]
    if data.train and not kept:
        raise UserError(
            f"all {len(texts)} training pairs are over data.max_prompt_tokens or data.max_tokens:"
            " raise them."
        )
    batches = disagreements = None
    used = kept
    if kept and recipe_named(config.recipe).trains:
        batches = replace(
            plan_batches(config.train, len(kept), placement.processes),
            checkpointing=config.hardware.gradient_checkpointing is True,
        )
        if config.train.order == "disagreeing":
            disagreements = _disagreements(
                [data.train[number] for number in kept], config.train.batch_size
            )
        used = _reached(kept, batches, config.seed, disagreements)
        if disagreements and len(used) < len(kept):
            disagreements = find_disagreements([data.train[number] for number in used])
    sets = eval_sets(config, data, tokenizer)
    _check_worst_by(config, sets)
    val = _validation_set(config, data, tokenizer)
    val_texts = render_prompts(
        draw(data.val, config.evals.every_pairs, config.seed), config.prompt, tokenizer
    )
    return Plan(
        train=[texts[number] for number in used],
        train_tokens=[tokenized.pairs[number] for number in used],
        train_over_limit=[text.id for text, fit in zip(texts, fits, strict=True) if not fit],
        train_unused=len(kept) - len(used),
        train_merged=tokenized.merged,
        train_groups=_objective_groups(config, [data.train[number] for number in used]),
        eval_sets=sets,
        val_set=val,
        val_texts=[text for text in val_texts if val and text.id in val.groups],
        batches=batches,
        disagreements=disagreements,
        profiles=_profile_checks(config, data, sets, tokenizer),
        drawn=_drawn_lines(config, data, sets),
        notes=notes,
        train_prompts_sha256=prompts_sha256(texts[number] for number in kept),
    )


def _disagreements(pairs: Sequence[PreferencePair], batch_size: int) -> Disagreements:
    """Return which training pairs disagree.

    Raises UserError if none do, or a step cannot hold whole couples.
    """
    if batch_size % 2:
        raise UserError(
            "train.order=disagreeing puts two pairs at a time into a step: make"
            f" train.batch_size={batch_size} even."
        )
    found = find_disagreements(pairs)
    if not found.coupled:
        raise UserError(
            f"train.order=disagreeing: of {len(pairs)} training pairs no two compare the same"
            " answers to the same question and differ. data.counterfactual adds such pairs."
        )
    return found


def _objective_groups(config: Config, pairs: Sequence[PreferencePair]) -> list[str]:
    """Return the groups that `train.objective` weighs the training pairs by, if it has any.

    Raises UserError if the records bring no such variable, or a single group is left.
    """
    if config.train.objective not in ("importance", "gr_dpo") or not pairs:
        return []
    names = config.train.objective_by.split("+")
    tags = with_region([tags_of(pair) for pair in pairs], load_regions(config.evals.regions))
    found = [
        ",".join(tag[name] for name in names) if tag.keys() >= {*names} else None for tag in tags
    ]
    known = sorted({name for tag in tags for name in tag})
    if not any(found):
        raise UserError(
            f"train.objective_by={config.train.objective_by}: no training pair has it. They have"
            f" {', '.join(known) or 'no groups'}."
        )
    groups = pooled_groups(found, [pair.user_id for pair in pairs], config.evals.min_users)
    if len({*groups}) == 1:
        raise UserError(
            f"train.objective_by={config.train.objective_by}: all training pairs are of one group"
            f" ({groups[0]}), so that {config.train.objective} would be mean. Groups of fewer than"
            f" evals.min_users={config.evals.min_users} people are pooled."
        )
    return groups


def _check_options(config: Config, placement: Placement) -> None:
    """Raise UserError for what cannot work with the model's stored weights or on the device."""
    stored = run_quantization(config.model, config.quantization)
    if config.lora.init != "default" and stored != "none" and config.adapter is None:
        raise UserError(
            f"lora.init={config.lora.init} takes each weight apart, and those of {config.model.id}"
            f" are stored in {stored}: leave it out, or use the unquantised model."
        )
    if config.hardware.activation_offloading and placement.device.type == "cpu":
        raise UserError(
            "hardware.activation_offloading=true frees a GPU's memory, and this run computes on a"
            " CPU: leave it out."
        )


def _check_context(config: Config) -> None:
    context, limits = context_length(load_model_config(config.model)), config.data
    if context is not None and limits.max_tokens > context:
        prompts = (
            f" and data.max_prompt_tokens={context // 2}"
            if limits.max_prompt_tokens >= context
            else ""
        )
        raise UserError(
            f"data.max_tokens={limits.max_tokens} is over the {context} tokens that"
            f" model={config.model.name} can take: set data.max_tokens={context}{prompts} or less."
            " Longer pairs are then left out and counted."
        )


def _take_up_adapters(config: Config, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Set `config.lora` to the starting adapter's settings, and return notes on the run's adapters.

    Raises UserError if an adapter is missing, belongs to another model, or is of an unsupported
    type.
    """
    reference = None if config.train.reference == "base" else config.train.reference
    notes = []
    for setting, name in (("adapter", config.adapter), ("train.reference", reference)):
        if name is None:
            continue
        path = Path(name)
        settings = read_adapter(path, setting)
        any_base = config.adapter_base == "any"
        notes += check_base(
            path, settings, public_name(config.model), setting=setting, any_base=any_base
        )
        notes += tokenizer_notes(config.model, path, setting, tokenizer)
    adopt_adapter_lora(config)
    return notes


def eval_sets(config: Config, data: DataSets, tokenizer: PreTrainedTokenizerBase) -> list[EvalSet]:
    pairs = data.by_set
    for name in config.evals.sets:
        if not pairs[name]:
            raise UserError(
                f"evals.sets names {name}, but it has no pairs: set data.test, or leave {name} out."
            )
    limits = {
        "max_prompt_tokens": config.data.max_prompt_tokens,
        "max_tokens": config.data.max_tokens,
    }
    regions = load_regions(config.evals.regions)
    sets = [
        make_eval_set(name, pairs[name], config.prompt, tokenizer, **limits, regions=regions)
        for name in config.evals.sets
    ]
    if needs_answers(config):
        for subject in sets:
            check_answerable(answered_pairs(subject, data, config), tokenizer, config)
        if config.evals.judge not in ("none", SEMANTIC):
            read_judge(config.evals.judge).endpoint.key()
    return sets


def _check_worst_by(config: Config, sets: Sequence[EvalSet]) -> None:
    """Raise UserError if `evals.worst_by` is set to what no pair of the run's sets has."""
    by = config.evals.worst_by
    if by is None or by == Evals.worst_by:  # the default is for data that have it
        return
    tags = [tag for subject in sets for tag in subject.groups.values()]
    if not any(tag.keys() >= {*by.split("+")} for tag in tags):
        known = ", ".join(sorted({name for tag in tags for name in tag})) or "no groups"
        raise UserError(
            f"evals.worst_by={by}: no pair of {', '.join(config.evals.sets)} has it. They have"
            f" {known}."
        )


def answered_pairs(subject: EvalSet, data: DataSets, config: Config) -> list[PreferencePair]:
    """Return the pairs of a set to generate answers for.

    These are the scored pairs, or `generation.limit` of them, drawn at random.
    """
    return draw(scored_pairs(subject, data), config.generation.limit, config.seed)


def scored_pairs(subject: EvalSet, data: DataSets) -> list[PreferencePair]:
    return [pair for pair in data.by_set[subject.name] if pair.id in subject.groups]


def _drawn_lines(config: Config, data: DataSets, sets: Sequence[EvalSet]) -> list[str]:
    """List which sets are only sampled, how much of each is used, and how it was drawn."""
    drawn: dict[str, str] = {}
    if needs_answers(config):
        for subject in sets:
            line = drawn_line(scored_pairs(subject, data), config.generation.limit, config.seed)
            drawn[f"{subject.name}, answers"] = line
    if config.evals.every_steps is not None:
        drawn["val, during training"] = drawn_line(data.val, config.evals.every_pairs, config.seed)
        if needs_answers(config):
            line = drawn_line(data.val, config.generation.every_pairs, config.seed)
            drawn["val, answers during training"] = line
    return [f"{what}: {line}" for what, line in drawn.items() if line]


def answered_data(set_name: str, data: DataSets) -> str:
    """Return the hash of the file that a set's pairs come from.

    Without `data.test`, in-domain pairs are held out of `data.train`.
    """
    own = "test" if "test" in data.read else "train"
    return data.read[own if set_name == IN_DOMAIN else set_name].sha256


def _profile_checks(
    config: Config, data: DataSets, sets: Sequence[EvalSet], tokenizer: PreTrainedTokenizerBase
) -> list[ProfilePasses]:
    """Plan the profile ablation on the scored pairs of each set."""
    return [
        passes
        for subject in sets
        for passes in profile_passes(subject.name, scored_pairs(subject, data), config, tokenizer)
    ]


def _validation_set(
    config: Config, data: DataSets, tokenizer: PreTrainedTokenizerBase
) -> EvalSet | None:
    if config.evals.every_steps is None:
        return None
    if not data.val:
        raise UserError(
            "evals.every_steps scores validation pairs during training: set data.val=PATH."
        )
    subject = make_eval_set(
        IN_DOMAIN,
        draw(data.val, config.evals.every_pairs, config.seed),
        config.prompt,
        tokenizer,
        max_prompt_tokens=config.data.max_prompt_tokens,
        max_tokens=config.data.max_tokens,
        regions=load_regions(config.evals.regions),
    )
    check_worst_group(config, *subject.users_and_tags, available=len(data.val))
    return subject


def plan_batches(train: Train, pairs: int, processes: int) -> Batches:
    micro = (
        train.batch_size // processes
        if isinstance(train.micro_batch_size, str)
        else train.micro_batch_size
    )
    if train.batch_size % (micro * processes or 1) or train.batch_size < processes:
        raise UserError(
            f"train.batch_size={train.batch_size} pairs cannot be shared by {processes} processes"
            f" of train.micro_batch_size={train.micro_batch_size}: make it a multiple of"
            f" {max(micro, 1) * processes}."
        )
    steps = train.max_steps or math.ceil(math.ceil(pairs / train.batch_size) * train.epochs)
    return Batches(
        train.batch_size, micro, train.batch_size // (micro * processes), processes, steps
    )


def _reached(
    numbers: list[int], batches: Batches, seed: int, disagreements: Disagreements | None
) -> list[int]:
    """Return the pairs that a run of less than one epoch trains on, drawn by the seed.

    The others need no reference log-probs. Pairs that disagree are drawn together.
    """
    reach = batches.steps * batches.effective
    if reach >= len(numbers):
        return numbers
    if disagreements:
        return sorted(numbers[place] for place in disagreements.order(seed, 0)[:reach])
    return sorted(np.random.default_rng(seed).choice(numbers, reach, replace=False).tolist())
