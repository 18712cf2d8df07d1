"""KL from a tuned model to its base on given answers.

It is exact over the vocabulary, and never holds more logits than one chunk.
"""

import math
from collections.abc import Sequence

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from peft import PeftModel
from torch import Tensor
from tqdm.auto import tqdm

from mvp_align.errors import WHAT_TO_TRY, UserError
from mvp_align.runtime.preemption import raise_if_stop_requested
from mvp_align.scoring.logps import answer_states, causal_model, scoring_head
from mvp_align.scoring.methods import scoring_method
from mvp_align.scoring.packing import PackedSequence, batches, pack_answers
from mvp_align.scoring.passes import Method
from mvp_align.scoring.tokens import Answer

KL_CHUNK = 256
"""Positions per call of the vocabulary head.

It runs for both models, so that at most 512 x vocabulary logits exist at once.
"""


def kl_to_base(
    model: PeftModel,
    answers: Sequence[Answer],
    *,
    batch_size: int = 8,
    label: str = "KL to the base",
) -> list[float]:
    """Return each answer's mean KL(adapter on || adapter off) per token, in nats.

    KL = sum p (log p - log q) over the next-token distributions at each position of the answer,
    from fp32 log-softmaxes. Results are in the order of `answers`.

    A batch holds as many tokens as `batch_size` answers of mean length. With several processes,
    each computes its share and all return everything. Raises Preempted between two batches, and
    UserError if a KL is NaN or infinite.
    """
    causal = causal_model(model)
    distinct = list(dict.fromkeys(answers))
    budget = batch_size * sum(len(answer.ids) for answer in distinct) // max(1, len(distinct))
    work = list(
        batches(pack_answers(distinct, scoring_method(causal) is Method.PACKED, budget), budget)
    )
    state = PartialState()
    mine = work[state.process_index :: state.num_processes]
    was_training = causal.training
    causal.eval()
    found: dict[int, float] = {}
    try:
        with torch.inference_mode():
            passes = range(-(-len(work) // state.num_processes))
            for number in tqdm(
                passes, desc=label, unit="batch", delay=2, disable=not state.is_main_process
            ):
                raise_if_stop_requested()  # the same number of calls in every process
                if number < len(mine):
                    found |= _batch_divergence(model, mine[number])
    finally:
        causal.train(was_training)
    if state.num_processes > 1:
        found = dict(gather_object(list(found.items())))
    if wrong := sum(not math.isfinite(found[number]) for number in range(len(distinct))):
        raise UserError(
            f"{label}: {wrong} of {len(distinct)} answers have no finite KL. {WHAT_TO_TRY}"
        )
    place = {answer: number for number, answer in enumerate(distinct)}
    return [found[place[answer]] for answer in answers]


def _batch_divergence(model: PeftModel, rows: Sequence[PackedSequence]) -> dict[int, float]:
    """Return the mean KL of each answer of a batch, by index."""
    causal = causal_model(model)
    tuned, _, owners = answer_states(causal, rows)
    with model.disable_adapter():
        base, _, _ = answer_states(causal, rows)
    per_token = [
        _divergence(model, tuned_part, base_part)
        for tuned_part, base_part in zip(tuned.split(KL_CHUNK), base.split(KL_CHUNK), strict=True)
    ]
    indices, answer_of, counts = owners.unique_consecutive(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(indices), dtype=torch.float64, device=owners.device)
    sums.index_add_(0, answer_of, torch.cat(per_token).double())
    return dict(zip(indices.tolist(), (sums / counts).tolist(), strict=True))


def _divergence(model: PeftModel, tuned: Tensor, base: Tensor) -> Tensor:
    """Return the KL at each position [n], from the two models' last hidden states [n, hidden]."""
    head = scoring_head(causal_model(model))
    log_p: Tensor = head(tuned).float().log_softmax(dim=-1)
    with model.disable_adapter():
        log_q: Tensor = head(base).float().log_softmax(dim=-1)
    p = log_p.exp()
    # take the limit at p = 0, where both logs may be -inf
    return torch.where(p == 0, 0.0, p * (log_p - log_q)).sum(dim=-1)
