"""NaN is refused by estimates and rows, and files that hold it are refused by line."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mvp_align.errors import UserError
from mvp_align.metrics.agreement import score_alpha
from mvp_align.metrics.certainty import holm
from mvp_align.metrics.clusters import (
    bootstrap_means,
    clustered_se,
    clusters_of,
    design_effect,
    naive_se,
)
from mvp_align.metrics.drift import kl_row, perplexity_row
from mvp_align.metrics.groups import break_down, group_rows, headline_rows
from mvp_align.metrics.intervals import (
    clustered_error,
    clustered_mean,
    difference_p,
    tango,
    wilson,
)
from mvp_align.metrics.rows import Row, read_rows
from mvp_align.metrics.seeds import over_seeds
from mvp_align.metrics.shrinkage import shrunk_means
from mvp_align.metrics.spmr import AnswerCosines
from mvp_align.runs.pair_files import read_scores, read_values
from mvp_align.schema import PairScore

NO_NUMBERS = (math.nan, math.inf, -math.inf)
USERS = ["a", "a", "b", "c"]


def two(bad: float) -> np.ndarray:
    return np.array([0.0, 1.0, bad, 1.0])


ESTIMATORS: dict[str, Callable[[float], object]] = {
    "mean": lambda bad: clustered_mean(two(bad).tolist(), USERS, "share"),
    "mean of one user": lambda bad: clustered_mean([bad], ["a"]),
    "clustered_se": lambda bad: clustered_se(two(bad), clusters_of(USERS)),
    "clustered_error": lambda bad: clustered_error(two(bad), USERS),
    "naive_se": lambda bad: naive_se(two(bad)),
    "design_effect": lambda bad: design_effect(two(bad), clusters_of(USERS)),
    "p": lambda bad: difference_p(two(bad), clusters_of(USERS), "difference"),
    "bootstrap": lambda bad: bootstrap_means(two(bad)[None], clusters_of(USERS), 100, 1),
    "wilson": lambda bad: wilson(bad, 5),
    "tango": lambda bad: tango(bad, 0.2, 5),
    "tango, lost": lambda bad: tango(0.2, bad, 5),
    "holm": lambda bad: holm([0.1, bad]),
    "seeds": lambda bad: over_seeds([[0.0, 1.0, bad, 1.0], [0.0, 1.0, 0.0, 1.0]], USERS),
    "shrinkage": lambda bad: shrunk_means(
        [np.array([0.1, bad]), *[np.array([0.1, 0.5])] * 4], (0, 1)
    ),
    "alpha": lambda bad: score_alpha({"one": [1.0, bad, 3.0], "other": [1.0, 2.0, 4.0]}),
    "kl": lambda bad: kl_row("in_domain", [bad, 0.1], ["u", "v"]),
}


@pytest.mark.parametrize("bad", NO_NUMBERS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_given_nan_raises(name: str, bad: float) -> None:
    with pytest.raises(ValueError):
        ESTIMATORS[name](bad)


@pytest.mark.parametrize("bad", NO_NUMBERS)
def test_breakdowns_raise_too(bad: float) -> None:
    tags = [{"gender": "Female"}, {"gender": "Male"}] * 4
    breakdown = break_down("tuned", "in_domain", [f"u{n}" for n in range(8)], tags, ["gender"], 1)
    x = np.array([0.0, 1, bad, 1, 0, 0, 1, 1])
    for metric in ("opa/margin", "opa/margin_lift"):
        for rows_of in (group_rows, headline_rows):
            with pytest.raises(ValueError):
                rows_of(breakdown, {metric: x})


@pytest.mark.parametrize("bad", NO_NUMBERS)
@pytest.mark.parametrize("field", ["chosen_logp", "rejected_logp"])
def test_a_score_refuses_nan(field: str, bad: float) -> None:
    """Else `margin > 0` would be False, and the pair a wrong one."""
    with pytest.raises(ValueError, match=rf"pair p: {field} is {bad}"):
        PairScore(**{"id": "p", "user_id": "u", "chosen_logp": -1.0, "rejected_logp": -1.0,
        "chosen_tokens": 2,
                     "rejected_tokens": 2, field: bad})  # fmt: skip


def test_a_mean_over_no_token_is_refused() -> None:
    with pytest.raises(ValueError, match="pair p: chosen_tokens is 0"):
        PairScore("p", "u", -1.0, -1.0, 0, 2)


@pytest.mark.parametrize("bad", NO_NUMBERS)
def test_a_row_refuses_nan(bad: float) -> None:
    for value, low, high in ((bad, None, None), (0.5, bad, 0.6), (0.5, 0.4, bad)):
        with pytest.raises(ValueError, match=r"opa/acc@0 of tuned in_domain"):
            Row("tuned", "in_domain", "opa/acc@0", "", "", value, low, high, 3, 3)


@pytest.mark.parametrize("bad", NO_NUMBERS)
def test_a_nan_cosine_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="answer p: chosen is"):
        AnswerCosines("p", "u", bad, 0.1, 0.2, False, True)


def test_an_infinite_perplexity_is_reported() -> None:
    with pytest.raises(UserError, match=r"base neutral: .* -800 nats a token"):
        perplexity_row("base", [PairScore("0", "0", -1600.0, -1600.0, 2, 2)])


SCORE = {"id": "p", "user_id": "u", "chosen_logp": -1.0, "rejected_logp": -2.0, "chosen_tokens": 2,
         "rejected_tokens": 2, "margin": 0.5}  # fmt: skip
ROW = {
    "stage": "tuned",
    "set": "in_domain",
    "metric": "opa/acc@0",
    "group_by": "",
    "group": "",
    "value": 0.5,
    "low": 0.1,
    "high": 0.9,
    "n": 3,
    "users": 3,
}
VALUES = {"id": "p", "user_id": "u", "values": {"paa/mine": 1.0}}
NO_JSON = ("NaN", "Infinity", "-Infinity", "1e999")
BAD = (*NO_JSON, '"nan"', '"0.5"', "true", "[1]")
READERS = [
    *((read_scores, SCORE, "chosen_logp", bad) for bad in BAD),
    # which follows from the rest, and is not read
    *((read_scores, SCORE, "margin", bad) for bad in NO_JSON),
    *((read_rows, ROW, field, bad) for field in ("value", "low", "high") for bad in BAD),
    *((read_values, VALUES, "values", bad) for bad in BAD),
]


@pytest.mark.parametrize(("read", "line", "field", "bad"), READERS)
def test_a_file_with_nan_is_refused_by_line(
    read: Callable, line: dict, field: str, bad: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.jsonl"
    other = {**line, "id": "q"} if "id" in line else line
    broken = {**line, field: {"paa/mine": "#"} if field == "values" else "#"}
    path.write_text(json.dumps(other) + "\n" + json.dumps(broken).replace('"#"', bad) + "\n")
    with pytest.raises(UserError, match=r"file\.jsonl, line 2"):
        read(path)
    path.write_text(json.dumps(other) + "\n")
    assert read(path)
