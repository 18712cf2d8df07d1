"""Show the same pairs with different profiles: does a model use who asks, or would any profile do?

`evals.profiles` selects from four kinds. `none` shows only the question, `demographics` the paper's
prompt, `values` the paper's prompt and the user's stated values, and `shuffled` the user's
demographics and another user's values. A free-text profile (UF-P-4, own pairs) states both at once.
There, `demographics` and `values` are one kind, `given`, and `shuffled` shows another profile of
the set.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mvp_align.config import Prompt, packaged_prompt
from mvp_align.data.prompts import PAPER
from mvp_align.schema import PreferencePair

KINDS = ("none", "demographics", "values", "shuffled")
QUESTION, PREFERENCE = packaged_prompt("question"), packaged_prompt("preference")
SHUFFLE_SEED = 12
"""Fixed, so that runs of every seed show a user the same other user's values."""
NO_OTHER = "nobody in the set has other values to show instead"


@dataclass(frozen=True, slots=True)
class Swapped:
    """For each kind, its prompt and the same pairs, in the same order, as that prompt shows them.

    For pairs about one value dimension, `level_changed` says by pair id whether `shuffled` shows
    another level of that dimension. If it shows the same level, values and shuffled values ask for
    the same answer. `left_out` counts the pairs that no kind includes, by reason.
    """

    kinds: Mapping[str, tuple[Prompt, list[PreferencePair]]]
    level_changed: Mapping[str, bool]
    left_out: Mapping[str, int]


def swap_profiles(pairs: Sequence[PreferencePair], kinds: Sequence[str]) -> Swapped:
    """Return every pair that all `kinds` can show, and count the others by reason."""
    structured = any(pair.profile is not None for pair in pairs)
    return _swap_values(pairs, kinds) if structured else _swap_texts(pairs, kinds)


def _swap_values(pairs: Sequence[PreferencePair], kinds: Sequence[str]) -> Swapped:
    """Swap structured profiles.

    `shuffled` keeps a user's demographics and shows another user's values.
    """
    left_out: Counter[str] = Counter()
    shows_values = bool({"values", "shuffled"} & set(kinds))
    kept = []
    for pair in pairs:
        reason = "names no profile" if pair.profile is None else ""
        if shows_values and not pair.preference.strip():
            reason = reason or "states no values"
        left_out.update([reason] if reason else [])
        kept += [] if reason else [pair]
    shuffled = kept
    if "shuffled" in kinds:
        first = {pair.user_id: pair for pair in reversed(kept)}  # the first pair of each user
        donors = derangement({user: pair.preference for user, pair in first.items()})
        left_out.update(NO_OTHER for pair in kept if pair.user_id not in donors)
        kept = [pair for pair in kept if pair.user_id in donors]
        shuffled = [_with_values_of(first[donors[pair.user_id]], pair) for pair in kept]
    shown = {"none": (QUESTION, kept), "demographics": (PAPER, kept), "values": (PREFERENCE, kept)}
    shown["shuffled"] = (PREFERENCE, shuffled)
    return Swapped({kind: shown[kind] for kind in kinds}, _level_changes(kept, shuffled), left_out)


def _with_values_of(other: PreferencePair, pair: PreferencePair) -> PreferencePair:
    return replace(pair, preference=other.preference, stated_values=other.stated_values)


def _level_changes(
    pairs: Sequence[PreferencePair], shuffled: Sequence[PreferencePair]
) -> dict[str, bool]:
    changed = {}
    for own, other in zip(pairs, shuffled, strict=True):
        dimension = own.groups.get("dimension")
        if other is not own and dimension and own.stated_values and other.stated_values:
            changed[own.id] = own.stated_values.level(dimension) != other.stated_values.level(
                dimension
            )
    return changed


def _swap_texts(pairs: Sequence[PreferencePair], kinds: Sequence[str]) -> Swapped:
    """Swap free-text profiles: `shuffled` shows another text of the set."""
    kept = [pair for pair in pairs if pair.profile_text.strip()]
    left_out = Counter({"names no profile": len(pairs) - len(kept)})
    shuffled = kept
    if "shuffled" in kinds:
        donors = derangement({pair.profile_text: pair.profile_text.strip() for pair in kept})
        left_out[NO_OTHER] = sum(pair.profile_text not in donors for pair in kept)
        kept = [pair for pair in kept if pair.profile_text in donors]
        shuffled = [replace(pair, profile_text=donors[pair.profile_text]) for pair in kept]
    shown = {"none": (QUESTION, kept), "given": (PAPER, kept), "shuffled": (PAPER, shuffled)}
    asked = {"given" if kind in ("demographics", "values") else kind for kind in kinds}
    return Swapped({kind: shown[kind] for kind in shown if kind in asked}, {}, +left_out)


def derangement(texts: Mapping[str, str]) -> dict[str, str]:
    """Assign each user another user with a different text, at random, each used at most once.

    Users are ordered so that equal texts are adjacent, with users and texts in random order. Each
    user gets the one that follows at a distance equal to the size of the largest group of equal
    texts. So nobody gets their own or an equal text, unless more than half of all users share one.
    Then as few as possible have no counterpart and are missing from the result.
    """
    draw = np.random.default_rng(SHUFFLE_SEED)
    same: dict[str, list[str]] = defaultdict(list)
    for person in map(sorted(texts).__getitem__, draw.permutation(len(texts))):
        same[texts[person]].append(person)
    people = [person for group in same.values() for person in group]
    step = max(map(len, same.values()), default=0)
    pairs = ((person, people[(place + step) % len(people)]) for place, person in enumerate(people))
    return {person: other for person, other in pairs if texts[other] != texts[person]}
