"""Which pairs' texts stand in a run's page, and what is refused or said of those that do not."""

from __future__ import annotations

import json
import re
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from finished_runs import HOSTILE, Measured, drawn_margins, finish_run, made_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_align.errors import UserError
from mvp_align.reporting import pair_explorer
from mvp_align.reporting.html import write_report
from mvp_align.reporting.pair_explorer import PairExplorer, explore_pairs
from mvp_align.runs.run_folder import RunFolder
from mvp_align.schema import PairScore

COUNT = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = made_pairs(COUNT)
    answers = {"tuned": [f"Answer {number}." for number in range(COUNT)]}
    measured = Measured(pairs, drawn_margins(COUNT), answers)
    return finish_run(tmp_path_factory.mktemp("made") / "run", {"in_domain": measured}).path


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "run")


def explored(run: Path, *, texts: bool = True) -> PairExplorer:
    found = explore_pairs(run, {"in_domain": "In domain"}, texts=texts)
    assert found is not None
    return found


def data_of(run: Path, *, texts: bool = True) -> dict[str, Any]:
    return json.loads(explored(run, texts=texts).data)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def plainly_chosen(run: Path, most: int) -> set[str]:
    """The same choice, one pair at a time."""
    base, tuned = (
        {one["id"]: one["margin"] for one in lines_of(run / "scores" / f"{stage}-in_domain.jsonl")}
        for stage in ("base", "tuned")
    )
    left, chosen = list(tuned), list[str]()
    keys = [
        lambda id: tuned[id],
        lambda id: -tuned[id],
        lambda id: -abs(tuned[id] - base[id]),
        lambda id: sha256(id.encode()).digest(),
    ]
    orders = [sorted(left, key=key) for key in keys]
    for turn in range(len(left)):
        for order in orders:
            if len(chosen) < most and order[turn] not in chosen:
                chosen.append(order[turn])
    return set(chosen)


@pytest.mark.parametrize("most", [1, 7, COUNT - 1, COUNT])
def test_texts_are_of_the_pairs_worth_reading_first(
    run: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_explorer, "MOST_TEXTS", most)
    data = data_of(run)
    assert {data["ids"][int(place)] for place in data["texts"]} == plainly_chosen(run, most)
    said = explored(run).coverage
    if most == COUNT:
        assert said == "All 30 pairs, with their texts."
    else:
        assert said.startswith(f"Numbers of all 30 pairs, texts of {most}: ")
        assert "The rest lies in the run’s folder, in texts/." in said


def test_texts_stay_below_their_size_and_short_ones_are_preferred_to_none(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = len(explored(run).data)
    texts = lines_of(run / "texts" / "in_domain.jsonl")
    texts[3]["chosen"] = "long " * 10_000
    write_lines(run / "texts" / "in_domain.jsonl", texts)
    monkeypatch.setattr(pair_explorer, "TEXT_BYTES", 40_000)
    data = data_of(run)
    assert "3" not in data["texts"] and len(data["texts"]) == COUNT - 1
    assert len(explored(run).data) < whole


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines), "utf-8")


@settings(max_examples=30, deadline=None)
@given(margin=st.floats(-20, 20, allow_nan=False))
def test_a_margin_keeps_its_sign_and_five_digits(
    made: Path, tmp_path_factory: pytest.TempPathFactory, margin: float
) -> None:
    run = RunFolder(tmp_path_factory.mktemp("one") / "run", resumed=False)
    score = PairScore("p", "u", margin, 0.0, 1, 1)
    run.write_scores("tuned", "in_domain", [score])
    shown = data_of(run.path)["margins"]["tuned"][0]
    assert (shown > 0, shown < 0) == (margin > 0, margin < 0)
    assert shown == pytest.approx(margin, rel=1e-4)


def test_columns_name_the_group_of_each_pair(run: Path) -> None:
    groups = {one["id"]: one["groups"] for one in lines_of(run / "groups" / "in_domain.jsonl")}
    data = data_of(run)
    names = {
        "value dimension": "dimension",
        "stated level": "level",
        "country of birth": "birth_country",
    }
    for column in data["columns"]:
        if column["name"] in names:
            found = [column["groups"][of] for of in column["of"]]
            assert found == [groups[id][names[column["name"]]] for id in data["ids"]]
    assert {*names} <= {column["name"] for column in data["columns"]}


def test_without_texts_there_is_nothing_of_a_person(run: Path) -> None:
    data = data_of(run, texts=False)
    assert data["texts"] == {}
    assert [column["name"] for column in data["columns"]] == [
        "value dimension",
        "tuned answer, paa/dvb_judge",
    ]
    assert explored(run, texts=False).worst[0].excerpt == ""


def test_a_run_from_before_texts_were_kept_says_so(run: Path) -> None:
    shutil.rmtree(run / "texts")
    found = explored(run)
    assert found.coverage.startswith(
        "Ids and numbers of 30 pairs. The run keeps no texts/, because"
    )
    assert json.loads(found.data)["texts"] == {}
    write_report(run)


def test_a_run_that_keeps_nothing_of_single_pairs_has_no_table(run: Path) -> None:
    for name in ("scores", "groups", "texts", "answers"):
        shutil.rmtree(run / name)
    assert explore_pairs(run, {"in_domain": "In domain"}) is None
    assert "pairs-section" not in write_report(run).read_text("utf-8").split("</style>")[1]


def test_the_data_cannot_end_its_script_element(run: Path) -> None:
    texts = lines_of(run / "texts" / "in_domain.jsonl")
    for one in texts:
        one["question"] = f"</script>{HOSTILE}<!--<script>"
    write_lines(run / "texts" / "in_domain.jsonl", texts)
    data = explored(run).data
    assert not re.search("[<>&]", data)
    assert json.loads(data)["texts"]["0"]["question"] == texts[0]["question"]


def test_a_number_that_is_none_is_refused_by_name(run: Path) -> None:
    path = run / "scores" / "tuned-in_domain.jsonl"
    path.write_text(
        re.sub(r'"chosen_logp": [^,]+', '"chosen_logp": NaN', path.read_text(), count=1)
    )
    with pytest.raises(UserError, match=r"tuned-in_domain\.jsonl, line 1: .*NaN is no JSON number"):
        write_report(run)


@pytest.mark.parametrize("name", ["scores/base-in_domain.jsonl", "texts/in_domain.jsonl"])
def test_files_of_another_run_are_refused(run: Path, name: str) -> None:
    lines = lines_of(run / name)
    lines[4]["user_id"] = "somebody else"
    write_lines(run / name, lines)
    with pytest.raises(UserError, match=f"{name} is of other pairs or people .* as of pair p4"):
        write_report(run)


def test_verdicts_read_by_earlier_rules_are_left_out_and_it_is_said(run: Path) -> None:
    (path,) = (run / "judgements").iterdir()
    write_lines(path, [{**one, "replies": ["key"]} for one in lines_of(path)])
    found = explored(run)
    assert "Some judges’ reasons are not shown: " in found.notes[0] and path.name in found.notes[0]
    assert json.loads(found.data)["texts"]["0"]["answers"][0]["said"] == ["dvb_judge: won"]
