"""TRL's DPO losses, asked of TRL, which lists them nowhere but in the branches of its trainer."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PAIR_LOSSES = ("sigmoid", "hinge", "ipo")
"""Those whose pairs `train.objective` can weight: it needs each pair's loss, and TRL gives their
mean."""
SORTING_LOSSES = ("aot", "aot_unpaired")
"""Those that sort a pass's log-ratios, so that WPO's weights would fall on other pairs."""


@cache
def trl_losses() -> dict[str, str]:
    """By the name that `train.loss_type` takes, the source text of the formula.

    Read and not imported: importing TRL loads torch, which takes seconds, and a mistyped name is
    to be refused before that.
    """
    found = find_spec("trl")
    assert found and found.origin
    source = Path(found.origin).with_name("trainer").joinpath("dpo_trainer.py").read_text("utf-8")
    _, *parts = re.split(r'if loss_type == "(\w+)":', source.partition("Unknown loss type")[0])
    return dict(zip(parts[::2], parts[1::2], strict=True))


def losses_with_divergence() -> list[str]:
    """Return those made of the rewards that `train.f_divergence_type` changes.

    The others take the log-ratios of policy and reference themselves.
    """
    scores = re.compile(r"\b(delta_score|chosen_scores)\b")
    return [name for name, formula in trl_losses().items() if scores.search(formula)]
