"""What a writer is shown, and which replies are pairs."""

import json
from collections import Counter
from pathlib import Path

import pytest

from mvp_align.construction.conversations import Conversation, Turn
from mvp_align.construction.people import Person
from mvp_align.construction.writing import (
    PROMPT,
    TEXTS,
    Writer,
    WrittenPair,
    read_task,
    written_pairs,
)
from mvp_align.errors import UserError
from mvp_align.generation.completion import Unparsed
from mvp_align.generation.endpoint import Endpoint
from mvp_align.schema import StatedValues

WRITER = Writer("w", Endpoint("http://localhost:1/v1", "m"))
GOOD = {"question": "Is it?", "answer_w": "It is.", "answer_l": "It is not."}


def read(*pairs: object, questions: int = 2) -> tuple[list[tuple[int, WrittenPair]], Counter[str]]:
    reasons: Counter[str] = Counter()
    text = json.dumps({"pairs": pairs})
    return written_pairs(text, questions, lambda reason: reasons.update([reason])), reasons


def test_pairs_are_read_with_their_places() -> None:
    other = GOOD | {"question": " And that? "}
    found, reasons = read(GOOD, other)
    assert found == [(1, WrittenPair(*GOOD.values())), (2, WrittenPair("And that?", "It is.", "It is not."))]  # noqa: E501  # fmt: skip
    assert not reasons


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ("text", "lacks question, answer_w or answer_l as a text"),
        ({"question": "Is it?"}, "lacks question, answer_w or answer_l as a text"),
        (GOOD | {"answer_w": 7}, "lacks question, answer_w or answer_l as a text"),
        (GOOD | {"answer_w": "..."}, "answer_w without a word"),
        (GOOD | {"question": " "}, "question without a word"),
        (GOOD | {"answer_l": "it  IS"}, "both answers are the same"),
        (GOOD | {"answer_l": "Is it"}, "an answer repeats the question"),
        (GOOD | {"question": "IS it"}, "the same question as earlier in the reply"),
    ],
)
def test_what_is_no_pair_is_counted(pair: object, reason: str) -> None:
    found, reasons = read(GOOD, pair)
    assert [place for place, _ in found] == [1]
    assert reasons == {reason: 1}


def test_too_few_and_too_many_are_counted() -> None:
    assert read(GOOD, questions=3)[1] == {"fewer pairs in the reply than asked for": 2}
    assert read(GOOD, GOOD, GOOD, questions=1)[1] == {"beyond the number that was asked for": 2}
    assert read(questions=2) == ([], {"fewer pairs in the reply than asked for": 2})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty reply"),
        ("Sure!", "no JSON object"),
        ('{"pairs": [{"question": "Is', "broken JSON"),
        ('{"pairs": {}}', "no list of pairs"),
        (json.dumps(GOOD), "no list of pairs"),
        ('<think>{"pairs": []}', "unfinished reasoning"),
    ],
)
def test_replies_that_hold_no_pairs_have_a_reason(text: str, reason: str) -> None:
    with pytest.raises(Unparsed, match=f"^{reason}$"):
        written_pairs(text, 2, lambda reason: None)


def test_a_writer_sees_values_and_messages_and_nothing_else_of_a_person() -> None:
    values = StatedValues(90, 70, 70, 70, 70, 70, 10)
    person = Person("secret-id", values, {"age": "AGE"}, {"self_description": "ME"}, "CHL")
    turns = (Turn(True, "Hello?", None), Turn(False, "REPLY", 3), Turn(True, "So?", None))
    task = read_task(WRITER, 5)
    request = task.request(Conversation("c", person, "Hello?", turns))
    system, user = (message["content"] for message in request.messages)
    assert json.loads(user) == {
        "preferences": "High creativity, Low helpfulness.",
        "opening_prompt": "Hello?",
        "later_messages": ["So?"],
    }
    assert "a list of 5 objects" in system and "$" not in system
    assert request.parameters == {"temperature": 0.7, "max_tokens": 1024}
    assert request.schema is not None
    assert request.schema["properties"]["pairs"]["items"]["required"] == [*TEXTS]


def test_a_prompt_of_one_s_own_is_read_or_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("Write $questions for $$1.\n")
    task = read_task(WRITER, 4, own)
    assert task.text == "Write 4 for $1."
    assert task.sha256 != read_task(WRITER, 4, PROMPT).sha256
    for content in (b"Write $number.", b"100 $", b"\xff"):
        own.write_bytes(content)
        with pytest.raises(UserError, match=r"own\.txt: no prompt can be made of it"):
            read_task(WRITER, 4, own)
