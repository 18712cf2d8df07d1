"""Counterfactual pairs: the same question, asked by somebody who states the opposite.

They make up what the data lack: that a person who states the other level of a value would prefer
the other answer. That is an assumption about people and no observation of one. It follows the
benchmark's own rule, by which one answer shows a value and the other goes against it. Such pairs
are for training only.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from mvp_align.schema import DIMENSIONS, PreferencePair, StatedValues

SUFFIX = "-counterfactual"
"""Of the ids of such pairs, after that of the pair that they are made from."""
OPPOSITE = {"High": "Low", "Low": "High"}
SCORES = {"High": 100, "Low": 0}
"""The scores that stand for a level nobody stated."""


def counterfactual_pairs(
    pairs: Sequence[PreferencePair], flips: str
) -> tuple[list[PreferencePair], dict[str, int]]:
    """Return a pair for each that has a counterpart, and how many have none, by reason.

    With `flips="dimension"`, the person states the opposite level of the dimension that the
    question is about, and all else as before. With `flips="all"`, the opposite level of every
    dimension, which needs no record to name its own. The answers are exchanged.
    """
    made = []
    left_out: Counter[str] = Counter()
    for pair in pairs:
        found = _counterpart(pair, flips)
        if isinstance(found, str):
            left_out[found] += 1
        else:
            made.append(found)
    return made, dict(left_out)


def origin(pair_id: str) -> str:
    """Return the id of the pair that a counterfactual one was made from; others keep theirs."""
    return pair_id.removesuffix(SUFFIX)


def _counterpart(pair: PreferencePair, flips: str) -> PreferencePair | str:
    """Return the counterfactual pair, or the reason why there is none."""
    values = pair.stated_values
    if values is None or not values.preference():
        return "states no High or Low value"
    if pair.preference.strip() != values.preference():
        return "its preference text is not that of its scores"
    dimension = pair.groups.get("dimension", "")
    if flips == "dimension" and (not dimension or values.level(dimension) is None):
        return "does not name a dimension that its person states as High or Low"
    opposite = _opposite(values, (dimension,) if flips == "dimension" else DIMENSIONS)
    groups = dict(pair.groups)
    if "level" in groups:
        groups["level"] = OPPOSITE[groups["level"]]
    return replace(
        pair,
        id=pair.id + SUFFIX,
        chosen=pair.rejected,
        rejected=pair.chosen,
        stated_values=opposite,
        preference=opposite.preference(),
        groups=groups,
    )


def _opposite(values: StatedValues, dimensions: Sequence[str]) -> StatedValues:
    """Return the values with the opposite level on `dimensions`, where there is one."""
    levels = {name: values.level(name) for name in dimensions}
    return replace(
        values, **{name: SCORES[OPPOSITE[level]] for name, level in levels.items() if level}
    )
