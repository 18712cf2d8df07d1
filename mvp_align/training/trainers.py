"""TRL's trainers from the config: every training argument that this project sets.

Losses and metrics are TRL's. Text goes in (`prompt`, `chosen`, `rejected`); TRL tokenises prompt
and answer together and appends EOS. What a chat template wrote goes in as token ids. `max_length`
is None, because pairs over the limits were already left out and counted, so nothing is truncated
here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, disable_progress_bars
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from torch.optim import Optimizer
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import DPOConfig, SFTConfig, SFTTrainer

from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.modeling.adapters import REFERENCE, load_reference
from mvp_align.modeling.hardware import Placement
from mvp_align.schema import PromptedPair
from mvp_align.scoring.identity import logp_cache
from mvp_align.scoring.tokens import tokenize_pairs
from mvp_align.training.best_checkpoint import log_name, lower_is_better
from mvp_align.training.callbacks import FirstLoss, Progress
from mvp_align.training.divergence_guard import DivergenceGuard
from mvp_align.training.objectives import Objective
from mvp_align.training.pair_trainer import PairTrainer
from mvp_align.training.plan import Batches, Plan
from mvp_align.training.resumable import Resumable, ResumeCallback, StopInEvaluation
from mvp_align.training.weighted_trainer import WeightedTrainer


class AnswerTrainer(DivergenceGuard, Resumable, SFTTrainer):
    """TRL's SFTTrainer that can be stopped and resumed."""


@dataclass(frozen=True, slots=True)
class TrainerParts:
    """Everything a trainer is made of. The folder `logps` keeps log-probs of references."""

    config: Config
    plan: Plan
    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    placement: Placement
    checkpoints: Path
    logps: Path
    callbacks: Sequence[TrainerCallback] = ()


def dpo_trainer(parts: TrainerParts, trainer_class: type[PairTrainer] = PairTrainer) -> PairTrainer:
    """Return TRL's DPOTrainer on the plan's training pairs, with reference log-probs precomputed.

    The reference is the base model, with the adapter switched off, or the adapter in
    `train.reference`; never a silent copy of the adapter that training starts from
    (hiyouga/LLaMA-Factory#8459). A `trainer_class` of your own has a loss of your own.
    """
    config, plan, model = parts.config, parts.plan, parts.model
    progress = _make_progress_callback(plan)
    if config.train.objective != "mean":
        if trainer_class is not PairTrainer:
            raise UserError(
                f"train.objective={config.train.objective}: this recipe has a loss of its own"
                f" ({trainer_class.__name__}), and its pairs cannot be weighted."
            )
        trainer_class = WeightedTrainer
    args = dpo_arguments(config, plan, parts.placement, parts.checkpoints)
    with _unrounded(model):
        trainer = trainer_class(
            model=model,
            args=args,
            optimizers=(_loraplus(model, args, config), None),
            train_dataset=_preference_dataset(plan.train, parts.tokenizer),
            eval_dataset=(
                _preference_dataset(plan.val_texts, parts.tokenizer) if plan.val_texts else None
            ),
            processing_class=parts.tokenizer,
            callbacks=[*parts.callbacks, progress],
        )
    trainer.disagreements = plan.disagreements
    if isinstance(trainer, WeightedTrainer):
        train = config.train
        trainer.weigh(
            Objective.of_groups(
                train.objective, plan.train_groups, train.objective_eta, train.objective_tau
            ),
            plan.train_groups,
        )
    _finish_callbacks(trainer)
    if starts_at_ln2(config) and trainer_class is PairTrainer:
        weight = trainer.router_aux_loss_coef if trainer.aux_loss_enabled else 0.0
        trainer.add_callback(FirstLoss(parts.placement.precision == "fp32", weight))
    if REFERENCE in model.peft_config:  # TRL's copy of the starting adapter
        model.delete_adapter(REFERENCE)
    reference = None if config.train.reference == "base" else REFERENCE
    if reference:
        load_reference(model, Path(config.train.reference), any_base=config.adapter_base == "any")
    cache = logp_cache(model, parts.logps, reference)
    trainer.precompute_reference(model, reference, batch_size=config.evals.batch_size, cache=cache)
    return trainer


