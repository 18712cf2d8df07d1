"""Stated values of one's own: any dimensions, mapped by a file."""

import json
from pathlib import Path
from typing import Any

import pytest

from mvp_align.config import packaged_prompt
from mvp_align.data.prompts import render
from mvp_align.data.readers import ReadPairs, read_pairs
from mvp_align.errors import UserError

PAIR = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
MAPPING = """
about: topic
dimensions:
  honesty: survey.honesty
  brevity: {field: brief, high_from: 4, low_up_to: 2}
"""


def read(folder: Path, *changes: dict[str, Any], mapping: str = MAPPING) -> ReadPairs:
    (folder / "values.yaml").write_text(mapping)
    (folder / "own.json").write_text(json.dumps([PAIR | change for change in changes]))
    return read_pairs(str(folder / "own.json"), "pairs", values=str(folder / "values.yaml"))


def test_scores_become_levels_groups_and_text(tmp_path: Path) -> None:
    answers = read(
        tmp_path,
        {"survey": {"honesty": 80}, "brief": 2, "topic": "brevity", "profile": "Retired."},
        {"prompt": "How?", "survey": {"honesty": 60.0}, "brief": 4, "topic": "honesty"},
        {"prompt": "Who?", "survey": {"honesty": 79}, "brief": 3, "topic": "honesty"},
        {"prompt": "When?", "survey": None, "brief": None, "profile": {"age": 30}},
    )
    assert [dict(pair.groups) for pair in answers.pairs] == [
        {
            "stated_honesty": "High", "stated_brevity": "Low", "dimension": "brevity",
            "level": "Low",
        },
        {
            "stated_honesty": "Low", "stated_brevity": "High", "dimension": "honesty",
            "level": "Low",
        },
        {"dimension": "honesty"},
        {"age": "30"},
    ]  # fmt: skip
    shown = [render(pair, packaged_prompt("paper")) for pair in answers.pairs]
    assert shown == [
        "Retired.\nUser values: High honesty, Low brevity.\nWhy?",
        "User values: High brevity, Low honesty.\nHow?",
        "Who?",
        "Age: 30.\nWhen?",
    ]
    assert answers.pairs[0].preference == "High honesty, Low brevity."
    assert answers.unread == {}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"brief": "4"}, "field 'brief': is a text where a score of brevity belongs"),
        ({"brief": float("nan")}, "field 'brief': is a number where a score"),
        ({"brief": True}, "field 'brief': is true or false where a score"),
        ({"topic": "safety"}, "field 'topic': is 'safety'; use one of honesty, brevity"),
        ({"topic": ["brevity"]}, "field 'topic': is"),
    ],
)
def test_a_wrong_score_is_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, {"survey": {"honesty": 10**400}, "brief": 4} | change)
    assert f"own.json row 0, {told}" in str(caught.value)


@pytest.mark.parametrize(
    ("mapping", "told"),
    [
        ("dimensions: {}", "dimensions"),
        ("dimensions: {honesty: honest}", "no record has the field 'honest' of honesty"),
        ("dimensions: {brevity: {field: brief, low_up_to: 90}}", "low_up_to must be below"),
        ("dimensions: {brevity: brief}\nhigh: 3", "no setting high. Did you mean"),
        ("dimensions: {'a,b': brief}", "leave the comma out"),
    ],
)
def test_a_mapping_that_cannot_be_used_is_refused(tmp_path: Path, mapping: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, {"brief": 4}, mapping=mapping)
    assert told in str(caught.value)


def test_the_benchmarks_records_state_their_own(tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text("dimensions: {brevity: brief}")
    with pytest.raises(UserError, match=r"data\.values=.*values\.yaml: records of .*mvpbench"):
        read_pairs("sample:test.json", "mvpbench", values=str(tmp_path / "values.yaml"))
