"""SPMR and shares of empty and cut answers, compared with counts by hand."""

import json
from pathlib import Path

import pytest

from mvp_align.metrics.spmr import (
    AnswerCosines,
    answer_rows,
    write_cosines,
)
from mvp_align.metrics.table import FORMS, SIMILARITIES


def near(
    id: str,
    chosen: float,
    rejected: float = 0.1,
    together: float = 0.9,
    *,
    empty: bool = False,
    finished: bool = True,
) -> AnswerCosines:
    return AnswerCosines(id, f"u{id[0]}", chosen, rejected, together, empty, finished)


FOUND = [
    near("1a", 0.81, together=0.79),
    near("1b", 0.80),  # not above
    near("2a", 0.95, 0.99),
    near("2b", 0.95, empty=True),
    near("3a", 0.10, 0.11, finished=False),
]


def test_spmr_is_the_share_strictly_above_the_threshold() -> None:
    assert {metric.name: metric.of(FOUND) for metric in SIMILARITIES} == {
        "spmr@0.8": [1, 0, 1, 0, 0],
        "spmr_authors@0.8": [0, 1, 1, 0, 1],
    }


def test_rows_count_the_empty_and_the_cut() -> None:
    rows = {
        row.metric: row for row in answer_rows("base", "in_domain", [*FORMS, *SIMILARITIES], FOUND)
    }
    assert set(rows) == {"answers/empty", "answers/cut", "spmr@0.8", "spmr_authors@0.8"}
    assert rows["answers/empty"].value == rows["answers/cut"].value == 0.2
    row = rows["spmr@0.8"]
    assert (row.stage, row.set, row.value, row.n, row.users) == ("base", "in_domain", 0.4, 5, 3)
    assert row.low is not None and row.high is not None and 0 <= row.low < 0.4 < row.high <= 1


def test_the_lift_is_paired_over_what_both_stages_answered() -> None:
    base = [near("1a", 0.1), near("1b", 0.9), near("2b", 0.9), near("9z", 0.9)]
    rows = {
        row.metric: row
        for row in answer_rows("tuned", "in_domain", [*FORMS, *SIMILARITIES], FOUND, base)
        if row.metric.endswith("_lift")
    }
    lift = rows["spmr@0.8_lift"]
    assert lift.value == pytest.approx((1 - 1 - 1) / 3)  # 1a gained, 1b and 2b lost
    assert (lift.n, lift.users) == (3, 2)
    assert rows["answers/empty_lift"].value == pytest.approx(1 / 3)


def test_no_answers_no_rows() -> None:
    assert answer_rows("base", "in_domain", FORMS, []) == []


def test_the_file_holds_all_that_the_metrics_follow_from(tmp_path: Path) -> None:
    path = tmp_path / "cosines" / "base-in_domain.jsonl"
    write_cosines(path, FOUND)
    lines = path.read_text().splitlines()
    assert [AnswerCosines(**json.loads(line)) for line in lines] == FOUND