def dpo_arguments(config: Config, plan: Plan, placement: Placement, checkpoints: Path) -> DPOConfig:
    return DPOConfig(
        **_shared_arguments(config, plan, placement, checkpoints),
        beta=config.train.beta,
        loss_type=config.train.loss_type.split("+"),
        loss_weights=config.train.loss_weights,
        label_smoothing=config.train.label_smoothing,
        f_divergence_type=config.train.f_divergence_type,
        f_alpha_divergence_coef=config.train.f_alpha_divergence_coef,
        ld_alpha=config.train.ld_alpha,
        use_weighting=config.train.use_weighting,
        discopop_tau=config.train.discopop_tau,
        disable_dropout=config.train.disable_dropout,
        max_length=None,
    )


def sft_trainer(parts: TrainerParts) -> AnswerTrainer:
    """Return TRL's SFTTrainer on the chosen answers, with the loss on answer tokens only."""
    plan = parts.plan
    args = SFTConfig(
        **_shared_arguments(parts.config, plan, parts.placement, parts.checkpoints),
        completion_only_loss=True,
        max_length=None,
    )
    progress = _make_progress_callback(plan)
    with _unrounded(parts.model):
        trainer = AnswerTrainer(
            model=parts.model,
            args=args,
            optimizers=(_loraplus(parts.model, args, parts.config), None),
            train_dataset=_completion_dataset(plan.train, parts.tokenizer),
            eval_dataset=(
                _completion_dataset(plan.val_texts, parts.tokenizer) if plan.val_texts else None
            ),
            processing_class=parts.tokenizer,
            callbacks=[*parts.callbacks, progress],
        )
    _finish_callbacks(trainer)
    return trainer


def _loraplus(model: PeftModel, args: TrainingArguments, config: Config) -> Optimizer | None:
    """Return PEFT's optimizer with a learning rate of its own for B, or None for the Trainer's.

    PEFT's defaults would decay no weight, and train adapters of embeddings at 1e-6. They follow
    `train.weight_decay` and `train.learning_rate`.
    """
    ratio = config.train.loraplus_lr_ratio
    if ratio is None:
        return None
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(args)
    return create_loraplus_optimizer(
        model,
        kind,
        loraplus_lr_ratio=ratio,
        loraplus_lr_embedding=args.learning_rate,
        loraplus_weight_decay=args.weight_decay,
        **settings,
    )


def _finish_callbacks(trainer: Resumable) -> None:
    trainer.remove_callback(PrinterCallback)  # the progress bar shows the same in one line
    trainer.add_callback(StopInEvaluation())
    trainer.add_callback(ResumeCallback(trainer))


@contextmanager
def _unrounded(model: PeftModel) -> Iterator[None]:
    """Undo TRL's rounding of a 4-bit model's adapter to bf16.

    PEFT loads an adapter in fp32, as in a resumed run, and scores depend on the precision. CPUs
    multiply bf16 some hundred times slower. And a run that starts from an adapter would start from
    a rounded one.
    """
    kept = [
        (parameter, parameter.data) for parameter in model.parameters() if parameter.requires_grad
    ]
    yield
    for parameter, data in kept:
        parameter.data = data.float()


