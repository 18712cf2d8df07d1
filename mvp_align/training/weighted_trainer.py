"""Our DPO trainer with a weight per pair, by an `Objective`.

TRL has none (huggingface/trl#5613). Its loss of a pass is a mean of the pairs' losses, so the
gradient of the weighted loss is TRL's with that of each pair's log-probs times the pair's weight.
The weights of a step depend on the losses of all its pairs, in every process: a pass without
gradients over the step's micro-batches comes first.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather
from datasets import Dataset
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from mvp_align.training.forward import PAIR_WEIGHTS
from mvp_align.training.objectives import Objective, pair_losses
from mvp_align.training.pair_trainer import Inputs, PairTrainer

GROUP = "group"
"""Column of the training pairs, and key of a micro-batch: the number of the pair's group."""
LOSSES = "pair_losses"
"""Key of a micro-batch: losses [pairs], nats, before the step."""


class WeightedTrainer(PairTrainer):
    """Constructed like PairTrainer. `objective` is set before training."""

    objective: Objective

    def weigh(self, objective: Objective, groups: Sequence[str]) -> None:
        """Train by `objective`; `groups` are those of the training pairs, in order, or empty.

        Call it once, before training and before `precompute_reference`.
        """
        self.objective = objective
        assert isinstance(self.train_dataset, Dataset)
        number = {name: place for place, name in enumerate(objective.groups)}
        column = [number[name] for name in groups] or [0] * len(self.train_dataset)
        self.train_dataset = self.train_dataset.add_column(GROUP, column)
        self.data_collator = partial(_collate_with_groups, self.data_collator)
        self.add_callback(_Restore(self))

    @override
    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()  # type: ignore[no-untyped-call]
        columns: Any = self._signature_columns
        self._signature_columns = [*dict.fromkeys([*columns, GROUP])]  # type: ignore[assignment]

    @override
    def get_batch_samples(
        self, epoch_iterator: Iterator[Inputs], num_batches: int, device: torch.device
    ) -> tuple[list[Inputs], Tensor | int | None]:
        """Return the micro-batches of one optimizer step, with their pairs' weights."""
        micro_batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if micro_batches:
            self._add_weights(micro_batches)
        return micro_batches, items

    def _add_weights(self, micro_batches: list[Inputs]) -> None:
        losses = [self._losses(batch) for batch in micro_batches]
        groups = torch.cat([batch.pop(GROUP) for batch in micro_batches])
        # accelerate deals equally many pairs to every process
        weights = self.objective.step(gather(torch.cat(losses)), gather(groups))
        first = self.accelerator.process_index * len(groups)
        own = weights[first : first + len(groups)].float().to(groups.device)
        for batch, part, loss in zip(
            micro_batches, own.split([len(one) for one in losses]), losses, strict=True
        ):
            batch[PAIR_WEIGHTS], batch[LOSSES] = part, loss
        for key, value in self.objective.logged.items():
            self._metrics["train"][key].append(value)

    def _losses(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the losses [pairs] of a micro-batch, without gradients."""
        assert isinstance(self.model, nn.Module)
        self.model.train()
        answers = batch["completion_mask"][:, 1:].sum(1)
        inputs = {
            key: value
            for key, value in batch.items()
            if key not in ("completion_mask", "ref_chosen_logps", "ref_rejected_logps", GROUP)
        }
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = self.model_wrapped(
                **inputs, use_cache=False, labels=labels, fused_lm_head=True
            )
        chosen, rejected = outputs.log_probs.sum(1).chunk(2)
        ratios = chosen - batch["ref_chosen_logps"], rejected - batch["ref_rejected_logps"]
        lengths = answers.clamp(min=1).chunk(2)
        means = [ratio / length for ratio, length in zip(ratios, lengths, strict=True)]
        margins, mean_margins = ratios[0] - ratios[1], means[0] - means[1]
        weight = self.loss_weights[0]
        return weight * pair_losses(self.loss_types[0], margins, mean_margins, self.beta)

    @override
    def compute_loss(
        self,
        model: nn.Module,
        inputs: Inputs,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return TRL's loss, with weighted gradients and the weighted value.

        Evaluations are not weighted.
        """
        losses = inputs.pop(LOSSES, None)
        loss = super().compute_loss(  # type: ignore[no-untyped-call]
            model, inputs, return_outputs, num_items_in_batch
        )
        if losses is None:
            return loss
        return loss + ((inputs[PAIR_WEIGHTS] - 1) * losses).mean()


def _collate_with_groups(
    collate: Callable[..., Any], examples: list[dict[str, Any]]
) -> dict[str, Any]:
    """Collate, and keep the pairs' groups, which TRL's collator leaves out."""
    batch: dict[str, Any] = collate(examples)
    if GROUP in examples[0]:  # not in validation pairs
        batch[GROUP] = torch.tensor([example[GROUP] for example in examples])
    return batch


class _Restore(TrainerCallback):
    """Give a resumed run's objective its state back, from the last logged step."""

    def __init__(self, trainer: WeightedTrainer) -> None:
        self.trainer = trainer

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        wanted = self.trainer.objective.logged.keys()
        for entry in reversed(state.log_history):
            if wanted and wanted <= entry.keys():
                self.trainer.objective.restore(entry)
                return
