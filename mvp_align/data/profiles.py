"""Show the same pairs with different profiles: does a model use who asks, or would any profile do?

`evals.profiles` selects from four kinds. `none` shows only the question, `demographics` the paper's
prompt, `values` the paper's prompt and the user's stated values, and `shuffled` the user's
demographics and another user's values. A free-text profile (UF-P-4, own pairs) states both at once.
There, `demographics` and `values` are one kind, `given`, and `shuffled` shows another profile of
the set.

`evals.choices` does the same with earlier choices: `none` shows none, `own_4` the person's first
four, `other_4` another person's.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from mvp_align.config import Prompt, packaged_prompt
from mvp_align.data.formats.record import names_person
from mvp_align.data.histories import asks
from mvp_align.data.prompts import PAPER, shows_choices
from mvp_align.schema import PreferencePair

KINDS = ("none", "demographics", "values", "shuffled")
QUESTION, PREFERENCE = packaged_prompt("question"), packaged_prompt("preference")
HISTORY = packaged_prompt("history")
SHUFFLE_SEED = 12
"""Fixed, so that runs of every seed show a user the same other user's values."""
NO_OTHER = "nobody in the set has other values to show instead"
NO_OTHER_CHOICES = "nobody in the set has other choices to show instead"


@dataclass(frozen=True, slots=True)
class Swapped:
    """For each kind, its prompt and the same pairs, in the same order, as that prompt shows them.

    For pairs about one value dimension, `level_changed` says by pair id whether the other person,
    whose values or choices are shown, states another level of that dimension. If it is the same
    level, both ask for the same answer. `left_out` counts the pairs that no kind includes, by
    reason.
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
    changed = _level_changes(zip(kept, shuffled, strict=True))
    return Swapped({kind: shown[kind] for kind in kinds}, changed, left_out)


def _with_values_of(other: PreferencePair, pair: PreferencePair) -> PreferencePair:
    return replace(pair, preference=other.preference, stated_values=other.stated_values)


def _level_changes(pairs: Iterable[tuple[PreferencePair, PreferencePair]]) -> dict[str, bool]:
    """Compare each pair's person with the other one, by the id of the first."""
    changed = {}
    for own, other in pairs:
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


def swap_choices(pairs: Sequence[PreferencePair], counts: Sequence[int], prompt: Prompt) -> Swapped:
    """Show every pair with each of `counts` earlier choices, its person's and another person's.

    Pairs with fewer choices than the most are in none of the kinds, so that all show the same
    pairs. The template is that of `prompt`, or, if it shows no choices, of `prompt=history`.
    """
    form, most = prompt if shows_choices(prompt) else HISTORY, max(counts)
    enough = [pair for pair in pairs if len(pair.choices) >= most]
    others = _others_for(enough, most)
    kept = [pair for pair in enough if pair.id in others]
    exchanged = [replace(pair, choices=others[pair.id].choices) for pair in kept]
    left_out = Counter(
        {
            f"fewer than {most} earlier choices": len(pairs) - len(enough),
            NO_OTHER_CHOICES: len(enough) - len(kept),
        }
    )
    kinds: dict[str, tuple[Prompt, list[PreferencePair]]] = {}
    for count in sorted({*counts}):
        shown = replace(form, choices=count)
        if count:
            kinds |= {f"own_{count}": (shown, kept), f"other_{count}": (shown, exchanged)}
        else:
            kinds["none"] = (shown, kept)
    changed = _level_changes((pair, others[pair.id]) for pair in kept)
    return Swapped(kinds, changed, +left_out)


def _others_for(pairs: Sequence[PreferencePair], most: int) -> dict[str, PreferencePair]:
    """Find another person for each pair: a pair of theirs, by the pair's id.

    People stand in an order drawn by `SHUFFLE_SEED`. Each pair takes the first that fits from a
    place that its person draws, so that a person's pairs mostly show the same other person.
    """
    people = {_key(pair): pair for pair in sorted(pairs, key=lambda pair: pair.id, reverse=True)}
    order = [people[key] for key in sorted(people)]
    Random(SHUFFLE_SEED).shuffle(order)
    found = {}
    for pair in pairs:
        start = Random(f"{SHUFFLE_SEED}\n{_key(pair)}").randrange(len(order))
        there = (order[(start + step) % len(order)] for step in range(len(order)))
        other = next((one for one in there if _can_stand_in(one, pair, most)), None)
        if other is not None:
            found[pair.id] = other
    return found


def _key(pair: PreferencePair) -> str:
    """Return whose choices a pair shows: its person's, or its record's own."""
    return pair.user_id if names_person(pair) else pair.id


def _can_stand_in(other: PreferencePair, pair: PreferencePair, most: int) -> bool:
    """Return whether `other` shows choices of somebody else, none about the question of `pair`.

    Free-text profiles (P-Soups' personas) tell people apart where records name none.
    """
    profile = pair.profile_text.strip()
    shown = other.choices[:most]
    return (
        other.user_id != pair.user_id
        and not (profile and profile == other.profile_text.strip())
        and {*shown} != {*pair.choices[:most]}
        and not asks(shown, pair.question)
    )


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
