"""TRL's DPO losses, asked of TRL, which lists them nowhere but in the branches of its trainer."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PAIR_LOSSES = ("sigmoid", "hinge", "ipo")
"""Those whose pairs `train.objective` can weight: it needs each pair's loss, and TRL gives their
mean."""


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
