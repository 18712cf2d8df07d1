"""DPO's forward pass: the prompt runs once for both answers, the head on answer tokens only.

TRL calls `model(input_ids=..., labels=..., fused_lm_head=True)` on a batch of chosen rows followed
by their rejected rows. It reads `log_probs`, `entropy`, `mean_logits` and `is_top1`, each [2 x
pairs, length - 1] and zero outside the answers. We replace only that call. Losses and metrics are
TRL's, and any other call goes to the original forward.
"""

import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from trl.trainer.utils import FusedCausalLMOutput
from typing_extensions import override

from mvp_align.scoring.methods import scoring_method
from mvp_align.scoring.packing import pack_answers
from mvp_align.scoring.passes import Head, Method, Routing, head_of, run_batch, run_rows
from mvp_align.training.collator import PACKED, PackedPairs, read_answers_in_rows

PAIR_WEIGHTS = "pair_weights"
"""Key of a micro-batch: [pairs], fp32, what the gradient of each pair's log-probs is multiplied
by."""
HEAD_CHUNK = 512
"""Answer positions whose logits exist at the same time."""


def share_prompts(causal: PreTrainedModel) -> bool:
    """Answer TRL's fused call on `causal` by its scoring method; return whether that packs rows.

    Call this after creating the trainer. If the model's attention cannot separate answers in one
    row, each answer gets its own padded row, which still saves the head on prompt tokens. Models
    whose logits are not their head's output are trained on their own logits.
    """
    method = scoring_method(causal)
    previous = causal.forward

    def forward(
        self: PreTrainedModel, *args: Any, fused_lm_head: bool = False, **inputs: Any
    ) -> Any:
        if not fused_lm_head:
            return previous(*args, **inputs)
        routing = inputs.get("output_router_logits", _asks_for_routing(self))
        return _answer_outputs(self, inputs, method, routing=routing)

    causal.forward = types.MethodType(forward, causal)
    return method is Method.PACKED


def _asks_for_routing(causal: PreTrainedModel) -> bool:
    return bool(getattr(causal.config.get_text_config(), "output_router_logits", False))


def _answer_outputs(
    causal: PreTrainedModel, inputs: Mapping[str, Any], method: Method, *, routing: bool = False
) -> FusedCausalLMOutput:
    """Return TRL's per-token outputs for a micro-batch of right-padded rows, packed or not.

    `labels` are -100 outside the answers.

    With `routing`, also returns the load-balancing loss of a mixture of experts, over as many
    tokens as TRL's rows have.
    """
    ids, labels = inputs["input_ids"], inputs["labels"]
    packed: PackedPairs | None = inputs.get(PACKED)
    if packed is None:
        found = read_answers_in_rows(ids, inputs["attention_mask"], labels != -100)
        packed_rows = pack_answers(found.answers, method is Method.PACKED)
        states = run_rows(causal, packed_rows, method, routing=routing)
        places = found.places.to(ids.device)
    else:
        states = run_batch(causal, packed.batch, method, routing=routing)
        places = packed.places
    values = token_outputs(head_of(causal, method), states.hidden, states.targets)

    scored = labels[:, 1:] != -100
    log_probs, entropy, mean_logits, is_top1, log_sum_sq_probs = (
        value.new_zeros(scored.numel()).scatter(0, places, value).view(scored.shape)
        for value in values
    )
    weights: Tensor | None = inputs.get(PAIR_WEIGHTS)
    if weights is not None and log_probs.requires_grad:
        rows = weights.repeat(2)[:, None]  # chosen, then rejected
        log_probs.register_hook(lambda grad: grad * rows)
    loss = -log_probs.sum() / scored.sum().clamp(min=1)
    balance = None
    if states.routing:
        balance = load_balance(states.routing, causal.config)
        loss = (
            loss + getattr(causal.config.get_text_config(), "router_aux_loss_coef", 0.0) * balance
        )
    return FusedCausalLMOutput(
        loss=loss,
        log_probs=log_probs,
        entropy=entropy,
        log_sum_sq_probs=log_sum_sq_probs,
        mean_logits=mean_logits,
        is_top1=is_top1,
        label_mask=scored,
        aux_loss=balance,
    )


