"""Rows of perplexity, KL, and shifts of log-probs."""

import math

import pytest

from mvp_align.metrics.drift import kl_row, perplexity_row
from mvp_align.metrics.score_rows import score_rows
from mvp_align.schema import PairScore


def test_perplexity_is_over_tokens_not_over_passages() -> None:
    passages = [PairScore("0", "0", -10.0, -10.0, 4, 4), PairScore("1", "1", -2.0, -2.0, 2, 2)]
    row = perplexity_row("tuned", passages)
    assert row.value == pytest.approx(math.exp(12 / 6))
    assert (row.stage, row.set, row.metric, row.low, row.high, row.n) == (
        "tuned", "neutral", "damage/perplexity", None, None, 2,
    )  # fmt: skip


def test_kl_is_the_mean_over_answers() -> None:
    (row,) = kl_row("ufp4", [0.1, 0.2, 0.6], ["u", "u", "v"])
    assert row.value == pytest.approx(0.3)
    assert (row.metric, row.set, row.n, row.users) == ("damage/kl", "ufp4", 3, 2)
    assert row.low is not None and row.low < 0.3
    assert kl_row("ufp4", [], []) == []


def test_rejected_shift() -> None:
    base = [PairScore("a", "u", -4, -8, 4, 4), PairScore("b", "v", -4, -8, 4, 2)]
    tuned = [PairScore("a", "u", -3, -12, 4, 4), PairScore("b", "v", -4, -9, 4, 2)]
    rows = {row.metric: row.value for row in score_rows("tuned", "in_domain", tuned, {}, base)}
    assert rows["opa/rejected_shift"] == pytest.approx((-1 - 0.5) / 2)
    assert rows["opa/chosen_shift"] == pytest.approx(0.125)
    assert "opa/rejected_shift" not in {
        row.metric for row in score_rows("base", "in_domain", base, {})
    }
