"""Each check of `mvp-align data validate` finds what it is about, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mvp_align.data.checks import DataCheck
from mvp_align.data.parts import find_parts
from mvp_align.data.validation import Validation, validate_data
from mvp_align.errors import UserError

SAMPLE = ["sample:train.json", "sample:val.json", "sample:test.json"]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def sample() -> dict[str, Rows]:
    root = Path(__file__).parents[2] / "mvp_align" / "data" / "sample"
    return {
        part: json.loads((root / f"{part}.json").read_text("utf-8")) for part in ("train", "test")
    }


def write(folder: Path, parts: dict[str, Rows]) -> str:
    for part, rows in parts.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"DVB-{part}.jsonl").write_text(text)
    return str(folder)


def outcomes(found: Validation) -> dict[tuple[str, str], DataCheck]:
    return {(c.check, c.part): c for c in found.checks if c.outcome != "ok"}


def test_the_bundled_sample_passes() -> None:
    found = validate_data(find_parts(SAMPLE), "mvpbench")
    assert found.passed and outcomes(found) == {}
    assert [figures.part for figures in found.figures] == ["train", "val", "test"]
    (train, *_), count = found.figures, found.figures[0].pairs
    whole = next(one for one in train.groups if not one.group_by)
    # its data card says 0.758
    assert (count, train.users, round(whole.ceiling, 3)) == (1155, 210, 0.758)
    assert all(one.users >= 5 for one in train.groups)
    shown = sum(one.pairs for one in train.groups if one.group_by == "birth_country")
    assert shown + train.held_back["birth_country"][2] == 1155


def _vocabulary(rows: Rows) -> None:
    rows[0]["age"], rows[1]["birth_country/region"] = "young", "Atlantis"


def _text(rows: Rows) -> None:
    rows[0]["preference"] = "High creativity, Low creativity."


def _person(rows: Rows) -> None:
    same = next(row for row in rows[1:] if row["user_id"] == rows[0]["user_id"])
    same["stated_prefs"] = same["stated_prefs"] | {"safety": 70}
    same["preference"] = ""


def _equal(rows: Rows) -> None:
    rows[0]["answer_l"] = f" {rows[0]['answer_w'].upper()} "


def _repeat(rows: Rows) -> None:
    rows.append(rows[0] | {"id": "again"})


def _both_ways(rows: Rows) -> None:
    rows.append(
        rows[0] | {"id": "b", "answer_w": rows[0]["answer_l"], "answer_l": rows[0]["answer_w"]}
    )


def _near(rows: Rows) -> None:
    rows[0]["answer_w"] += " Then."


@pytest.mark.parametrize(
    ("change", "check", "outcome", "count", "example"),
    [
        (_vocabulary, "vocabulary", "warn", 2, "age: 'young' (1 times)"),
        (_text, "preference texts", "warn", 1, "High creativity, Low creativity."),
        (_person, "people", "warn", 1, "synthetic-"),
        (_equal, "equal answers", "fail", 1, ""),
        (_repeat, "repeated pairs", "warn", 1, "again = "),
        (_both_ways, "contradictions", "warn", 2, " and b"),
        (_near, "near duplicates", "warn", 1, "(0.9"),
    ],
)
def test_a_fault_is_found_and_counted(
    change: Callable[[Rows], None],
    check: str,
    outcome: str,
    count: int,
    example: str,
    sample: dict[str, Rows],
    tmp_path: Path,
) -> None:
    rows = [dict(row) for row in sample["train"]]
    change(rows)
    path = write(tmp_path, {"train": rows})
    found = validate_data(find_parts([f"{path}/DVB-train.jsonl"]), "mvpbench")
    one = outcomes(found)[check, "train"]
    assert (one.outcome, one.count) == (outcome, count)
    assert any(example in shown for shown in one.examples) and len(one.examples) <= 5
    assert found.passed == (outcome != "fail")


def test_what_is_in_two_parts_is_counted_and_fails(sample: dict[str, Rows], tmp_path: Path) -> None:
    decided = {(row["question"], row["answer_w"]) for row in sample["train"]}
    agreed = (r for r in sample["train"] if (r["question"], r["answer_l"]) not in decided)
    exact, near, opposite, same_person = (dict(row) for row in (*sample["train"][:2], *agreed)[:4])
    for number, row in enumerate((exact, near, opposite)):
        row |= {"id": f"leak{number}", "user_id": f"new{number}"}
    near["answer_w"] += " Then."
    opposite["answer_w"], opposite["answer_l"] = opposite["answer_l"], opposite["answer_w"]
    same_person["question"] = "What else?"
    rows = {**sample, "test": [*sample["test"], exact, near, opposite, same_person]}
    sources = find_parts([write(tmp_path, rows)])
    assert list(sources) == ["train", "test"]
    found = validate_data(sources, "mvpbench")
    told = outcomes(found)
    where = "test in train"
    assert told["people in two parts", where].examples == (same_person["user_id"],)
    assert told["pairs in two parts", where].examples == ("leak0",)
    # the fourth has another question, and the answers of one in train
    assert told["near pairs in two parts", where].count == 2
    (asked,) = (c for c in found.checks if c.check == "questions in two parts")
    assert asked.count == 3
    assert {c.check for c in found.checks if c.outcome == "fail"} == {
        "people in two parts", "pairs in two parts",
    }  # fmt: skip


def test_a_failure_can_be_accepted_and_shared_people_cannot(
    sample: dict[str, Rows], tmp_path: Path
) -> None:
    leak = sample["train"][0] | {"id": "leak", "user_id": "new"}
    sources = find_parts([write(tmp_path, {**sample, "test": [*sample["test"], leak]})])
    assert not validate_data(sources, "mvpbench").passed
    found = validate_data(sources, "mvpbench", accepted=["pairs in two parts"])
    assert found.passed and outcomes(found)["pairs in two parts", "test in train"].count == 1
    with pytest.raises(UserError, match="must be one of equal answers, pairs in two parts"):
        validate_data(sources, "mvpbench", accepted=["people in two parts"])


def test_every_record_is_a_pair_or_counted(sample: dict[str, Rows], tmp_path: Path) -> None:
    rows = [*sample["test"], sample["test"][0]]
    broken = [*sample["train"], {"id": "x"}]
    found = validate_data(
        find_parts([write(tmp_path, {"train": broken, "test": rows})]), "mvpbench"
    )
    train, test = (c for c in found.checks if c.check == "records")
    assert (train.outcome, train.count, train.of) == ("fail", 1156, 1156)
    assert any("'question': is missing" in line for line in train.examples)
    assert (test.outcome, test.count, test.of) == ("warn", 1, 209)
    assert "209 records, 208 pairs; 1 left out (repeats the id" in test.found
    assert [figures.part for figures in found.figures] == ["test"]


def test_tokens_are_counted_by_what_is_handed_over() -> None:
    found = validate_data(
        find_parts(["sample:test.json"]), "mvpbench", count_tokens=lambda texts: [*map(len, texts)]
    )
    by = {(row.text, row.unit): row.percentiles for row in found.figures[0].lengths}
    assert by["chosen", "tokens"] == by["chosen", "characters"]
    assert by["question with longer answer", "tokens"]["50"] > by["chosen", "tokens"]["50"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["sample:train.json"], ["train"]),
        (["test=sample:train.json", "sample:val.json"], ["val", "test"]),
        (["sample:ufp4"], ["all"]),
        (["sample:several"], ["train", "val", "test"]),
        (["hf:owner/name:validation"], ["val"]),
    ],
)
def test_parts_are_told_by_name(words: list[str], parts: list[str]) -> None:
    assert list(find_parts(words)) == parts


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sample:train.json", "train=sample:val.json"], "both the part 'train'"),
        (["sample:ufp4", "sample:questions"], "Write train=, val= or test= before it"),
        (["sample:ufp4", "sample:test.json"], "Write train="),
        (["test=sample:no.json"], "no such sample"),
    ],
)
def test_unclear_parts_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        find_parts(words)


@pytest.mark.reference
def test_real_third_party_answers(shared: Path) -> None:
    """P-Soups: 600 rows of 128 pairs, some of whose answers differ in case alone."""
    path = shared / "data" / "psoups_friendly_history.json"
    found = validate_data(find_parts([str(path)]), "psoups")
    told = outcomes(found)
    assert found.figures[0].comparisons == 128
    assert told["repeated pairs", "all"].count == 472
    assert told["equal answers", "all"].count == 9
    assert told["near duplicates", "all"].count == 3
