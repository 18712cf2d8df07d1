"""What training may have broken: how far the model moved where nobody asked it to.

`damage/kl`: KL(tuned || base) in nats a token on the tuned model's own answers, exact over the
vocabulary at each position: the sequence KL of Rafailov et al. (2023, arXiv 2305.18290, equation
3), with each token's expectation taken in full. `damage/perplexity`: exp of the mean negative
log-prob a token on a small neutral text that is about nobody's values. `opa/rejected_shift`
(metrics/opa.py) is the third check, beside `opa/chosen_shift`.
"""

import math
from collections.abc import Sequence
from typing import Any

from mvp_align.errors import WHAT_TO_TRY, UserError
from mvp_align.metrics.intervals import Estimate, clustered_mean
from mvp_align.metrics.metric import Metric
from mvp_align.metrics.rows import Row, row
from mvp_align.schema import PairScore

NEUTRAL = "neutral"
"""The set that perplexity is a row of: no pairs, but passages of one text."""

KL: Metric[Any] = Metric("damage/kl", "divergence", "KL to the base, nats", False)
PERPLEXITY: Metric[Any] = Metric("damage/perplexity", "perplexity", "perplexity", False)
PERPLEXITY_RATIO = f"{PERPLEXITY.name}_ratio"
"""Of evaluations in training: over that of the base model."""


def kl_row(set_name: str, kls: Sequence[float], users: Sequence[str]) -> list[Row]:
    """The mean over answers, clustered by user. `kls` has of each answer the mean over its tokens,
    in nats, of the KL to the base; `users` whose it is. No row where there is no answer."""
    return [row("tuned", set_name, KL.name, clustered_mean(kls, users, KL.kind))] if kls else []


def perplexity_row(stage: str, passages: Sequence[PairScore]) -> Row:
    """Of the text whose passages these are, in `chosen_logp` and `chosen_tokens`. `n` and `users`
    both count passages. No interval: the text is what it is, not a sample of texts."""
    tokens = sum(passage.chosen_tokens for passage in passages)
    mean = sum(passage.chosen_logp for passage in passages) / tokens
    try:
        value = math.exp(-mean)
    except OverflowError:
        raise UserError(
            f"{stage} {NEUTRAL}: the mean log-prob of the neutral text is {mean:g} nats a token, so"
            f" its perplexity is beyond all numbers. {WHAT_TO_TRY}"
        ) from None
    return row(
        stage,
        NEUTRAL,
        PERPLEXITY.name,
        Estimate(value, None, None, len(passages), len(passages)),
    )
