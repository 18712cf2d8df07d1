"""Which pairs runs share, and what is said of the others."""

from pathlib import Path

import pytest
from compared_runs import Compose, compared_run, drawn_margins, users_of_ids
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_align.errors import UserError
from mvp_align.reporting.shared_pairs import run_names, shared_pairs
from mvp_align.runs.pair_files import write_scores
from mvp_align.schema import PairScore

IDS = [f"p{number}" for number in range(12)]


def shared_of(*runs: Path) -> tuple[str, ...]:
    return shared_pairs(runs, "in_domain").ids


def test_the_same_set_is_shared_whole_and_nothing_is_said(compose: Compose, tmp_path: Path) -> None:
    runs = [compared_run(compose, tmp_path / name, drawn_margins(1, IDS)) for name in "ab"]
    found = shared_pairs(runs, "in_domain")
    assert (found.ids, found.left_out()) == (tuple(IDS), [])


def test_what_one_run_lacks_is_left_out_of_all_and_counted(
    compose: Compose, tmp_path: Path
) -> None:
    one = compared_run(compose, tmp_path / "one", drawn_margins(1, IDS[:10]))
    two = compared_run(compose, tmp_path / "two", drawn_margins(2, IDS[4:]))
    three = compared_run(compose, tmp_path / "three", drawn_margins(3, IDS[:9]))
    found = shared_pairs([one, two, three], "in_domain")
    assert found.ids == tuple(IDS[4:9])
    assert found.left_out() == [
        "in_domain: compared on the 5 pairs that all runs share, of up to 10 in a run.",
        "one: 5 of its 10 pairs are left out.",
        "two: 3 of its 8 pairs are left out.",
        "three: 4 of its 9 pairs are left out.",
    ]


def test_other_texts_under_one_id_are_another_pair(compose: Compose, tmp_path: Path) -> None:
    """Also where both runs name the same data file: the texts are what was scored."""
    margins = drawn_margins(1, IDS)
    one = compared_run(compose, tmp_path / "one", margins)
    two = compared_run(compose, tmp_path / "two", margins, questions={"p3": "Of something else?"})
    found = shared_pairs([one, two], "in_domain")
    assert found.changed == ("p3",)
    assert found.ids == tuple(id for id in IDS if id != "p3")
    assert found.left_out()[1] == (
        "one: 1 of its 12 pairs is left out, because another run has other content under the same"
        " id."
    )


def test_another_person_under_one_id_is_another_pair(compose: Compose, tmp_path: Path) -> None:
    margins, users = drawn_margins(1, IDS), users_of_ids(IDS)
    one = compared_run(compose, tmp_path / "one", margins, texts=False)
    two = compared_run(
        compose, tmp_path / "two", margins, users={**users, "p0": "user9"}, texts=False
    )
    assert shared_of(one, two) == tuple(IDS[1:])


def test_without_texts_the_data_file_proves_the_pairs(compose: Compose, tmp_path: Path) -> None:
    margins = drawn_margins(1, IDS)
    one = compared_run(compose, tmp_path / "one", margins, texts=False)
    same = compared_run(compose, tmp_path / "same", margins, texts=False)
    other = compared_run(compose, tmp_path / "other", margins, texts=False, data_sha256="xyz")
    assert shared_pairs([one, same], "in_domain").left_out() == []
    assert shared_pairs([one, same, other], "in_domain").left_out() == [
        "Whether other had the same texts as one under the same ids is not recorded: they are"
        " paired by id and person alone."
    ]


def test_without_proof_other_token_counts_are_another_pair(
    compose: Compose, tmp_path: Path
) -> None:
    margins = drawn_margins(1, IDS)
    one = compared_run(compose, tmp_path / "one", margins, texts=False)
    two = compared_run(compose, tmp_path / "two", margins, texts=False, data_sha256="xyz")
    users = users_of_ids(IDS)
    counted = [PairScore(id, users[id], -2.0, -3.0, 10, 20 + (id == "p5")) for id in IDS]
    write_scores(two / "scores" / "tuned-in_domain.jsonl", counted)
    assert shared_of(one, two) == tuple(id for id in IDS if id != "p5")


def test_nothing_shared_is_refused_with_the_reason(compose: Compose, tmp_path: Path) -> None:
    one = compared_run(compose, tmp_path / "one", drawn_margins(1, IDS[:4]))
    two = compared_run(compose, tmp_path / "two", drawn_margins(1, IDS[4:]))
    with pytest.raises(UserError, match=r"one has 4, two has 8; no id is in all of them"):
        shared_of(one, two)
    strange = {id: f"Of {id}, elsewhere?" for id in IDS}
    three = compared_run(compose, tmp_path / "three", drawn_margins(1, IDS[:4]), questions=strange)
    with pytest.raises(UserError, match=r"4 ids are in all of them, but of other people, questio"):
        shared_of(one, three)


def test_a_pair_that_comes_twice_is_refused(compose: Compose, tmp_path: Path) -> None:
    one = compared_run(compose, tmp_path / "one", drawn_margins(1, IDS))
    path = one / "scores" / "tuned-in_domain.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines, lines[2]]), encoding="utf-8")
    with pytest.raises(UserError, match=r"tuned-in_domain\.jsonl: pair p2 comes twice"):
        shared_of(one)


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    assert run_names([tmp_path / "x" / "a", tmp_path / "x" / "b"]) == ["a", "b"]
    assert run_names([tmp_path / "x" / "a", tmp_path / "y" / "a"]) == ["x/a", "y/a"]
    with pytest.raises(UserError, match="is named twice"):
        run_names([tmp_path / "a", tmp_path / "b" / ".." / "a"])


@settings(max_examples=40, deadline=None)
@given(sets=st.lists(st.sets(st.integers(0, 9), min_size=1), min_size=2, max_size=4))
def test_shared_is_the_intersection(
    sets: list[set[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    for place, numbers in enumerate(sets):
        run = folder / f"run{place}"
        (run / "scores").mkdir(parents=True)
        scores = [PairScore(f"p{number}", "u", -2.0, -3.0, 10, 20) for number in numbers]
        write_scores(run / "scores" / "tuned-in_domain.jsonl", scores)
    runs = [folder / f"run{place}" for place in range(len(sets))]
    common = set.intersection(*sets)
    if not common:
        with pytest.raises(UserError, match="share no pair"):
            shared_of(*runs)
        return
    found = shared_pairs(runs, "in_domain")
    assert {int(id[1:]) for id in found.ids} == common
    counted = [line for line in found.left_out() if "left out" in line]
    assert len(counted) == sum(len(numbers) > len(common) for numbers in sets)
