"""Prepare sets of pairs, score them, and compute their metrics.

Recipes, callbacks and `evaluate.py` share this code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn
from transformers import PreTrainedTokenizerBase

from mvp_align.config import Prompt
from mvp_align.data.ceiling import majority_shares
from mvp_align.data.prompts import prompts_sha256, render_prompts
from mvp_align.errors import UserError
from mvp_align.metrics.groups import with_region
from mvp_align.metrics.intervals import clustered_mean
from mvp_align.metrics.opa import LENGTH_ONLY, PROMPT_FREE
from mvp_align.metrics.rows import Row, row
from mvp_align.metrics.score_rows import (
    ceiling_rows,
    length_only,
    score_headlines,
    score_rows,
)
from mvp_align.metrics.variables import crossed_name, tags_of
from mvp_align.metrics.worst_group import worst_group_rows
from mvp_align.schema import PairScore, PreferencePair
from mvp_align.scoring.cache import LogpCache
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.tokens import TokenizedPair, tokenize_pairs


@dataclass(frozen=True, slots=True)
class EvalSet:
    """Pairs within the length limits, tokenised with and without their prompt.

    `blind`: pair id -> what the best model that ignores who is asking gets right of it
    (`data.ceiling.majority_shares`). It is empty if no question is asked by users who disagree,
    because that would be 100 % everywhere and carry no information.
    """

    name: str
    pairs: list[TokenizedPair]
    prompt_free: list[TokenizedPair]
    groups: Mapping[str, Mapping[str, str]]
    blind: Mapping[str, float]
    over_limit: int
    merged: int
    prompts_sha256: str = ""
    """Hash of the prompts (`data.prompts.prompts_sha256`)."""

    @property
    def ceiling(self) -> float | None:
        """The best acc@0 of a model that ignores who is asking, None where `blind` is empty."""
        return sum(self.blind.values()) / len(self.blind) if self.blind else None

    @property
    def users_and_tags(self) -> tuple[list[str], list[Mapping[str, str]]]:
        """Whose each pair is, and its groups, in the order of the pairs."""
        users = [pair.user_id for pair in self.pairs]
        return users, [self.groups[pair.id] for pair in self.pairs]


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
    shares = majority_shares(kept)
    disagreeing = min(shares) < 1
    return EvalSet(
        name=name,
        pairs=[pair for pair, fit in zip(tokenized.pairs, fits, strict=True) if fit],
        prompt_free=tokenize_pairs(bare, tokenizer).pairs,
        groups={pair.id: tag for pair, tag in zip(kept, tags, strict=True)},
        blind={pair.id: x for pair, x in zip(kept, shares, strict=True)} if disagreeing else {},
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
    worst_by: str = "",
) -> list[Row]:
    """Every metric of pair scores, of the whole set and its groups; where pairs have a user type,
    of each as a set of its own (`ufp4/honesty`).

    `worst_by`, a group variable or several joined by `+`, adds the worst group.
    """
    name, groups = subject.name, subject.groups
    by = crossed_name(worst_by)
    rows = score_rows(stage, name, scores, groups, base, min_users=min_users, also_by=by)
    if worst_by:
        rows += worst_group_rows(stage, name, scores, groups, worst_by, min_users)
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
    worst_by: str = "",
) -> list[Row]:
    """Return `scored_rows`, the worst-served groups, and baselines to compare with.

    Those are the prompt-free and length-only baselines and the value-blind ceiling. Groups with
    fewer than `min_users` users are counted but not shown.
    """
    name, groups, by = subject.name, subject.groups, crossed_name(worst_by)
    users = [score.user_id for score in prompt_free]
    free = clustered_mean(PROMPT_FREE.of(prompt_free), users, PROMPT_FREE.kind)
    rows = [
        *scored_rows(subject, stage, scores, base, min_users=min_users, worst_by=worst_by),
        *score_headlines(stage, name, scores, groups, base, min_users=min_users, also_by=by),
        row(stage, name, PROMPT_FREE.name, free),
        row(stage, name, LENGTH_ONLY.name, length_only(scores)),
    ]
    if subject.blind:
        rows += ceiling_rows(
            stage, name, scores, groups, subject.blind, min_users=min_users, also_by=by
        )
    return rows
