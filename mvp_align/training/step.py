"""A run's training and scoring passes, without its trainer.

They are simulated on fake tensors before the model loads, and tried on real ones before step 1.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel
from trl.models.activation_offloading import OffloadActivations
from trl.trainer.utils import add_fused_lm_head

from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.runtime.recipes import recipe_named
from mvp_align.scoring.logps import answer_token_logps, causal_model, score_batches
from mvp_align.scoring.methods import scoring_method
from mvp_align.scoring.packing import PackedSequence, pack_answers
from mvp_align.scoring.passes import Method, head_of, mode, run_rows
from mvp_align.scoring.tokens import TokenizedPair
from mvp_align.training.forward import load_balance, token_outputs

SFT_OUTPUTS = ("log_probs", "entropy", "is_top1")
"""The outputs that TRL's SFTTrainer requests from its fused head."""


def pair_tokens(pair: TokenizedPair) -> int:
    """Return the number of tokens of both answers and, once, their prompt."""
    return len(pair.chosen.ids) + pair.rejected.tokens


def trained_tokens(pair: TokenizedPair, config: Config) -> int:
    """Return the number of tokens that the recipe trains on."""
    alone = recipe_named(config.recipe).trains_on == "chosen"
    return len(pair.chosen.ids) if alone else pair_tokens(pair)


def longest_first(pairs: Sequence[TokenizedPair], config: Config) -> list[TokenizedPair]:
    return sorted(pairs, key=lambda pair: trained_tokens(pair, config), reverse=True)


def largest_batch(
    model: nn.Module, scored: Sequence[Sequence[TokenizedPair]], config: Config
) -> Sequence[PackedSequence]:
    """Return the batch with the most tokens among all that scoring these sets will run."""
    share = scoring_method(causal_model(model)) is Method.PACKED
    firsts = [score_batches(pairs, config.evals.batch_size, share)[0] for pairs in scored if pairs]
    return max(firsts, key=lambda rows: sum(row.length for row in rows), default=())


@contextmanager
def as_in_training(model: PeftModel, config: Config, *, checkpointing: bool) -> Iterator[None]:
    """Set the modes that the trainer will set, and restore the previous ones afterwards."""
    dropouts = [(module, module.p) for module in model.modules() if isinstance(module, nn.Dropout)]
    if checkpointing:
        # this also makes the embeddings' output require a gradient
        model.gradient_checkpointing_enable()
    if recipe_named(config.recipe).trains_on == "pairs" and config.train.disable_dropout:
        for module, _ in dropouts:
            module.p = 0
    try:
        with mode(model, training=True):
            yield
    finally:
        for module, share in dropouts:
            module.p = share
        if checkpointing:
            model.gradient_checkpointing_disable()
            model.disable_input_require_grads()


def train_pass(model: PeftModel, pairs: Sequence[TokenizedPair], config: Config) -> None:
    """Run forward and backward over `pairs` as one micro-batch, and leave the gradients in place.

    What losses compute beyond log-probs takes only a few numbers per token, so it is left out.
    """
    causal = causal_model(model)
    alone = recipe_named(config.recipe).trains_on == "chosen"
    total_of = _chosen_total if alone else _pairs_total
    with _offloading(model, config):
        with torch.autocast(
            causal.device.type, dtype=causal.dtype, enabled=causal.dtype != torch.float32
        ):
            total = total_of(causal, pairs)
        total.backward()


def _offloading(model: PeftModel, config: Config) -> AbstractContextManager[Any]:
    """Return what TRL's trainers enter around a step under `hardware.activation_offloading`.

    On a CPU, where a step is simulated, there is nothing to offload from.
    """
    if not config.hardware.activation_offloading or model.device.type == "cpu":
        return nullcontext()
    offloading = OffloadActivations()
    offloading.update_model_params(model)
    return offloading


def score_pass(model: PeftModel, rows: Sequence[PackedSequence]) -> None:
    """Run one batch like `score_pairs`, but under `no_grad`.

    `inference_mode` would hide tensors from the simulation.
    """
    with mode(model, training=False), torch.no_grad():
        answer_token_logps(causal_model(model), rows)


def _pairs_total(causal: PreTrainedModel, pairs: Sequence[TokenizedPair]) -> Tensor:
    """Sum log-probs of both answers' tokens, and the load-balancing loss if TRL's trainer does."""
    answers = [answer for pair in pairs for answer in (pair.chosen, pair.rejected)]
    method, config = scoring_method(causal), causal.config.get_text_config()
    routing = (
        hasattr(config, "output_router_logits")
        and getattr(config, "router_aux_loss_coef", 0.0) != 0
    )
    states = run_rows(
        causal, pack_answers(answers, method is Method.PACKED), method, routing=routing
    )
    log_probs, *_ = token_outputs(head_of(causal, method), states.hidden, states.targets)
    return log_probs.sum() + (load_balance(states.routing, config) if states.routing else 0)


def _chosen_total(causal: PreTrainedModel, pairs: Sequence[TokenizedPair]) -> Tensor:
    """Sum the log-probs of the chosen answers' tokens by TRL's own forward, in padded rows.

    Raises UserError for models whose own logits differ from those that TRL would compute.
    """
    if scoring_method(causal) is Method.OWN:
        raise UserError(
            f"TRL's SFTTrainer would train {type(causal).__name__} on other logits than its own:"
            " use recipe=lora_dpo."
        )
    width = max(len(pair.chosen.ids) for pair in pairs)
    ids, mask, labels = torch.zeros(3, len(pairs), width, dtype=torch.long)
    labels -= 100
    for row, answer in enumerate(pair.chosen for pair in pairs):
        length = len(answer.ids)
        ids[row, :length] = torch.tensor(answer.ids)
        mask[row, :length] = 1
        labels[row, answer.start : length] = ids[row, answer.start : length]
    ids, mask, labels = ids.to(causal.device), mask.to(causal.device), labels.to(causal.device)
    own = vars(causal).get("forward")
    add_fused_lm_head(causal, outputs=SFT_OUTPUTS)
    try:
        log_probs: Tensor = causal(
            input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True
        ).log_probs
    finally:
        del causal.forward
        if own is not None:
            causal.forward = own
    return log_probs.sum()
