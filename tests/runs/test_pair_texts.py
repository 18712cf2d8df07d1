"""Texts of a run's pairs: what was written is read, and what is no text is refused by name."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvp_align.errors import UserError
from mvp_align.runs.pair_files import PairTexts, read_texts, texts_of, write_texts
from mvp_align.schema import ChatTurn, PreferencePair, Profile

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)


@given(
    st.lists(
        st.builds(PairTexts, TEXT, TEXT, TEXT, st.dictionaries(TEXT, TEXT, max_size=3), TEXT, TEXT),
        unique_by=lambda one: one.id,
        max_size=4,
    )
)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, texts: list[PairTexts]
) -> None:
    path = tmp_path_factory.mktemp("run") / "texts" / "in_domain.jsonl"
    write_texts(path, texts)
    assert list(read_texts(path).values()) == texts


def test_a_profile_leaves_out_what_its_record_leaves_open() -> None:
    person = Profile("18-24", "Female", "Student", " ", "Single", "Peru")
    pair = PreferencePair(
        "p", "u", "Why?", "Yes.", "No.", profile=person, preference="High safety."
    )
    assert dict(texts_of(pair).profile) == {
        "age": "18-24",
        "gender": "Female",
        "employment_status": "Student",
        "marital_status": "Single",
        "birth_country": "Peru",
        "preference": "High safety.",
    }
    in_prose = PreferencePair("p", "u", "Why?", "Yes.", "No.", profile_text="Likes maps.")
    assert dict(texts_of(in_prose).profile) == {"text": "Likes maps."}


def test_a_conversation_is_shown_with_what_was_said_before() -> None:
    before = (ChatTurn("user", "Hello."), ChatTurn("assistant", "Hello to you."))
    pair = PreferencePair("p", "u", "Why?", "Yes.", "No.", before=before)
    assert texts_of(pair).question == "User: Hello.\nAssistant: Hello to you.\nUser: Why?"


LINE = '{"id": "p", "user_id": "u", "question": "q", "profile": {}, "chosen": "c", "rejected": "r"}'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (f"{LINE}\n{LINE}", "line 2: no line of a pair .pair p comes twice"),
        (LINE.replace('"q"', "NaN"), "line 1: no line of a pair .NaN is no JSON number"),
        (LINE.replace('"q"', "1"), "line 1: no line of a pair .field 'question': a text belongs"),
        (LINE.replace("{}", '{"age": 3}'), "line 1: .*field 'profile': an object of texts belongs"),
        (LINE.replace("chosen", "chosn"), "line 1: no line of a pair .*'chosn'"),
        (LINE.replace(', "rejected": "r"', ""), "line 1: no line of a pair .*'rejected'"),
    ],
)
def test_a_line_of_another_shape_is_named(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "in_domain.jsonl"
    path.write_text(f"{content}\n")
    with pytest.raises(UserError, match=rf"in_domain\.jsonl, {says}"):
        read_texts(path)
