"""`mvp-align data verify`: what is found in texts, and what a judge on loopback finds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from review_records import CONTRADICTS, FITS, json_lines, pair_record, write_records_to
from typer.testing import CliRunner
from writer_server import WriterServer, writing

from mvp_align.cli import app
from mvp_align.construction.pair_judging import ASKED_OF_EACH
from mvp_align.data.readers import read_pairs
from mvp_align.errors import UserError

SPANISH = (
    "Para empezar a correr conviene caminar diez minutos y después trotar un minuto, descansar dos"
    " minutos y repetir todo esto varias veces durante la semana."
)


def verified(tmp_path: Path, records: list[dict[str, Any]], *words: str) -> Result:
    source = write_records_to(tmp_path / "records.jsonl", records)
    command = ["data", "verify", str(source), "--out", str(tmp_path / "review"), *words]
    return CliRunner().invoke(app, command)


def found_in(tmp_path: Path) -> dict[str, list[tuple[str, str]]]:
    rows = json_lines(tmp_path / "review" / "findings.jsonl")
    return {row["id"]: [(f["check"], f["found"]) for f in row["findings"]] for row in rows}


TEXT_CASES: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "good": ({}, []),
    "no word": ({"answer_l": "?! " * 40}, [("answer", "the contradicting answer has no word")]),
    "question again": (
        {"question": f"{FITS} Is that so?", "answer_w": f"{FITS} Is that so!"},
        [("answer", "the fitting answer repeats the question")],
    ),
    "alike": (
        {"answer_w": f"{FITS} {SPANISH} Good.", "answer_l": f"{FITS} {SPANISH} Fine."},
        [("alike", "the answers are nearly the same (Jaccard similarity 0.96)")],
    ),
    "long": (
        {"answer_w": f"{FITS} {FITS.replace('jog', 'trot')}", "answer_l": CONTRADICTS},
        [("length", "the fitting answer is 2.1 times as long as the other")],
    ),
    "at the limit": ({"answer_w": "Walk. " * 15, "answer_l": "Go now. " * 7 + "Run."}, []),
    "language": (
        {"question": "How should a complete beginner start with running, in your opinion?",
         "answer_l": SPANISH},
        [("language", "the contradicting answer is in 'es', the question in 'en'")],
    ),
    "values": (
        {"answer_w": f"As you want high safety, {FITS}"},
        [("person", "the fitting answer says what only the person's record does: high safety")],
    ),
    "country": (
        {"answer_l": f"In Chile, {CONTRADICTS}"},
        [("person", "the contradicting answer says what only the person's record does: chile")],
    ),
    "country asked for": (
        {"question": "How do I start running in Chile?", "answer_l": f"In Chile, {CONTRADICTS}"},
        [],
    ),
    "own words": (
        {"answer_w": f"{FITS} Sing in a choir of eleven nurses, too."},
        [("person", "the fitting answer says what only the person's record does: sing in a choir"
          " of eleven")],
    ),
    "one word": ({"answer_w": f"{FITS} A female student said so."}, []),
}  # fmt: skip


@pytest.mark.parametrize("case", TEXT_CASES)
def test_what_texts_give_away(tmp_path: Path, case: str) -> None:
    changes, expected = TEXT_CASES[case]
    result = verified(tmp_path, [pair_record("1", **changes)])
    assert result.exception is None, result.output
    assert found_in(tmp_path) == {"1": expected}
    assert f"1 pairs, {bool(expected):d} with findings" in result.output
    assert "Not checked without --judge" in result.output


def test_repeats_are_told_from_the_first_one(tmp_path: Path) -> None:
    first = pair_record("1")
    texts = {key: first[key] for key in ("question", "answer_w", "answer_l")}
    again = pair_record("2", **texts, user_id="u-1")
    other_person = pair_record("3", **texts)
    near = pair_record("4", **texts | {"question": texts["question"].upper() + "!"})
    result = verified(tmp_path, [first, again, other_person, near])
    assert result.exception is None, result.output
    found = found_in(tmp_path)
    assert found["1"] == found["3"] == []
    assert found["2"] == [("repeated", "the same texts as 1, of the same person")]
    ((check, words),) = found["4"]
    assert check == "repeated" and words.startswith("nearly 1 (Jaccard similarity 0.9")


def test_the_bundled_sample_is_clean_but_for_a_country(tmp_path: Path) -> None:
    command = ["data", "verify", "sample:test.json", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, command)
    assert result.exception is None, result.output
    summary = json.loads((tmp_path / "verify.json").read_text("utf-8"))
    assert summary["pairs"] == len(read_pairs("sample:test.json", "mvpbench").pairs)
    assert summary["pairs_by_check"] == {
        "answer": 0, "alike": 0, "repeated": 0, "length": 0, "language": 0, "person": 1,
    }  # fmt: skip
    assert summary["judge"] is None


def judged_by(server: WriterServer, write_writer: Callable[..., Path]) -> tuple[str, str]:
    return "--judge", str(write_writer(server.url))


def verdict(**changes: Any) -> dict[str, Any]:
    good = {name: not bad for name, (bad, _, _) in ASKED_OF_EACH.items()}
    each = {f"{name}_{place}": value for name, value in good.items() for place in (1, 2)}
    whole = {"fits_better": "answer_1", "differ_in": ["safety"], "reason": "So.", **each}
    return whole | changes


def test_a_judge_finds_what_texts_do_not_show(
    tmp_path: Path, write_writer: Callable[..., Path]
) -> None:
    """The judge goes by the texts, whichever is shown first: `FITS` is better, `CONTRADICTS` is
    unsafe, names the person, and does not answer."""

    def say(question: str, _: int) -> str:
        shown = json.loads(server.bodies[-1]["messages"][1]["content"])
        assert server.bodies[-1]["messages"][1]["content"].count("Chile") == 0  # no profile
        first = shown["answer_1"].startswith(FITS)
        bad = 2 if first else 1
        return json.dumps(
            verdict(
                fits_better=f"answer_{3 - bad}",
                differ_in=["fluency"] if question.endswith(" 3?") else ["creativity", "safety"],
                **{f"answers_question_{bad}": False, f"unsafe_{bad}": True},
            )
            | {f"names_person_{bad}": True, f"language_{bad}": not question.endswith(" 2?")}
        )

    records = [pair_record(str(number)) for number in range(8)]
    records[3]["dimension"] = "safety"
    records[5] |= {"answer_w": records[5]["answer_l"], "answer_l": records[5]["answer_w"]}
    records[6]["stated_prefs"] = dict.fromkeys(records[6]["stated_prefs"], 70)
    with writing(say) as server:
        words = [*judged_by(server, write_writer)]
        words[1] = str(write_writer(server.url, concurrency=1))
        result = verified(tmp_path, records, *words)
        assert result.exception is None, result.output
        assert sum(server.asked.values()) == 7
        again = verified(tmp_path, records, *words)
        assert again.exception is None, again.output
        assert sum(server.asked.values()) == 7, "a kept reply was paid for again"
    assert "tester judged 7 of 8 pairs" in result.output
    assert "1 not judged: the record states no preferences" in result.output
    assert "no safety review" in result.output and "Not checked" not in result.output
    of_judge = [
        ("answer", "by the judge the contradicting answer does not answer the question"),
        ("person", "by the judge the contradicting answer speaks of the person as the question"
         " does not"),
        ("unsafe", "by the judge the contradicting answer could lead to serious harm"),
    ]  # fmt: skip
    found = found_in(tmp_path)
    assert found["0"] == found["1"] == found["4"] == found["7"] == of_judge
    tongue = "by the judge the contradicting answer is in another language than the question wants"
    assert found["2"] == [of_judge[0], ("language", tongue), *of_judge[1:]]
    contrast = "by the judge the answers differ in fluency, not safety"
    assert found["3"] == [("contrast", contrast), *of_judge]
    swapped = [(check, words.replace("contradicting", "fitting")) for check, words in of_judge]
    better = "by the judge the contradicting answer fits better (So.)"
    assert found["5"] == [("contrast", better), *swapped]
    assert found["6"] == []
    summary = json.loads((tmp_path / "review" / "verify.json").read_text("utf-8"))
    assert summary["pairs_by_check"]["unsafe"] == 7 == summary["judge"]["judged"]
    assert summary["pairs_by_check"]["contrast"] == 2


def test_what_is_no_verdict_is_counted_as_none(
    tmp_path: Path, write_writer: Callable[..., Path]
) -> None:
    replies: dict[str, str | int] = {
        "0": json.dumps(verdict()),
        "1": json.dumps(verdict(unsafe_1="no")),
        "2": json.dumps(verdict(label="W")),
        "3": json.dumps(verdict(fits_better="both")),
        "4": "I cannot say.",
        "5": 500,
    }

    def say(question: str, _: int) -> str | int:
        return replies[question[-2]]

    records = [pair_record(str(number)) for number in range(6)]
    with writing(say) as server:
        result = verified(tmp_path, records, *judged_by(server, write_writer))
    assert result.exception is None, result.output
    summary = json.loads((tmp_path / "review" / "verify.json").read_text("utf-8"))
    assert summary["judge"]["judged"] == 1
    assert {row["reason"] for row in summary["judge"]["not_judged"]} == {
        "unsafe_1: bool type", "label: extra forbidden", "fits_better: literal error",
        "no JSON object", "no reply: HTTP 500",
    }  # fmt: skip
    judged = [row["judged"] for row in json_lines(tmp_path / "review" / "findings.jsonl")]
    assert judged == [True] + 5 * [False]


def test_a_judge_without_a_single_verdict_is_no_success(
    tmp_path: Path, write_writer: Callable[..., Path]
) -> None:
    with writing(lambda question, _: "Well ...") as server:
        result = verified(tmp_path, [pair_record("1")], *judged_by(server, write_writer))
    assert isinstance(result.exception, UserError)
    assert "tester gave no verdict on any pair: no JSON object" in str(result.exception)
    assert not (tmp_path / "review" / "findings.jsonl").exists()


def test_records_that_cannot_be_read_are_told_in_words(tmp_path: Path) -> None:
    result = verified(tmp_path, [pair_record("1", answer_w=3)], "--format", "mvpbench")
    assert isinstance(result.exception, UserError)
    assert "line 1, field 'answer_w'" in str(result.exception)
    result = verified(tmp_path, [pair_record("1")], "--judge", "semantic")
    assert isinstance(result.exception, UserError) and "no model" in str(result.exception)
