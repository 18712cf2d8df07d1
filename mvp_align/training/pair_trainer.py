"""TRL's DPOTrainer without repeated work.

The forward pass, the reference log-probs and the order of pairs within a step are ours. Losses,
metrics and optimisation are TRL's.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer
from trl import DPOTrainer
from trl.trainer.utils import use_adapter
from typing_extensions import override

from mvp_align.data.disagreements import Disagreements
from mvp_align.scoring.cache import LogpCache
from mvp_align.scoring.logps import causal_model, score_pairs
from mvp_align.scoring.tokens import Answer, TokenizedPair, to_common_length
from mvp_align.training.collator import PackingCollator
from mvp_align.training.divergence_guard import DivergenceGuard
from mvp_align.training.forward import share_prompts
from mvp_align.training.resumable import Resumable

BATCH_LOSSES = frozenset({"aot", "aot_unpaired", "bco_pair", "sft"})
"""Losses that depend on the micro-batch as a whole, and so on which pairs share one.

The load-balancing loss of a mixture of experts does, too.
"""

Inputs = dict[str, Tensor]


class PairTrainer(DivergenceGuard, Resumable, DPOTrainer):
    """Constructed like DPOTrainer.

    Call `precompute_reference` before training to score references once.
    """

    disagreements: Disagreements | None = None
    """If set, which training pairs disagree: they are put into the same steps."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert isinstance(self.model, nn.Module)
        causal = causal_model(self.model)
        packed = share_prompts(causal)
        if packed:
            self.data_collator = PackingCollator(self.data_collator, causal.config)
        of_the_batch = self.aux_loss_enabled or not BATCH_LOSSES.isdisjoint(self.loss_types)
        self.regroups = not packed and not of_the_batch

    def precompute_reference(
        self,
        model: PeftModel,
        adapter: str | None,
        *,
        batch_size: int,
        cache: LogpCache | None = None,
    ) -> None:
        """Score every training and validation pair under the reference once, before training.
        The reference is the base model or its frozen `adapter`. The sums (nats) go into the columns
        that TRL's own precomputation would fill.

        With `ld_alpha`, an answer's sum is ld_alpha times that of all its tokens plus 1 - ld_alpha
        times that of the tokens within the pair's shorter length, which no later token changes
        (LD-DPO: Liu et al. 2024, arXiv 2409.06411, equation 10). If a prompt's only token merges
        with the answer's first, that token is not scored, as in TRL.
        """

        def sums(pairs: Sequence[TokenizedPair], label: str) -> Tensor:
            scores = score_pairs(model, pairs, batch_size=batch_size, label=label, cache=cache)
            return torch.tensor(
                [[s.chosen_logp, s.rejected_logp] for s in scores], dtype=torch.float64
            )

        def scored(dataset: Dataset, label: str) -> Dataset:
            pairs = _tokenized(dataset)
            found, alpha = sums(pairs, f"reference, {label}"), self.ld_alpha
            if alpha is not None:
                cut = [to_common_length(pair) for pair in pairs]
                common = sums(cut, f"reference, {label}, to the shorter answer's length")
                found = alpha * found + (1 - alpha) * common
            chosen, rejected = found.T.tolist()
            return dataset.add_column("ref_chosen_logps", chosen).add_column(
                "ref_rejected_logps", rejected
            )

        with use_adapter(model, adapter):
            self.train_dataset = scored(self.train_dataset, "training pairs")
            if self.eval_dataset is not None:
                self.eval_dataset = scored(self.eval_dataset, "validation pairs")
        self.precompute_ref_logps = True

    @override
    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        """Tokenise rows of text; rows of token ids are taken as they are."""
        if "prompt_ids" in dataset.column_names:
            return dataset
        return super()._prepare_dataset(dataset, *args)

    @override
    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        if self.disagreements is None:
            sampler: Sampler[int] | None = super()._get_train_sampler(train_dataset)
            return sampler
        return DisagreeingSampler(self.disagreements, self)

    @override
    def get_batch_samples(
        self, epoch_iterator: Iterator[Inputs], num_batches: int, device: torch.device
    ) -> tuple[list[Inputs], Tensor | int | None]:
        """Return the micro-batches of one optimizer step, grouped by length if rows are padded."""
        micro_batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        return regroup_by_length(micro_batches) if self.regroups else micro_batches, items


class DisagreeingSampler(Sampler[int]):
    """Gives the training pairs in the order of `Disagreements`, the same one to every process.

    It asks the trainer for the epoch: accelerate's loader does not tell it when several processes
    resume amid an epoch.
    """

    def __init__(self, disagreements: Disagreements, trainer: Trainer) -> None:
        self.disagreements, self.trainer = disagreements, trainer

    def __len__(self) -> int:
        return len(self.disagreements)

    @override
    def __iter__(self) -> Iterator[int]:
        args = self.trainer.args
        effective = (
            args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        )
        epoch = self.trainer.state.global_step // math.ceil(len(self) / effective)
        return iter(self.disagreements.order(args.seed, epoch))


def _tokenized(dataset: Dataset) -> list[TokenizedPair]:
    """Return TRL's rows of token ids as pairs, in order."""
    columns = dataset["prompt_ids"], dataset["chosen_ids"], dataset["rejected_ids"]
    return [
        TokenizedPair(
            str(number), "", *(Answer((*p, *answer), max(len(p), 1)) for answer in (c, r))
        )
        for number, (p, c, r) in enumerate(zip(*columns, strict=True))
    ]


def regroup_by_length(micro_batches: list[Inputs]) -> list[Inputs]:
    """Regroup pairs into equally many micro-batches of the same size, longest pairs first.

    Micro-batches then need little padding, and a step that does not fit fails at once.
    Micro-batches of different sizes are returned unchanged: TRL averages over each, so a pair's
    weight depends on the size.
    """
    sizes = {len(batch["input_ids"]) for batch in micro_batches}
    if len(micro_batches) < 2 or len(sizes) != 1:
        return micro_batches
    pairs = sizes.pop() // 2
    columns = {
        key: _joined([batch[key] for batch in micro_batches], pairs) for key in micro_batches[0]
    }
    length = columns["attention_mask"].sum(-1).amax(0)  # [all pairs], of the longer answer's row
    order = torch.argsort(length, descending=True, stable=True)
    return [
        {key: _part(column, chosen, int(length[chosen[0]])) for key, column in columns.items()}
        for chosen in order.split(pairs)
    ]


def _joined(tensors: list[Tensor], pairs: int) -> Tensor:
    """Concatenate the tensors of micro-batches.

    Rows [2 x pairs, width], chosen then rejected, become [2, all pairs, width], padded with zeros.
    [pairs] become [all pairs].
    """
    if tensors[0].dim() == 1:
        return torch.cat(tensors)
    width = max(tensor.shape[1] for tensor in tensors)
    padded = [nn.functional.pad(tensor, (0, width - tensor.shape[1])) for tensor in tensors]
    return torch.cat([tensor.view(2, pairs, width) for tensor in padded], dim=1)


def _part(column: Tensor, pairs: Tensor, width: int) -> Tensor:
    """Return the rows of `pairs` as a micro-batch, truncated to `width`."""
    return column[pairs] if column.dim() == 1 else column[:, pairs, :width].flatten(0, 1)
