"""Other ways to score pairs: our own versions of common code, and lm-evaluation-harness."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from mvp_align.schema import PromptedPair
from mvp_align.scoring.tokens import Answer, TokenizedPair

Sums = list[tuple[float, float]]
"""Summed log-probs of chosen and rejected, in nats, of each pair."""


def one_at_a_time(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[PromptedPair]
) -> Sums:
    """Score one answer per pass, as the benchmark's own script does.

    Prompt and answer are tokenised together, and logits of every position are computed.
    """

    def logp(prompt: str, answer: str) -> float:
        start = tokenizer(prompt, return_tensors="pt").input_ids.shape[1]
        ids = tokenizer(prompt + answer, return_tensors="pt").input_ids.to(
            next(model.parameters()).device
        )
        with torch.no_grad():
            log_probs = model(ids).logits[0, :-1].float().log_softmax(-1)
        return float(log_probs.gather(1, ids[0, 1:, None])[start - 1 :].sum())

    return [(logp(pair.prompt, pair.chosen), logp(pair.prompt, pair.rejected)) for pair in pairs]


def padded_batches(model: nn.Module, pairs: Sequence[TokenizedPair], batch_size: int) -> Sums:
    """Score batches of rows of similar length, padded on the right, with fp32 logits everywhere."""
    device = next(model.parameters()).device
    answers = {answer for pair in pairs for answer in (pair.chosen, pair.rejected)}
    rows = sorted(answers, key=lambda answer: len(answer.ids), reverse=True)
    sums: dict[Answer, float] = {}
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        ids = pad_sequence([torch.tensor(row.ids) for row in batch], batch_first=True).to(device)
        lengths = torch.tensor([len(row.ids) for row in batch], device=device)
        mask = (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        found = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        for row, logps in zip(batch, found, strict=True):
            sums[row] = float(logps[row.start - 1 : len(row.ids) - 1].sum())
    return [(sums[pair.chosen], sums[pair.rejected]) for pair in pairs]


def with_lm_eval(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[PromptedPair],
    batch_size: int,
) -> Sums:
    """Score the same prompts and answers with lm-evaluation-harness's `loglikelihood`."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        backend="causal",
        batch_size=batch_size,
        max_length=2048,
    )
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=(pair.prompt, answer), idx=number)
        for number, pair in enumerate(pairs)
        for answer in (pair.chosen, pair.rejected)
    ]
    sums = [float(logp) for logp, _ in harness.loglikelihood(requests, disable_tqdm=True)]
    return list(zip(sums[::2], sums[1::2], strict=True))
