"""Splits by user are disjoint partitions, and reproducible by seed."""

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mvp_align.data.readers import read_pairs
from mvp_align.data.splits import check_disjoint, split_by_user
from mvp_align.errors import UserError
from mvp_align.schema import PreferencePair

PSOUPS = Path(__file__).parents[2] / ".." / "shared" / "data" / "psoups_friendly.json"

user_lists = st.lists(st.integers(0, 30).map("user{}".format), min_size=2, max_size=80)
shares = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**32)


def pairs_of(users: list[str]) -> list[PreferencePair]:
    return [PreferencePair(f"p{n}", user, f"q{n}", "yes", "no") for n, user in enumerate(users)]


@given(user_lists, shares, seeds)
def test_split_is_a_disjoint_partition_of_the_size_asked_for(
    users: list[str], share: float, seed: int
) -> None:
    count = len(set(users))
    assume(count > 1)
    pairs = pairs_of(users)
    train, test = split_by_user(pairs, share, seed)
    assert [p for p in pairs if p in train] == train and [p for p in pairs if p in test] == test
    assert len(train) + len(test) == len(pairs)
    check_disjoint({"train": train, "test": test})
    assert len({p.user_id for p in test}) == min(max(1, round(share * count)), count - 1)


@given(user_lists, shares, seeds, st.randoms())
def test_split_depends_on_users_and_seed_alone(
    users: list[str], share: float, seed: int, random: object
) -> None:
    assume(len(set(users)) > 1)
    tested = {p.user_id for p in split_by_user(pairs_of(users), share, seed)[1]}
    more = users[::-1] + users[:1]
    assert {p.user_id for p in split_by_user(pairs_of(more), share, seed)[1]} == tested


def test_another_seed_gives_another_split() -> None:
    pairs = pairs_of([f"user{n}" for n in range(100)])
    assert split_by_user(pairs, 0.2, 12) != split_by_user(pairs, 0.2, 13)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_shares_outside_are_refused(share: float) -> None:
    with pytest.raises(UserError, match=r"data\.test_share=.*between 0 and 1"):
        split_by_user(pairs_of(["a", "b"]), share, 12)


def test_one_user_cannot_be_split() -> None:
    with pytest.raises(UserError, match=r"1 user.*data\.test=PATH"):
        split_by_user(pairs_of(["a", "a"]), 0.5, 12)


def test_overlap_names_sets_and_the_first_five_users() -> None:
    sets = {
        "train": pairs_of(list("gfedcbaz")),
        "val": pairs_of(["z"]),
        "test": pairs_of(list("abcdefg")),
    }
    with pytest.raises(UserError) as caught:
        check_disjoint(sets)
    said = str(caught.value)
    assert "7 user(s) are in both train and test: a, b, c, d, e, .... A score" in said
    assert "1 user(s) are in both train and val: z" in said
    assert "both val and test" not in said and "take these users out" in said


def test_disjoint_sets_pass() -> None:
    check_disjoint({"train": pairs_of(["a"]), "val": [], "test": pairs_of(["b"])})


@pytest.mark.skipif(
    not PSOUPS.exists(), reason="the shared P-Soups file is not beside this checkout"
)
def test_a_real_file_splits_by_prompt() -> None:
    train, test = split_by_user(read_pairs(str(PSOUPS), "ufp4").pairs, 0.2, 12)
    assert (len({p.question for p in train}), len({p.question for p in test})) == (90, 22)
    assert not {p.question for p in train} & {p.question for p in test}
    assert len(train) + len(test) == 600
