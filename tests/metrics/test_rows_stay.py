"""Metrics give the same rows as when `rows.jsonl` was recorded, in the same order."""

from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from mvp_align.evaluation.eval_sets import EvalSet, set_rows
from mvp_align.metrics.drift import kl_row, perplexity_row
from mvp_align.metrics.labelled import Labelled
from mvp_align.metrics.paa import paa_rows
from mvp_align.metrics.profile_ablation import profile_rows
from mvp_align.metrics.rows import Row, read_rows
from mvp_align.metrics.score_rows import score_values
from mvp_align.metrics.spmr import AnswerCosines, answer_rows
from mvp_align.metrics.table import FORMS, SIMILARITIES
from mvp_align.schema import PairScore

KNOWN = Path(__file__).with_name("rows.jsonl")
PAIRS, PEOPLE = 24, 9


def scores(random: np.random.Generator) -> list[PairScore]:
    logps = -random.gamma(2.0, 12.0, size=(PAIRS, 2))
    tokens = random.integers(3, 20, size=(PAIRS, 2))
    return [
        PairScore(f"p{at}", f"u{at % PEOPLE}", *logps[at].tolist(), *tokens[at].tolist())
        for at in range(PAIRS)
    ]


def answers(random: np.random.Generator) -> list[AnswerCosines]:
    cosines = random.uniform(0.5, 1.0, size=(PAIRS, 3))
    return [
        AnswerCosines(f"p{at}", f"u{at % PEOPLE}", *cosines[at].tolist(), at % 7 == 0, at % 5 > 0)
        for at in range(PAIRS)
    ]


def rows() -> Iterator[Row]:
    """All rows that a run writes of random scores, answers and labels."""
    random = np.random.default_rng(7)
    base, tuned, base_free, free = (scores(random) for _ in range(4))
    groups = {
        f"p{at}": {"gender": "fm"[at % PEOPLE % 2], "user_type": ("a", "b")[at % 2]}
        for at in range(PAIRS)
    }
    blind = {f"p{at}": float(at % 4 > 0) for at in range(PAIRS)}
    subject = EvalSet("in_domain", [], [], groups, blind, 0, 0)
    for stage, first, second, before in (
        ("base", base, base_free, None),
        ("tuned", tuned, free, base),
    ):
        yield from set_rows(
            subject, stage, first, second, before, min_users=2, worst_by="gender+user_type"
        )
    kinds = ("none", "demographics", "values", "shuffled")
    shown, before = ({kind: scores(random) for kind in kinds} for _ in range(2))
    changed = {f"p{at}": at % 3 == 0 for at in range(PAIRS)}
    yield from profile_rows("tuned", "in_domain", shown, before, changed)
    now, then = answers(random), answers(random)
    for metrics in (SIMILARITIES, FORMS):
        yield from answer_rows("tuned", "in_domain", metrics, now, then)
    labels = random.choice(np.array(["W", "L", "TIE", None], dtype=object), size=PAIRS)
    labelled = [Labelled(f"p{at}", f"u{at % PEOPLE}", labels[at]) for at in range(PAIRS)]
    yield from paa_rows("tuned", "in_domain", "paa/dvb_judge", labelled, groups, 2)
    kls = random.gamma(1.0, 0.2, size=PAIRS)
    yield from kl_row("in_domain", kls.tolist(), [f"u{at % PEOPLE}" for at in range(PAIRS)])
    yield perplexity_row("tuned", base)
    for metric, x in score_values(tuned, base).items():  # what `mvp-align stats` makes rows of
        dotted = float(x @ np.arange(PAIRS))
        yield Row("tuned", "pair values", metric, "", "", dotted, None, None, 0, 0)


def numbers(row: Row) -> list[float]:
    return [x for x in (row.value, row.low, row.high) if x is not None]


def name_and_counts(row: Row) -> tuple[object, ...]:
    return *astuple(row)[:5], row.low is None, row.high is None, row.n, row.users


def test_rows_are_what_they_were() -> None:
    found, known = list(rows()), read_rows(KNOWN)
    assert [name_and_counts(row) for row in found] == [name_and_counts(row) for row in known]
    for row, before in zip(found, known, strict=True):
        # sums may be taken in another order on another processor
        assert numbers(row) == pytest.approx(numbers(before), rel=1e-12, abs=1e-15), before
