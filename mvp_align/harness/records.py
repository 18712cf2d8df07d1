"""Pairs as other tools take them: read and rendered as in a run of our own."""

from mvp_align.config import Config, Prompt
from mvp_align.data.profiles import PREFERENCE, QUESTION
from mvp_align.data.prompts import PAPER, render
from mvp_align.data.readers import read_pairs
from mvp_align.data.subsets import drawn_order
from mvp_align.errors import UserError
from mvp_align.metrics.opa import ACCS, MARGIN, MEAN
from mvp_align.schema import PairScore, PromptedPair

PROMPTS: dict[str, Prompt] = {prompt.name: prompt for prompt in (PAPER, PREFERENCE, QUESTION)}
"""What is shown before the answers, by the names of `conf/prompt/`."""


def read_texts(data: str, format: str, prompt: str) -> list[PromptedPair]:
    """The pairs of `data`, in `mvpbench`, `ufp4` or `pairs` format, in an order of which any first
    ones are a draw even over groups: both tools' `--limit` takes those. Raises UserError as
    `read_pairs` does."""
    if prompt not in PROMPTS:
        raise UserError(f"prompt={prompt}: must be one of {', '.join(PROMPTS)}.")
    shown = PROMPTS[prompt]
    return [
        PromptedPair(pair.id, pair.user_id, render(pair, shown), pair.chosen, pair.rejected)
        for pair in drawn_order(read_pairs(data, format).pairs, Config.seed)
    ]


def opa_of(score: PairScore) -> dict[str, float]:
    """acc@0, OPA (the mean of acc@d) and the margin in nats a token, of one pair."""
    named = {"acc@0": ACCS[0], "opa": MEAN, "margin": MARGIN}
    return {name: metric.of([score])[0] for name, metric in named.items()}
