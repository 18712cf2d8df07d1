"""Splits by user: nobody is in both training and test data."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from random import Random

from mvp_align.errors import UserError
from mvp_align.schema import PreferencePair


def split_by_user(
    pairs: Sequence[PreferencePair], test_share: float, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Return training and test pairs, each in the given order.

    `round(test_share * users)` users are tested, with at least one user on each side. The split
    depends only on the set of user ids and the seed, not on the order of pairs.

    Raises:
        UserError: if there are fewer than two users, or the share is outside (0, 1).
    """
    if not 0 < test_share < 1:
        raise UserError(f"data.test_share={test_share}: must lie between 0 and 1.")
    users = sorted({pair.user_id for pair in pairs})
    if len(users) < 2:
        raise UserError(
            f"{len(users)} user(s) cannot be split into training and test: give records of more"
            " people, or a file of its own for testing with data.test=PATH."
        )
    Random(seed).shuffle(users)
    count = min(max(1, round(test_share * len(users))), len(users) - 1)
    tested = set(users[:count])
    return [p for p in pairs if p.user_id not in tested], [p for p in pairs if p.user_id in tested]


def check_disjoint(sets: Mapping[str, Sequence[PreferencePair]]) -> None:
    """Raise UserError if users are in more than one of `sets`, naming up to five per two sets."""
    users = {name: {pair.user_id for pair in pairs} for name, pairs in sets.items()}
    problems = []
    for one, other in combinations(users, 2):
        shared = sorted(users[one] & users[other])
        if shared:
            named = ", ".join(shared[:5]) + (", ..." if len(shared) > 5 else "")
            problems.append(f"{len(shared)} user(s) are in both {one} and {other}: {named}")
    if problems:
        raise UserError(
            f"{'; '.join(problems)}. A score on people who were trained on says nothing about"
            " others: take these users out of one side, or give data.train alone and it is split"
            " by user. (Records that name no person have their prompt as user, prompt-<hash>.)"
        )
