"""The profile ablation of a run: score each set's pairs under every kind of profile.

Scores are written to `scores/<stage>-<set>-profile_<kind>.jsonl`. `mvp_align.data.profiles` defines
the kinds, `mvp_align.metrics.profile_ablation` the metrics.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import nn
from transformers import PreTrainedTokenizerBase

from mvp_align.config import Config
from mvp_align.data.profiles import swap_profiles
from mvp_align.data.prompts import render_prompts
from mvp_align.metrics.profile_ablation import profile_rows
from mvp_align.metrics.rows import Row
from mvp_align.runs.run_folder import RunFolder
from mvp_align.runtime.processes import broadcast_from_main
from mvp_align.schema import PairScore, PreferencePair
from mvp_align.scoring.cache import LogpCache
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.tokens import TokenizedPair, tokenize_pairs

OVER_LIMIT = "over the token limits under one of the profiles"


@dataclass(frozen=True, slots=True)
class ProfilePasses:
    """The pairs of one set, in the same order, tokenised under each kind of profile.

    `kinds` is empty if no pair can be shown under all of them. `level_changed` comes from
    `Swapped`. `left_out` counts the set's other pairs by reason.
    """

    kinds: Mapping[str, list[TokenizedPair]]
    level_changed: Mapping[str, bool]
    left_out: Mapping[str, int]


def profile_passes(
    pairs: Sequence[PreferencePair], config: Config, tokenizer: PreTrainedTokenizerBase
) -> ProfilePasses:
    """Tokenise the pairs under each kind of profile, and drop those over the run's token limits.

    They are chat turns if the run's own prompt is one.
    """
    limits, swapped = config.data, swap_profiles(pairs, config.evals.profiles)
    tokenized = {
        kind: (
            tokenize_pairs(
                render_prompts(
                    shown,
                    replace(prompt, chat=config.prompt.chat, date=config.prompt.date),
                    tokenizer,
                ),
                tokenizer,
            ).pairs
        )
        for kind, (prompt, shown) in swapped.kinds.items()
    }
    over = {
        pair.id
        for shown in tokenized.values()
        for pair in shown
        if pair.prompt_tokens > limits.max_prompt_tokens or pair.longest > limits.max_tokens
    }
    kept = {
        kind: [pair for pair in shown if pair.id not in over] for kind, shown in tokenized.items()
    }
    changed = {name: change for name, change in swapped.level_changed.items() if name not in over}
    left_out = Counter(swapped.left_out) + Counter({OVER_LIMIT: len(over)})
    return ProfilePasses({kind: shown for kind, shown in kept.items() if shown}, changed, left_out)


def pass_lines(profiles: Mapping[str, ProfilePasses]) -> list[str]:
    """Describe what will be scored, set by set."""
    lines = []
    for name, passes in profiles.items():
        scored = max((len(pairs) for pairs in passes.kinds.values()), default=0)
        kinds = ", ".join(passes.kinds) or "no profile"
        lines.append(f"{name}: profile checks score {scored} pairs again under {kinds}")
        if changed := passes.level_changed:
            share = sum(changed.values()) / len(changed)
            lines[-1] += (
                f"; shuffled shows {share:.0%} of them another level of the dimension that they are"
                " about"
            )
    return lines


def missing_lines(profiles: Mapping[str, ProfilePasses]) -> list[str]:
    """List pairs that only the profile ablation leaves out, with the reasons."""
    return [
        f"{name}: {count} pairs left out of the profile checks: {reason}"
        for name, passes in profiles.items()
        for reason, count in passes.left_out.items()
    ]


def _scores_name(set_name: str, kind: str) -> str:
    return f"{set_name}-profile_{kind}"


def measure_profiles(
    stage: str,
    model: nn.Module,
    profiles: Mapping[str, ProfilePasses],
    run: RunFolder,
    config: Config,
    cache: LogpCache,
) -> None:
    """Score every pass and write its scores, skipping what an interrupted process already wrote."""
    for name, passes in profiles.items():
        for kind, pairs in passes.kinds.items():
            if broadcast_from_main(partial(_scored, run, stage, name, kind, pairs)) is not None:
                continue
            label = f"{stage} {name}, profile {kind}"
            scores = score_pairs(
                model, pairs, batch_size=config.evals.batch_size, label=label, cache=cache
            )
            run.write_scores(stage, _scores_name(name, kind), scores)


def _scored(
    run: RunFolder, stage: str, name: str, kind: str, pairs: Sequence[TokenizedPair]
) -> list[PairScore] | None:
    """Return the scores of exactly these pairs, if the run has them."""
    known = run.read_scores(stage, _scores_name(name, kind)) or []
    return known if [score.id for score in known] == [pair.id for pair in pairs] else None


def rows_of_profiles(profiles: Mapping[str, ProfilePasses], run: RunFolder) -> list[Row]:
    """Return every profile metric of the stages whose scores the run has."""
    rows: list[Row] = []
    for name, passes in profiles.items():
        found = {
            stage: {
                kind: scores
                for kind, pairs in passes.kinds.items()
                if (scores := _scored(run, stage, name, kind, pairs)) is not None
            }
            for stage in ("base", "tuned")
        }
        rows += profile_rows("base", name, found["base"], {}, passes.level_changed)
        rows += profile_rows("tuned", name, found["tuned"], found["base"], passes.level_changed)
    return rows