def _shared_arguments(
    config: Config, plan: Plan, placement: Placement, checkpoints: Path
) -> dict[str, Any]:
    assert plan.batches is not None
    batches = plan.batches
    disable_progress_bars()  # of TRL's tokenisation, which takes a moment
    train, evals = config.train, config.evals
    return {
        "output_dir": str(checkpoints),
        "seed": config.seed,
        "data_seed": config.seed,
        "learning_rate": train.learning_rate,
        "num_train_epochs": train.epochs,
        # If the plan holds part of an epoch, `num_train_epochs` would be a share of that part.
        "max_steps": batches.steps if plan.train_unused else train.max_steps or -1,
        "per_device_train_batch_size": batches.micro,
        "per_device_eval_batch_size": max(1, evals.batch_size // 2),
        "gradient_accumulation_steps": batches.accumulation,
        "lr_scheduler_type": train.lr_scheduler,
        "warmup_steps": train.warmup_share,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "activation_offloading": config.hardware.activation_offloading,
        "bf16": placement.precision == "bf16",
        "fp16": placement.precision == "fp16",
        "use_cpu": placement.device.type == "cpu",
        **_loading(config, placement),
        **_sharding(config, batches, placement),
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a non-finite loss must be visible
        "eval_strategy": "no" if evals.every_steps is None else "steps",
        "eval_steps": evals.every_steps,
        "metric_for_best_model": log_name(train.best_by) if train.best_by else None,
        "greater_is_better": not lower_is_better(train.best_by) if train.best_by else None,
        "save_strategy": "steps",
        "save_steps": train.save_steps,
        "disable_tqdm": True,
        "report_to": "none",
    }


def _loading(config: Config, placement: Placement) -> dict[str, Any]:
    """Return the Trainer's arguments on how micro-batches reach the device."""
    on_gpu, workers = placement.device.type == "cuda", config.hardware.loader_workers
    number = int(on_gpu) if workers == "auto" else int(workers)
    return {
        "dataloader_num_workers": number,
        "dataloader_persistent_workers": number > 0,
        "dataloader_pin_memory": on_gpu,
        "accelerator_config": {"non_blocking": on_gpu},
    }


def _sharding(config: Config, batches: Batches, placement: Placement) -> dict[str, Any]:
    """Return the Trainer's sharding arguments.

    FSDP2 wraps each decoder layer. We do not use its activation checkpointing, because it renames
    the layers, and PEFT would save nothing.

    With `bf16` among its settings, DeepSpeed would round the adapter, and the Trainer the reference
    log-probs. We use DeepSpeed's autocast instead, which matches a single process.
    """
    shared = {"gradient_checkpointing": batches.checkpointing}
    if config.hardware.sharding == "fsdp":
        return {**shared, "fsdp": True, "fsdp_config": {"version": 2}}
    if config.hardware.sharding == "zero2":
        return {**shared, "bf16": False, "deepspeed": _zero2_settings(config, batches, placement)}
    return shared


def _zero2_settings(config: Config, batches: Batches, placement: Placement) -> dict[str, Any]:
    """Return DeepSpeed's settings, derived from the run's.

    They name no optimizer, so DeepSpeed uses the Trainer's (torch's AdamW). An empty
    `lower_precision_safe_modules` keeps gradients in fp32 while they travel between processes.
    """
    autocast = {"enabled": True, "dtype": str(placement.dtype), "lower_precision_safe_modules": []}
    return {
        "zero_optimization": {"stage": 2},
        "train_micro_batch_size_per_gpu": batches.micro,
        "gradient_accumulation_steps": batches.accumulation,
        "train_batch_size": batches.effective,
        "gradient_clipping": config.train.max_grad_norm,
        **({} if placement.precision == "fp32" else {"torch_autocast": autocast}),
    }


def starts_at_ln2(config: Config) -> bool:
    """Return whether the first loss must be ln 2.

    It must with one plain sigmoid loss and a policy that starts as its reference. No f-divergence
    and no `ld_alpha` changes that; WPO multiplies it.
    """
    train = config.train
    starts_as_reference = train.reference == ("base" if config.adapter is None else config.adapter)
    plain = train.label_smoothing == 0 and not train.use_weighting
    return train.loss_type == "sigmoid" and plain and starts_as_reference


def _make_progress_callback(plan: Plan) -> Progress:
    assert plan.batches is not None
    tokens = [len(pair.chosen.ids) + len(pair.rejected.ids) for pair in plan.train_tokens]
    return Progress(plan.batches.effective, sum(tokens) / len(tokens))


def pair_dataset(pairs: Sequence[PromptedPair]) -> Dataset:
    return Dataset.from_list(
        [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs]
    )


def _preference_dataset(
    pairs: Sequence[PromptedPair], tokenizer: PreTrainedTokenizerBase
) -> Dataset:
    """Return rows for TRL's DPOTrainer: texts, or token ids of what a chat template wrote, to which
    TRL would append a second end of turn."""
    if not any(pair.turns for pair in pairs):
        return pair_dataset(pairs)
    return Dataset.from_list(
        [
            {
                "prompt_ids": pair.chosen.ids[: pair.chosen.start],
                "chosen_ids": pair.chosen.ids[pair.chosen.start :],
                "rejected_ids": pair.rejected.ids[pair.rejected.start :],
            }
            for pair in tokenize_pairs(pairs, tokenizer).pairs
        ]
    )


def _completion_dataset(
    pairs: Sequence[PromptedPair], tokenizer: PreTrainedTokenizerBase
) -> Dataset:
    """Return rows for TRL's SFTTrainer: texts or, alike, token ids."""
    if not any(pair.turns for pair in pairs):
        return Dataset.from_list([{"prompt": p.prompt, "completion": p.chosen} for p in pairs])
    answers = [pair.chosen for pair in tokenize_pairs(pairs, tokenizer).pairs]
    return Dataset.from_list(
        [
            {
                "input_ids": answer.ids,
                "completion_mask": [0] * answer.start + [1] * answer.tokens,
            }
            for answer in answers
        ]
    )
