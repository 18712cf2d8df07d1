"""Log-probabilities of answers, with shared prompts and profiles and a token budget per batch.

The vocabulary head runs on answer tokens only. Scores do not depend on the batch size: padding is
on the right under a causal mask, and each answer's sum covers its own tokens only.
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
"""Answer positions per call of the vocabulary head: at most 1024 x vocabulary logits."""

NAMED = 5
"""Most pair ids that an error message lists."""


def score_pairs(
    model: nn.Module,
    pairs: Sequence[TokenizedPair],
    *,
    batch_size: int = 8,
    label: str = "scoring",
    cache: LogpCache | None = None,
) -> list[PairScore]:
    """Score each pair, in order. Sums are in nats, from an fp32 log-softmax.

    `model` is a causal LM, bare or wrapped by PEFT or a distributed wrapper; its train/eval mode is
    restored. A batch holds as many tokens as `batch_size` pairs of mean length. With several
    processes, each scores its share and all return everything. Equal answers in equal contexts run
    once. Answers in `cache` are not computed again; the cache must belong to exactly this model.

    Scores equal the model's own logits: `mvp_align.scoring.methods` checks that on a few tokens
    first. Raises UserError for models that cannot be scored. Raises UserError in all processes if
    an answer has no finite log-prob, naming what was scored by `label`; such values are never
    cached.
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
    """Raise UserError if an answer has no log-prob, since its pair is neither right nor wrong."""
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
    """Return the batches that `score_pairs` runs, longest rows first.

    Their answers are indices into `distinct_answers`.
    """
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
    """Return the summed log-prob, in nats, of each answer in this process's share, by index.

    Answers with a NaN or infinite log-prob are left out. A batch runs completely or not at all, so
    that a resumed pass returns the same bits as an uninterrupted one. Raises Preempted between two
    batches. All processes run the same number of passes, some only to keep up, because a sharded
    model needs all its processes to compute anything.
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
    """Yield `batch_logps` for `model`, in eval mode and without gradients, then restore the model.

    A sharded model gathers its weights when the outermost module is called, so its batches go
    through that module's forward.
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
        with torch.no_grad():  # weights gathered in inference mode could not be trained
            yield logps_of
    finally:
        vars(causal).pop("forward", None)
        if forward is not None:
            causal.forward = forward
        causal.train(was_training)


def causal_model(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model inside, which contains the LoRA layers of an active adapter."""
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
    """Return log-probs of the answers' n tokens [n], in nats, and owners [n], ordered by owner."""
    hidden, targets, owners = answer_states(causal, rows)
    head = scoring_head(causal)
    chunks = zip(hidden.split(HEAD_CHUNK), targets.split(HEAD_CHUNK), strict=True)
    return torch.cat([_target_logps(head(h), t) for h, t in chunks]), owners


def answer_states(
    causal: PreTrainedModel, rows: Sequence[PackedSequence]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what predicts the answers' n tokens: states [n, hidden], token ids [n], owners [n].

    All are ordered by owner. `scoring_head` turns the states into logits. Gradients flow if
    enabled.
    """
    states = run_rows(causal, rows, scoring_method(causal))
    return states.hidden, states.targets, states.owners


def scoring_head(causal: PreTrainedModel) -> Head:
    """Return the head that maps states of `answer_states` to logits [n, vocabulary]."""
    return head_of(causal, scoring_method(causal))


def _target_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the fp32 log-softmax at `targets`: logits [n, vocabulary], targets [n] -> [n]."""
    return -nn.functional.cross_entropy(logits.float(), targets, reduction="none")