def load_balance(routing: Routing, config: PreTrainedConfig) -> Tensor:
    """Return Mixtral's load-balancing loss (Switch Transformer, equations 4 to 6).

    TRL uses it for every family. Returns 0 if no layer has experts. The attention mask counts how
    often TRL's rows contain a token, because a prompt that runs once here appears there once per
    answer.
    """
    if not routing.logits:
        return torch.zeros((), device=routing.copies.device)
    experts, taken = routing.logits[0].shape[-1], config.get_text_config().num_experts_per_tok
    balance: Callable[..., Any] = load_balancing_loss_func
    found: Tensor = balance(routing.logits, experts, taken, routing.copies[None])
    return found


Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Outputs for n tokens, each [n].

Log-prob (with gradient), entropy, mean logit, whether the target is the top token, and the log of
the sum of squared probabilities.
"""


def token_outputs(head: Head, hidden: Tensor, targets: Tensor) -> Outputs:
    """Compute the outputs at `targets` [n] from `hidden` [n, hidden], in chunks of logits."""
    outputs = _frozen_outputs if frozen(head) else _trained_outputs
    parts = [
        outputs(head, h, t)
        for h, t in zip(hidden.split(HEAD_CHUNK), targets.split(HEAD_CHUNK), strict=True)
    ]
    log_probs, entropy, mean_logits, is_top1, log_sum_sq = (
        torch.cat(column) for column in zip(*parts, strict=True)
    )
    return log_probs, entropy, mean_logits, is_top1, log_sum_sq


def frozen(head: Head) -> bool:
    return type(head) is nn.Linear and not head.weight.requires_grad


def _frozen_outputs(head: Head, hidden: Tensor, targets: Tensor) -> Outputs:
    outputs: Outputs = FrozenHead.apply(head, hidden, targets)  # type: ignore[no-untyped-call]
    return outputs


def _trained_outputs(head: Head, hidden: Tensor, targets: Tensor) -> Outputs:
    """Compute the outputs for a head that is trained or changes its logits.

    The backward pass computes the logits again.
    """

    def outputs(hidden: Tensor, targets: Tensor) -> Outputs:
        logits = head(hidden).float()
        (_, entropy, mean, is_top, log_sum_sq), _ = statistics(logits.detach().clone(), targets)
        return (
            logits.log_softmax(1).gather(1, targets[:, None]).squeeze(1),
            entropy,
            mean,
            is_top,
            log_sum_sq,
        )

    found: Outputs = checkpoint(outputs, hidden, targets, use_reentrant=False)
    return found


class FrozenHead(torch.autograd.Function):
    """The outputs of a frozen linear head.

    d log p(target) / d hidden = W[target] - softmax(logits) W, times the incoming gradient. The
    forward pass computes it while it has the softmax, so logits are neither kept nor computed
    twice.
    """

    @staticmethod
    @override
    def forward(ctx: Any, head: nn.Linear, hidden: Tensor, targets: Tensor) -> Outputs:
        outputs, probabilities = statistics(head(hidden).float(), targets)
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(
                head.weight[targets].float() - probabilities.to(head.weight.dtype) @ head.weight
            )
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[None, Tensor, None]:
        (slope,) = ctx.saved_tensors
        return None, grad[:, None] * slope, None


def statistics(logits: Tensor, targets: Tensor) -> tuple[Outputs, Tensor]:
    """Return the outputs and the softmax [n, vocabulary] of logits at `targets` [n].

    The logits [n, vocabulary] are fp32 and are overwritten. All results share one pass of
    exponentials.
    """
    mean = logits.mean(1)
    top, top_at = logits.max(1)
    shifted = logits.sub_(top[:, None])
    weights = shifted.exp()
    total = weights.sum(1)
    log_total = total.log()
    log_probs = shifted.gather(1, targets[:, None]).squeeze(1) - log_total
    entropy = log_total - torch.linalg.vecdot(weights, shifted) / total
    log_sum_sq = torch.linalg.vecdot(weights, weights).log() - 2 * log_total
    return (log_probs, entropy, mean, top_at == targets, log_sum_sq), weights.div_(total[:, None])
