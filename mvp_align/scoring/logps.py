"""Log-probabilities of answers: shared prompts and profiles, batches by token budget, logits on
answer tokens only.

Scores do not depend on the batch size: padding lies to the right under a causal mask, and each
answer's sum is taken over its own tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from peft import PeftModel
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from mvp_align.errors import WHAT_TO_TRY, UserError
from mvp_align.runtime.preemption import raise_if_stop_requested
from mvp_align.schema import PairScore
from mvp_align.scoring.cache import LogpCache
from mvp_align.scoring.methods import is_sharded, scoring_method
from mvp_align.scoring.packing import PackedSequence, batches, pack_answers
from mvp_align.scoring.passes import Head, Method, head_of, run_rows
from mvp_align.scoring.tokens import Answer, TokenizedPair

HEAD_CHUNK = 1024
"""Answer positions that go through the vocabulary head at once: bounds the logits at 1024 x
vocabulary."""

NAMED = 5
"""Pairs that a message names."""


def score_pairs(
    model: nn.Module,
    pairs: Sequence[TokenizedPair],
    *,
    batch_size: int = 8,
    label: str = "scoring",
    cache: LogpCache | None = None,
) -> list[PairScore]:
    """One `PairScore` a pair, in the order of `pairs`; sums are in nats, from an fp32 log-softmax.

    `model` is a causal LM, bare or wrapped by PEFT or a distributed wrapper; its mode is restored.
    A batch holds as many tokens as `batch_size` pairs of mean length. Under several processes each
    scores its share and all return everything. Equal answers in equal contexts run once. What
    `cache` knows is not computed; it must be of this very model.

    Scores are the model's own: `mvp_align.scoring.methods` has tried that on a few tokens first.
    Raises UserError for models that cannot be scored and, in all processes, where an answer has no
    finite log-probability: `label` says of what. Nothing of such answers is kept.
    """
    answers = distinct_answers(pairs)
    work = score_batches(pairs, batch_size, scoring_method(causal_model(model)) is Method.PACKED)
    found = (
        _answer_logps(model, answers, work, label, LogpCache() if cache is None else cache)
        if work
        else {}
    )
    if PartialState().num_processes > 1:
        found = dict(gather_object(list(found.items())))
    logps = {answer: found[index] for index, answer in enumerate(answers) if index in found}
    _refuse_unscored(pairs, logps, label)
    return [
        PairScore(
            id=pair.id,
            user_id=pair.user_id,
            chosen_logp=logps[pair.chosen],
            rejected_logp=logps[pair.rejected],
            chosen_tokens=pair.chosen.tokens,
            rejected_tokens=pair.rejected.tokens,
        )
        for pair in pairs
    ]


def _refuse_unscored(
    pairs: Sequence[TokenizedPair], logps: Mapping[Answer, float], label: str
) -> None:
    """Raise UserError where an answer has no log-probability: such a pair is neither right nor
    wrong."""
    answers = distinct_answers(pairs)
    unscored = {answer for answer in answers if answer not in logps}
    if not unscored:
        return
    ids = [pair.id for pair in pairs if pair.chosen in unscored or pair.rejected in unscored]
    shown = ", ".join(ids[:NAMED]) + (f" and {len(ids) - NAMED} more" if len(ids) > NAMED else "")
    raise UserError(
        f"{label}: {len(unscored)} of {len(answers)} answers have no finite log-prob (pairs"
        f" {shown}), so there is nothing to measure. {WHAT_TO_TRY}"
    )


def distinct_answers(pairs: Sequence[TokenizedPair]) -> list[Answer]:
    return list(dict.fromkeys(answer for pair in pairs for answer in (pair.chosen, pair.rejected)))


def score_batches(
    pairs: Sequence[TokenizedPair], batch_size: int, share: bool
) -> list[Sequence[PackedSequence]]:
    """What `score_pairs` runs, the batch of the longest rows first. Their answers are indices into
    `distinct_answers`."""
    lengths = [len(pair.chosen.ids) + pair.rejected.tokens for pair in pairs]
    tokens = batch_size * sum(lengths) // max(1, len(pairs))
    return list(batches(pack_answers(distinct_answers(pairs), share, tokens), tokens))


def _answer_logps(
    model: nn.Module,
    answers: Sequence[Answer],
    work: Sequence[Sequence[PackedSequence]],
    label: str,
    cache: LogpCache,
) -> dict[int, float]:
    """Summed log-probability of each answer in this process's share of the batches `work`, in nats,
    by its index; none of an answer for which it is NaN or infinite.

    A batch runs whole or not at all, so that an interrupted pass, taken up again, ends with the
    same bits. Raises Preempted between two batches. All processes make as many passes, of which the
    last ones of some are for nothing: a sharded model computes only where all its parts do.
    """
    state = PartialState()
    mine = [
        (batch, _indices_of(batch)) for batch in work[state.process_index :: state.num_processes]
    ]
    todo = [
        (batch, indices)
        for batch, indices in mine
        if any(answers[index] not in cache for index in indices)
    ]
    passes = max(gather_object([len(todo)])) if state.num_processes > 1 else len(todo)
    total = sum(len(indices) for _, indices in mine) / 2
    known = total - sum(len(indices) for _, indices in todo) / 2
    bar = tqdm(
        total=total,
        initial=known,
        desc=label,
        unit="pair",
        delay=2,
        disable=not state.is_main_process,
    )
    with bar, cache, _scorer(model) as logps_of:
        for number in range(passes):
            raise_if_stop_requested()
            if number >= len(todo):
                logps_of(work[0])
                continue
            batch, indices = todo[number]
            for index, logp in logps_of(batch).items():
                cache.add(answers[index], logp)
            bar.update(len(indices) / 2)
    scored = (index for _, indices in mine for index in indices)
    return {index: cache[answers[index]] for index in scored if answers[index] in cache}


def _indices_of(batch: Sequence[PackedSequence]) -> list[int]:
    return [index for row in batch for branch in row.branches for index, _ in branch.answers]


@contextmanager
def _scorer(model: nn.Module) -> Iterator[Callable[[Sequence[PackedSequence]], dict[int, float]]]:
    """`batch_logps` under `model`, in evaluation mode and without gradients; the model is as it was
    afterwards.

    A sharded model gathers its weights when the outermost module is called, so there the batch goes
    in by that door.
    """
    causal = causal_model(model)
    was_training, forward = causal.training, vars(causal).get("forward")
    causal.eval()
    try:
        if not is_sharded(causal):
            with torch.inference_mode():
                yield partial(_batch_logps, causal)
            return
        outermost = getattr(model, "module", model)
        found: list[dict[int, float]] = []

        def logps_of(rows: Sequence[PackedSequence]) -> dict[int, float]:
            outermost(rows=rows)
            return found.pop()

        causal.forward = lambda *_, rows, **__: found.append(_batch_logps(causal, rows))
        with torch.no_grad():  # what is gathered in inference mode could not be trained on
            yield logps_of
    finally:
        vars(causal).pop("forward", None)
        if forward is not None:
            causal.forward = forward
        causal.train(was_training)


def causal_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside; LoRA layers live in it, so an active adapter keeps acting."""
    inner = getattr(model, "module", model)  # DistributedDataParallel
    if isinstance(inner, PeftModel):
        inner = inner.get_base_model()
    assert isinstance(inner, PreTrainedModel)
    return inner


