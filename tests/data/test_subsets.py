"""Subsets cover every group, and a larger subset includes a smaller one."""

from collections import Counter
from random import Random

import pytest

from mvp_align.data.readers import read_pairs
from mvp_align.data.subsets import draw, drawn_line, drawn_order
from mvp_align.schema import PreferencePair

UFP4 = read_pairs("sample:ufp4", "ufp4").pairs
TEST = read_pairs("sample:test.json", "mvpbench").pairs


def counts(pairs: list[PreferencePair], *names: str) -> Counter[tuple[str, ...]]:
    return Counter(tuple(pair.groups.get(name, "") for name in names) for pair in pairs)


@pytest.mark.parametrize("count", [4, 8, 9, 30])
def test_every_user_type_has_its_share(count: int) -> None:
    shares = counts(draw(UFP4, count, 12), "user_type")
    assert len(shares) == 4 and sum(shares.values()) == count
    assert max(shares.values()) - min(shares.values()) <= 1


def test_every_dimension_and_level_has_its_share() -> None:
    there = counts(TEST, "dimension", "level")
    shares = counts(draw(TEST, len(there), 12), "dimension", "level")
    assert shares == dict.fromkeys(there, 1)
    more = counts(draw(TEST, 3 * len(there), 12), "dimension", "level")
    assert all(more[group] >= min(3, number) for group, number in there.items())


def test_a_group_that_is_used_up_leaves_the_rest_to_the_others() -> None:
    few = [pair for pair in UFP4 if pair.groups["user_type"] != "honesty"]
    few += [pair for pair in UFP4 if pair.groups["user_type"] == "honesty"][:1]
    shares = counts(draw(few, 13, 12), "user_type")
    assert shares["honesty",] == 1 and sorted(shares.values()) == [1, 4, 4, 4]


def test_a_draw_follows_from_the_seed_and_the_pairs_alone() -> None:
    shuffled = Random(1).sample(UFP4, len(UFP4))
    for count in (1, 7, 20):
        drawn = draw(UFP4, count, 12)
        assert {p.id for p in draw(shuffled, count, 12)} == {p.id for p in drawn}
        assert [p for p in UFP4 if p in drawn] == drawn  # in the set's order
        assert {p.id for p in drawn} <= {p.id for p in draw(UFP4, count + 1, 12)}
    assert len({tuple(p.id for p in draw(UFP4, 7, seed)) for seed in range(10)}) == 10
    assert drawn_order(UFP4, 12)[:20] == sorted(draw(UFP4, 20, 12), key=drawn_order(UFP4, 12).index)


def test_no_pair_is_favoured() -> None:
    """Without groups it is a plain draw: each of 20 pairs in half of the halves, to chance."""
    pairs = [PreferencePair(str(n), "u", f"{n}?", "a", "b") for n in range(20)]
    drawn = Counter(pair.id for seed in range(400) for pair in draw(pairs, 10, seed))
    assert all(150 < drawn[pair.id] < 250 for pair in pairs)


def test_all_or_more_is_all() -> None:
    assert draw(UFP4, None, 12) == draw(UFP4, len(UFP4), 12) == draw(UFP4, 10**6, 12) == UFP4
    assert drawn_line(UFP4, None, 12) == drawn_line(UFP4, len(UFP4), 12) == ""
    assert (
        drawn_line(UFP4, 8, 12)
        == "8 of 72 pairs, drawn by seed 12 evenly over user_type (2 of each of 4)"
    )
    assert (
        drawn_line(UFP4, 3, 12)
        == "3 of 72 pairs, drawn by seed 12 evenly over user_type (0 to 1 of each of 4)"
    )
    plain = [PreferencePair(str(n), "u", f"{n}?", "a", "b") for n in range(3)]
    assert drawn_line(plain, 2, 5) == "2 of 3 pairs, drawn by seed 5"
