"""The lm-evaluation-harness task gives our margins for each format, and leaves out the rest."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mvp_align.data.readers import read_pairs
from mvp_align.data.sources import open_source
from mvp_align.data.subsets import draw
from mvp_align.metrics.intervals import clustered_error
from mvp_align.schema import PairScore

lm_eval = pytest.importorskip("lm_eval")

MERGED = ("p3", "p7")
"""One of their answers starts with a token that merges with the prompt's last."""

Ours = Callable[..., dict[str, PairScore]]


@pytest.fixture(scope="module")
def folder() -> str:
    """The folder that the documented command substitutes."""
    done = subprocess.run(
        [sys.executable, "-m", "mvp_align.harness.lm_eval"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def harness(folder: str, sharp_model: Path) -> Callable[..., dict]:
    from lm_eval.tasks import TaskManager

    def evaluated(limit: int | None = None, **metadata: str) -> dict:
        arguments = {"pretrained": str(sharp_model), "dtype": "float32"}
        tasks = TaskManager(
            include_path=folder, include_defaults=False, metadata={**arguments, **metadata}
        )
        return lm_eval.simple_evaluate(
            model="hf",
            model_args=arguments,
            tasks=["mvp_opa"],
            task_manager=tasks,
            device="cpu",
            batch_size=4,
            limit=limit,
            log_samples=True,
            bootstrap_iters=0,
        )

    return evaluated


def margins(found: dict) -> dict[str, float]:
    return {sample["doc"]["id"]: sample["margin"] for sample in found["samples"]["mvp_opa"]}


def test_margins_are_ours_with_profiles_and_without(
    harness: Callable[..., dict], ours: Ours, pairs_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = harness(data=str(pairs_file), format="pairs")
    known = ours(pairs_file, "pairs")
    known = {name: score for name, score in known.items() if name not in MERGED}
    theirs = margins(found)
    assert theirs.keys() == known.keys() and len(known) == 14
    assert max(abs(theirs[name] - known[name].margin) for name in known) < 1e-4
    results = found["results"]["mvp_opa"]
    right = np.array([float(score.margin > 0) for score in known.values()])
    assert 0 < right.mean() < 1
    assert results["acc@0,none"] == pytest.approx(right.mean())
    assert results["margin,none"] == pytest.approx(
        np.mean([score.margin for score in known.values()]), abs=1e-4
    )
    error, users = clustered_error(right, [score.user_id for score in known.values()])
    assert (results["acc@0_se_by_user,none"], users) == (pytest.approx(error), 8)
    assert results["acc@0_stderr,none"] == "N/A"  # theirs takes every answer for another person's
    assert "pair long left out: over 512 prompt tokens" in caplog.text
    assert "pair p3 left out: an answer starts inside the prompt's last token" in caplog.text
    assert "14 of 17 pairs" in caplog.text


@pytest.mark.parametrize(("data", "format", "prompt"), [
    ("sample:test.json", "mvpbench", "preference"), ("sample:ufp4", "ufp4", "paper"),
])  # fmt: skip
def test_the_benchmarks_records_are_read(
    harness: Callable[..., dict], ours: Ours, data: str, format: str, prompt: str
) -> None:
    theirs = margins(harness(limit=6, data=data, format=format, prompt=prompt))
    known = ours(data, format, prompt)
    pairs = read_pairs(data, format).pairs
    # not the first six, all of one user type
    assert set(theirs) == {pair.id for pair in draw(pairs, 6, seed=12)}
    assert max(abs(margin - known[name].margin) for name, margin in theirs.items()) < 1e-4


def test_pairs_that_lm_eval_scores_differently_are_left_out(
    sharp_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from mvp_align.errors import UserError
    from mvp_align.harness.lm_eval.opa import load

    (first,) = open_source("sample:test.json", 1).files[0].rows
    rows = [
        {**first[1], "id": f"p{n}", "question": f"Why{end}"}
        for n, end in enumerate(("?", "? ", "?\n"))
    ]
    path = tmp_path / "records.json"
    path.write_text(json.dumps(rows))
    with caplog.at_level(logging.WARNING):
        found = load(pretrained=str(sharp_model), data=str(path))["test"]
    assert [row["id"] for row in found] == ["p0"]
    for name in ("p1", "p2"):
        assert (
            f"pair {name} left out: lm-eval would count the white space at the end of its prompt"
            in caplog.text
        )
    path.write_text(json.dumps(rows[1:]))
    with pytest.raises(UserError, match="none of 2 pairs"):
        load(pretrained=str(sharp_model), data=str(path))
    with pytest.raises(UserError, match="name the model"):
        load(data=str(path))
    with pytest.raises(
        UserError, match="prompt=chatty: must be one of paper, preference, question"
    ):
        load(pretrained=str(sharp_model), data=str(path), prompt="chatty")


def test_one_user_has_no_standard_error() -> None:
    from mvp_align.harness.lm_eval.opa import error_by_user

    # NaN would be no JSON in lm-eval's results
    assert error_by_user([(1.0, "u"), (0.0, "u")]) == "N/A"
