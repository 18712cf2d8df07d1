"""The profile ablation of a run: score each set's pairs under every kind of profile, or of history.

Scores are written to `scores/<stage>-<set>-profile_<kind>.jsonl` (`choices_<kind>` for earlier
choices). `mvp_align.data.profiles` defines the kinds, `mvp_align.metrics.profile_ablation` the
metrics.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import nn
from transformers import PreTrainedTokenizerBase

from mvp_align.config import Config
from mvp_align.data.profiles import Swapped, swap_choices, swap_profiles
from mvp_align.data.prompts import render_prompts
from mvp_align.metrics.opa import UNDER_CHOICES, UNDER_PROFILE
from mvp_align.metrics.profile_ablation import profile_rows
from mvp_align.metrics.rows import Row
from mvp_align.runs.run_folder import RunFolder
from mvp_align.runtime.processes import broadcast_from_main
from mvp_align.schema import PairScore, PreferencePair
from mvp_align.scoring.cache import LogpCache
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.tokens import TokenizedPair, tokenize_pairs

OVER_LIMIT = "over the token limits under one of them"
Shown = Literal["profile", "choices"]
"""What differs between the kinds: the profile, or the earlier choices."""
CHECKS: dict[Shown, str] = {"profile": "profile checks", "choices": "history checks"}
MEASURED = {"profile": UNDER_PROFILE, "choices": UNDER_CHOICES}


@dataclass(frozen=True, slots=True)
class ProfilePasses:
    """The pairs of one set, in the same order, tokenised under each kind of what is `shown`.

    `kinds` is empty if no pair can be shown under all of them. `level_changed` comes from
    `Swapped`. `left_out` counts the set's other pairs by reason.
    """

    set_name: str
    shown: Shown
    kinds: Mapping[str, list[TokenizedPair]]
    level_changed: Mapping[str, bool]
    left_out: Mapping[str, int]


def profile_passes(
    set_name: str,
    pairs: Sequence[PreferencePair],
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
) -> list[ProfilePasses]:
    """Tokenise the pairs under each kind of `evals.profiles`, and of `evals.choices`."""
    evals, found = config.evals, list[ProfilePasses]()
    if evals.profiles:
        swapped = swap_profiles(pairs, evals.profiles)
        found.append(_passes(set_name, "profile", swapped, config, tokenizer))
    if evals.choices:
        swapped = swap_choices(pairs, evals.choices, config.prompt)
        found.append(_passes(set_name, "choices", swapped, config, tokenizer))
    return found


def _passes(
    set_name: str,
    shown: Shown,
    swapped: Swapped,
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
) -> ProfilePasses:
    """Tokenise the pairs under each kind, and drop those over the run's token limits.

    They are chat turns if the run's own prompt is one.
    """
    limits = config.data
    tokenized = {
        kind: (
            tokenize_pairs(
                render_prompts(
                    pairs,
                    replace(prompt, chat=config.prompt.chat, date=config.prompt.date),
                    tokenizer,
                ),
                tokenizer,
            ).pairs
        )
        for kind, (prompt, pairs) in swapped.kinds.items()
    }
    over = {
        pair.id
        for found in tokenized.values()
        for pair in found
        if pair.prompt_tokens > limits.max_prompt_tokens or pair.longest > limits.max_tokens
    }
    kept = {
        kind: [pair for pair in found if pair.id not in over] for kind, found in tokenized.items()
    }
    changed = {name: change for name, change in swapped.level_changed.items() if name not in over}
    left_out = Counter(swapped.left_out) + Counter({OVER_LIMIT: len(over)})
    kinds = {kind: found for kind, found in kept.items() if found}
    return ProfilePasses(set_name, shown, kinds, changed, left_out)


def pass_lines(profiles: Iterable[ProfilePasses]) -> list[str]:
    """Describe what will be scored, set by set."""
    lines = []
    for passes in profiles:
        scored = max((len(pairs) for pairs in passes.kinds.values()), default=0)
        kinds = ", ".join(passes.kinds) or "no kind"
        lines.append(
            f"{passes.set_name}: {CHECKS[passes.shown]} score {scored} pairs again under {kinds}"
        )
        if changed := passes.level_changed:
            share = sum(changed.values()) / len(changed)
            lines[-1] += (
                f"; for {share:.0%} of them the other person states another level of the dimension"
                " that they are about"
            )
    return lines


def missing_lines(profiles: Iterable[ProfilePasses]) -> list[str]:
    """List pairs that only the profile ablation leaves out, with the reasons."""
    return [
        f"{passes.set_name}: {count} pairs left out of the {CHECKS[passes.shown]}: {reason}"
        for passes in profiles
        for reason, count in passes.left_out.items()
    ]


def _scores_name(passes: ProfilePasses, kind: str) -> str:
    return f"{passes.set_name}-{passes.shown}_{kind}"


def measure_profiles(
    stage: str,
    model: nn.Module,
    profiles: Iterable[ProfilePasses],
    run: RunFolder,
    config: Config,
    cache: LogpCache,
) -> None:
    """Score every pass and write its scores, skipping what an interrupted process already wrote."""
    for passes in profiles:
        for kind, pairs in passes.kinds.items():
            if broadcast_from_main(partial(_scored, run, stage, passes, kind)) is not None:
                continue
            label = f"{stage} {passes.set_name}, {passes.shown} {kind}"
            scores = score_pairs(
                model, pairs, batch_size=config.evals.batch_size, label=label, cache=cache
            )
            run.write_scores(stage, _scores_name(passes, kind), scores)


def _scored(run: RunFolder, stage: str, passes: ProfilePasses, kind: str) -> list[PairScore] | None:
    """Return the scores of exactly these pairs, if the run has them."""
    known = run.read_scores(stage, _scores_name(passes, kind)) or []
    wanted = [pair.id for pair in passes.kinds[kind]]
    return known if [score.id for score in known] == wanted else None


def rows_of_profiles(profiles: Iterable[ProfilePasses], run: RunFolder) -> list[Row]:
    """Return every profile metric of the stages whose scores the run has."""
    rows: list[Row] = []
    for passes in profiles:
        found = {
            stage: {
                kind: scores
                for kind in passes.kinds
                if (scores := _scored(run, stage, passes, kind)) is not None
            }
            for stage in ("base", "tuned")
        }
        name, changed, measured = passes.set_name, passes.level_changed, MEASURED[passes.shown]
        rows += profile_rows("base", name, found["base"], {}, changed, measured)
        rows += profile_rows("tuned", name, found["tuned"], found["base"], changed, measured)
    return rows
