"""The policy's forward for DPO: the prompt once for both answers, the vocabulary head on answer tokens only.

TRL calls `model(input_ids=..., labels=..., fused_lm_head=True)` on a batch of chosen rows followed by their rejected rows
and reads `log_probs`, `entropy`, `mean_logits` and `is_top1`, each [2 x pairs, length - 1], zero off the answers. Only
that call is answered here; every loss and metric stays TRL's own, and any other call goes to the model as it was.
"""

import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from mvp_align.scoring.attention import share_attention
from mvp_align.scoring.logps import answer_states
from mvp_align.scoring.rows import make_rows
from mvp_align.scoring.tokens import Answer

HEAD_CHUNK = 512
"""Answer positions whose logits are alive at once."""


def share_prompts(causal: PreTrainedModel) -> bool:
    """Answer TRL's fused call on `causal` with packed rows. Call it after the trainer is made.

    False for models whose attention cannot keep answers of a row apart: they have padded rows, an answer each, and still
    save the head on prompt tokens.
    """
    share = share_attention(causal)
    previous = causal.forward

    def forward(self: PreTrainedModel, *args: Any, fused_lm_head: bool = False, **inputs: Any) -> Any:
        if not fused_lm_head:
            return previous(*args, **inputs)
        return answer_outputs(self, inputs["input_ids"], inputs["attention_mask"], inputs["labels"], share)

    causal.forward = types.MethodType(forward, causal)
    return share


def answer_outputs(
    causal: PreTrainedModel, ids: Tensor, attention: Tensor, labels: Tensor, share: bool
) -> FusedCausalLMOutput:
    """TRL's per-token outputs for right-padded rows; `labels` are -100 off the answers."""
    answers = []
    for row, length, start in zip(
        ids.tolist(), attention.sum(1).tolist(), (labels != -100).int().argmax(1).tolist(), strict=True
    ):
        answers.append(Answer(tuple(row[:length]), start))
    half = len(answers) // 2
    in_pairs = [answer for pair in zip(answers[:half], answers[half:], strict=True) for answer in pair]
    order = torch.arange(len(answers), device=ids.device).view(2, half).T.flatten()  # of `in_pairs` in the batch
    hidden, targets, owners = answer_states(causal, make_rows(in_pairs, share))
    values = token_outputs(causal.get_output_embeddings(), hidden, targets)

    scored = labels[:, 1:] != -100
    by_batch_row = torch.argsort(order[owners], stable=True)
    log_probs, entropy, mean_logits, is_top1 = (
        torch.zeros(scored.shape, dtype=value.dtype, device=ids.device).masked_scatter(scored, value[by_batch_row])
        for value in values
    )
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / scored.sum().clamp(min=1),
        log_probs=log_probs,
        entropy=entropy,
        mean_logits=mean_logits,
        is_top1=is_top1,
        label_mask=scored,
    )


Outputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of n tokens, each [n]: log-prob (with gradient), entropy, mean logit, whether the target is the top token."""


def token_outputs(head: nn.Module, hidden: Tensor, targets: Tensor) -> Outputs:
    """Of `targets` [n] predicted from `hidden` [n, hidden], a chunk of logits at a time."""
    outputs = frozen_outputs if frozen(head) else trained_outputs
    parts = [outputs(head, h, t) for h, t in zip(hidden.split(HEAD_CHUNK), targets.split(HEAD_CHUNK), strict=True)]
    log_probs, entropy, mean_logits, is_top1 = (torch.cat(column) for column in zip(*parts, strict=True))
    return log_probs, entropy, mean_logits, is_top1


def frozen(head: nn.Module) -> bool:
    return type(head) is nn.Linear and not head.weight.requires_grad


def frozen_outputs(head: nn.Module, hidden: Tensor, targets: Tensor) -> Outputs:
    outputs: Outputs = FrozenHead.apply(head, hidden, targets)  # type: ignore[no-untyped-call]
    return outputs


def trained_outputs(head: nn.Module, hidden: Tensor, targets: Tensor) -> Outputs:
    """The same for a head that learns, its logits computed anew in the backward pass."""

    def outputs(hidden: Tensor, targets: Tensor) -> Outputs:
        logits = head(hidden).float()
        _, entropy, mean, is_top, _ = statistics(logits.detach().clone(), targets)
        return logits.log_softmax(1).gather(1, targets[:, None]).squeeze(1), entropy, mean, is_top

    found: Outputs = checkpoint(outputs, hidden, targets, use_reentrant=False)
    return found


class FrozenHead(torch.autograd.Function):
    """The outputs of a linear head without a gradient of its own.

    d log p(target) / d hidden = W[target] - softmax(logits) W, times whatever gradient comes: known in the forward pass,
    where the softmax is at hand, so that no logits outlive it and none are computed twice.
    """

    @staticmethod
    def forward(ctx: Any, head: nn.Linear, hidden: Tensor, targets: Tensor) -> Outputs:
        log_probs, entropy, mean, is_top, probabilities = statistics(head(hidden).float(), targets)
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(head.weight[targets].float() - probabilities.to(head.weight.dtype) @ head.weight)
        ctx.mark_non_differentiable(entropy, mean, is_top)
        return log_probs, entropy, mean, is_top

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[None, Tensor, None]:
        (slope,) = ctx.saved_tensors
        return None, grad[:, None] * slope, None


def statistics(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of logits [n, vocabulary] (fp32, overwritten) at `targets` [n]: log-prob, entropy, mean logit, whether the target is
    the top token, and the softmax [n, vocabulary]. One pass of exponentials serves all of them."""
    mean = logits.mean(1)
    top, top_at = logits.max(1)
    shifted = logits.sub_(top[:, None])
    weights = shifted.exp()
    total = weights.sum(1)
    log_total = total.log()
    log_probs = shifted.gather(1, targets[:, None]).squeeze(1) - log_total
    entropy = log_total - torch.linalg.vecdot(weights, shifted) / total
    return log_probs, entropy, mean, top_at == targets, weights.div_(total[:, None])