def _batch_logps(causal: PreTrainedModel, rows: Sequence[PackedSequence]) -> dict[int, float]:
    token_logps, owners = answer_token_logps(causal, rows)
    indices, answer_of = owners.unique_consecutive(return_inverse=True)
    sums = torch.zeros(len(indices), dtype=torch.float64, device=owners.device)
    sums.index_add_(0, answer_of, token_logps.double())
    return dict(zip(indices.tolist(), sums.tolist(), strict=True))


def answer_token_logps(
    causal: PreTrainedModel, rows: Sequence[PackedSequence]
) -> tuple[Tensor, Tensor]:
    """Log-probs of the answers' n tokens [n], in nats, and their owners [n], ordered by owner."""
    hidden, targets, owners = answer_states(causal, rows)
    head = scoring_head(causal)
    chunks = zip(hidden.split(HEAD_CHUNK), targets.split(HEAD_CHUNK), strict=True)
    return torch.cat([_target_logps(head(h), t) for h, t in chunks]), owners


def answer_states(
    causal: PreTrainedModel, rows: Sequence[PackedSequence]
) -> tuple[Tensor, Tensor, Tensor]:
    """States [n, hidden], for `scoring_head`, that predict the answers' n tokens, the tokens' ids
    [n], and their owners [n], ordered by owner. Gradients flow where they are enabled."""
    states = run_rows(causal, rows, scoring_method(causal))
    return states.hidden, states.targets, states.owners


def scoring_head(causal: PreTrainedModel) -> Head:
    """From the states of `answer_states` to logits [n, vocabulary]."""
    return head_of(causal, scoring_method(causal))


def _target_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """log softmax at `targets`, in float32: logits [n, vocabulary], targets [n] -> [n]."""
    return -nn.functional.cross_entropy(logits.float(), targets, reduction="none")
