"""Pairs for other tools, read and rendered as in our own runs."""

from mvp_align.config import Config, Prompt
from mvp_align.data.profiles import PREFERENCE, QUESTION
from mvp_align.data.prompts import PAPER, as_plain_text
from mvp_align.data.readers import read_pairs
from mvp_align.data.subsets import drawn_order
from mvp_align.errors import UserError
from mvp_align.metrics.opa import ACCS, MARGIN, MEAN
from mvp_align.schema import PairScore, PromptedPair

PROMPTS: dict[str, Prompt] = {prompt.name: prompt for prompt in (PAPER, PREFERENCE, QUESTION)}
"""Prompts by their names in `conf/prompt/`."""


def read_prompted(data: str, format: str, prompt: str) -> list[PromptedPair]:
    """Read the pairs of `data`, in a format of `data.formats` or `auto`, as texts.

    Every prefix of their order is evenly drawn over groups, because `--limit` of both tools takes a
    prefix. Raises the same UserErrors as `read_pairs`, and one for conversations that only a chat
    template can write.
    """
    if prompt not in PROMPTS:
        raise UserError(f"prompt={prompt}: must be one of {', '.join(PROMPTS)}.")
    shown = PROMPTS[prompt]
    return [
        as_plain_text(pair, shown)
        for pair in drawn_order(read_pairs(data, format).pairs, Config.seed)
    ]


def opa_of(score: PairScore) -> dict[str, float]:
    """Return acc@0, OPA (the mean of acc@d) and the margin, in nats per token, of one pair."""
    named = {"acc@0": ACCS[0], "opa": MEAN, "margin": MARGIN}
    return {name: metric.of([score])[0] for name, metric in named.items()}
