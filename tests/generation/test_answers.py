"""Files of answers, and drafts of unfinished sets."""

import json
from pathlib import Path

import pytest

from mvp_align.errors import UserError
from mvp_align.generation.answers import (
    DRAWN,
    Drafts,
    Generated,
    answers_path,
    drafts_folder,
    read_answers,
    read_drafts,
    read_matching_answers,
    write_answers,
)

ANSWERS = [
    Generated("a", "u1", ' Tea, naïvely: 茶 🍵\n"quoted"\u2028next', 9, True),
    Generated("b", "u1", "", 0, True),
    Generated("c", "u2", " \n", 1, False),
    Generated("d", "u2", "x", None, True),
]
IDS = [answer.id for answer in ANSWERS]
HOW = {"model": "m", "temperature": 0.7}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return answers_path(tmp_path, "base", "ufp4/honesty")


def test_written_answers_are_read_as_they_were(path: Path) -> None:
    write_answers(path, ANSWERS, HOW)
    assert path.name == "base-ufp4-honesty.jsonl"
    assert read_answers(path) == ANSWERS
    assert [answer.empty for answer in read_answers(path)] == [False, True, True, False]
    line = path.read_bytes().split(b"\n")[0]
    assert set(json.loads(line)) == {"id", "user_id", "answer", "tokens", "finished"}
    assert read_matching_answers(path, HOW, IDS) == {answer.id: answer for answer in ANSWERS}


def test_answers_with_other_settings_are_kept(path: Path) -> None:
    write_answers(path, ANSWERS, HOW)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"temperature: 0.7 there, 0 now"):
        read_matching_answers(path, {**HOW, "temperature": 0}, IDS)
    assert path.read_bytes() == before
    path.with_suffix(".json").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        read_matching_answers(path, HOW, IDS)


def test_answers_to_other_pairs_are_kept(path: Path) -> None:
    """Smaller and larger draws hold one another; answers to the first pairs of a set, as once
    taken, are in no draw."""
    write_answers(path, ANSWERS, HOW | {DRAWN: {"limit": 4, "seed": 12}})
    for wanted in (IDS[:2], IDS, [*IDS, "more"]):
        assert read_matching_answers(path, HOW, wanted).keys() == set(IDS)
    with pytest.raises(UserError, match="1 pairs that are not among the 4 drawn now"):
        read_matching_answers(path, HOW, [*IDS[1:], "more"])


def test_no_file_yet(path: Path) -> None:
    assert read_matching_answers(path, HOW, IDS) == {}
    with pytest.raises(UserError, match="Generate the answers first"):
        read_answers(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2"),
        ('{"id": "a"}', "line 2"),
        (
            '{"id": "a", "user_id": "u", "answer": null, "tokens": 1, "finished": true}',
            "field 'answer' is None",
        ),
        (
            '{"id": "a", "user_id": "u", "answer": "", "tokens": 1, "finished": "no"}',
            "field 'finished' is 'no'",
        ),
        (
            '{"id": "a", "user_id": "u", "answer": "", "tokens": true, "finished": true}',
            "field 'tokens' is True",
        ),
        ("[]", "line 2"),
    ],
)
def test_a_broken_line_is_named(path: Path, line: str, said: str) -> None:
    write_answers(path, ANSWERS[:1], HOW)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=said):
        read_answers(path)


def test_drafts_survive_a_kill_except_a_cut_line(path: Path) -> None:
    with Drafts(drafts_folder(path), read_drafts(path)) as drafts:
        drafts.add({"one": ANSWERS[0], "two": ANSWERS[1]})
    with Drafts(drafts_folder(path), read_drafts(path)) as drafts:
        assert "two" in drafts
        drafts.add({"two": ANSWERS[3], "three": ANSWERS[2]})  # what is known stays as it was
    whole = {"one": ANSWERS[0], "two": ANSWERS[1], "three": ANSWERS[2]}
    assert read_drafts(path) == whole
    files = sorted(drafts_folder(path).glob("*.jsonl"))
    assert len(files) == 2
    for file in files:
        content = file.read_bytes()
        for length in range(len(content)):
            file.write_bytes(content[:length])
            found = read_drafts(path)
            assert found.items() <= whole.items()
            assert len(found) >= 1
        file.write_bytes(content)
    drafts.discard()
    assert read_drafts(path) == {}
