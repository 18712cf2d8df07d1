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

from mvp_align.scoring.logps import answer_states
from mvp_align.scoring.rows import can_share, make_rows, say_alone
from mvp_align.scoring.tokens import Answer

HEAD_CHUNK = 2048
"""Answer positions whose logits are alive at once; beyond that many, chunks are recomputed in the backward pass."""


def share_prompts(causal: PreTrainedModel) -> None:
    """Answer TRL's fused call on `causal` with one row a pair. Call it after the trainer is made.

    Models whose attention cannot keep two answers of a row apart still save the head on prompt tokens.
    """
    share = can_share(causal)
    if not share:
        say_alone(type(causal).__name__)
    previous = causal.forward

    def forward(self: PreTrainedModel, *args: Any, fused_lm_head: bool = False, **inputs: Any) -> Any:
        if not fused_lm_head:
            return previous(*args, **inputs)
        return answer_outputs(self, inputs["input_ids"], inputs["attention_mask"], inputs["labels"], share)

    causal.forward = types.MethodType(forward, causal)


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


def token_outputs(head: nn.Module, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log-prob (with gradient), entropy, mean logit, whether the target is the top token: each [n]."""
    if len(targets) <= HEAD_CHUNK:
        return chunk_outputs(head, hidden, targets)
    parts = [
        checkpoint(chunk_outputs, head, h, t, use_reentrant=False)
        for h, t in zip(hidden.split(HEAD_CHUNK), targets.split(HEAD_CHUNK), strict=True)
    ]
    log_probs, entropy, mean_logits, is_top1 = (torch.cat(column) for column in zip(*parts, strict=True))
    return log_probs, entropy, mean_logits, is_top1


def chunk_outputs(head: nn.Module, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    outputs: tuple[Tensor, Tensor, Tensor, Tensor] = TokenStatistics.apply(  # type: ignore[no-untyped-call]
        head(hidden).float(), targets
    )
    return outputs


class TokenStatistics(torch.autograd.Function):
    """Of logits [n, vocabulary] (fp32) at `targets` [n]: log-prob (with gradient), entropy, mean logit, whether the target
    is the top token. One softmax serves all of them and the gradient, where separate formulas would take four."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        top, top_at = logits.max(1)
        shifted = logits - top[:, None]
        weights = shifted.exp()
        total = weights.sum(1)
        log_total = total.log()
        log_probs = shifted.gather(1, targets[:, None]).squeeze(1) - log_total
        entropy = log_total - torch.linalg.vecdot(weights, shifted) / total
        is_top = top_at == targets
        mean = logits.mean(1)
        ctx.save_for_backward(weights.div_(total[:, None]), targets)
        ctx.mark_non_differentiable(entropy, mean, is_top)
        return log_probs, entropy, mean, is_top

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, None]:
        """d log p(target) / d logits = onehot(target) - softmax."""
        probabilities, targets = ctx.saved_tensors
        found = probabilities * -grad[:, None]
        return found.scatter_add_(1, targets[:, None], grad[:, None]), None
