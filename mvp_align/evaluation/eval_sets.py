"""Prepare sets of pairs, score them, and compute their metrics.

Recipes, callbacks and `evaluate.py` share this code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn
from transformers import PreTrainedTokenizerBase

from mvp_align.config import Prompt
from mvp_align.data.ceiling import value_blind_ceiling
from mvp_align.data.prompts import prompts_sha256, render_prompts
from mvp_align.errors import UserError
from mvp_align.metrics.groups import with_region
from mvp_align.metrics.intervals import Estimate, clustered_mean
from mvp_align.metrics.opa import CEILING, LENGTH_ONLY, PROMPT_FREE
from mvp_align.metrics.rows import Row, row
from mvp_align.metrics.score_rows import length_only, score_headlines, score_rows
from mvp_align.metrics.variables import tags_of
from mvp_align.schema import PairScore, PreferencePair
from mvp_align.scoring.cache import LogpCache
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.tokens import TokenizedPair, tokenize_pairs


@dataclass(frozen=True, slots=True)
class EvalSet:
    """Pairs within the length limits, tokenised with and without their prompt.

    `ceiling` is the best acc@0 of a model that ignores who is asking. It is None if no question is
    asked by users who disagree, because it would then be 100 % and carry no information.
    """

    name: str
    pairs: list[TokenizedPair]
    prompt_free: list[TokenizedPair]
    groups: Mapping[str, Mapping[str, str]]
    ceiling: float | None
    over_limit: int
    merged: int
    prompts_sha256: str = ""
    """Hash of the prompts (`data.prompts.prompts_sha256`)."""


def make_eval_set(
    name: str,
    pairs: Sequence[PreferencePair],
    prompt: Prompt,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_prompt_tokens: int,
    max_tokens: int,
    regions: Mapping[str, str] | None = None,
) -> EvalSet:
    """Build an eval set.

    `regions` is a map from `load_regions`, by which each pair gets its user's region of birth.
    Raises UserError if no pair is within the limits.
    """
    texts = render_prompts(pairs, prompt, tokenizer)
    tokenized = tokenize_pairs(texts, tokenizer)
    fits = [
        p.prompt_tokens <= max_prompt_tokens and p.longest <= max_tokens for p in tokenized.pairs
    ]
    kept = [pair for pair, fit in zip(pairs, fits, strict=True) if fit]
    if not kept:
        raise UserError(
            f"{name}: none of {len(pairs)} pairs is within"
            f" data.max_prompt_tokens={max_prompt_tokens} and data.max_tokens={max_tokens}: raise"
            " the limits."
        )
    bare = [replace(text, prompt="") for text, fit in zip(texts, fits, strict=True) if fit]
    tags = with_region([tags_of(pair) for pair in kept], regions or {})
    ceiling = value_blind_ceiling(kept)
    return EvalSet(
        name=name,
        pairs=[pair for pair, fit in zip(tokenized.pairs, fits, strict=True) if fit],
        prompt_free=tokenize_pairs(bare, tokenizer).pairs,
        groups={pair.id: tag for pair, tag in zip(kept, tags, strict=True)},
        ceiling=ceiling if ceiling < 1 else None,
        over_limit=len(pairs) - len(kept),
        merged=tokenized.merged,
        prompts_sha256=prompts_sha256(text for text, fit in zip(texts, fits, strict=True) if fit),
    )


def score_set(
    model: nn.Module, subject: EvalSet, stage: str, batch_size: int, cache: LogpCache | None = None
) -> tuple[list[PairScore], list[PairScore]]:
    """Return scores with the prompt and scores without it."""
    label = f"{stage} {subject.name}"
    scores = score_pairs(model, subject.pairs, batch_size=batch_size, label=label, cache=cache)
    free = score_pairs(
        model, subject.prompt_free, batch_size=batch_size, label=f"{label}, no prompt", cache=cache
    )
    return scores, free


def scored_rows(
    subject: EvalSet,
    stage: str,
    scores: Sequence[PairScore],
    base: Sequence[PairScore] | None = None,
    *,
    min_users: int = 1,
) -> list[Row]:
    """Every metric of pair scores, of the whole set and its groups; where pairs have a user type,
    of each as a set of its own (`ufp4/honesty`)."""
    rows = score_rows(stage, subject.name, scores, subject.groups, base, min_users=min_users)
    before = {score.id: score for score in base or ()}
    for user_type in sorted(
        {tags["user_type"] for tags in subject.groups.values() if "user_type" in tags}
    ):
        part = [score for score in scores if subject.groups[score.id].get("user_type") == user_type]
        part_base = [before[score.id] for score in part] if before else None
        rows += score_rows(stage, f"{subject.name}/{user_type}", part, {}, part_base)
    return rows


def set_rows(
    subject: EvalSet,
    stage: str,
    scores: Sequence[PairScore],
    prompt_free: Sequence[PairScore],
    base: Sequence[PairScore] | None = None,
    *,
    min_users: int = 1,
) -> list[Row]:
    """Return `scored_rows`, the worst-served groups, and baselines to compare with.

    Those are the prompt-free and length-only baselines and the value-blind ceiling. Groups with
    fewer than `min_users` users are counted but not shown.
    """
    users = [score.user_id for score in prompt_free]
    free = clustered_mean(PROMPT_FREE.of(prompt_free), users, PROMPT_FREE.kind)
    rows = [
        *scored_rows(subject, stage, scores, base, min_users=min_users),
        *score_headlines(stage, subject.name, scores, subject.groups, base, min_users=min_users),
        row(stage, subject.name, PROMPT_FREE.name, free),
        row(stage, subject.name, LENGTH_ONLY.name, length_only(scores)),
    ]
    if subject.ceiling is not None:
        exact = Estimate(subject.ceiling, None, None, len(scores), len(set(users)))
        rows.append(row(stage, subject.name, CEILING.name, exact))
    return rows
