"""Sentences claim no more than their interval shows."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from mvp_align.metrics.opa import ACC, THRESHOLDS
from mvp_align.metrics.rows import Row
from mvp_align.metrics.score_rows import score_estimates, score_rows
from mvp_align.reporting.headline import against_ceiling, no_change_reason, sentence
from mvp_align.reporting.results import Line, Results
from mvp_align.reporting.terminal import print_results
from mvp_align.schema import PairScore

ROOT = Path(__file__).parents[2]


def line(
    base: float, tuned: float, low: float | None, high: float | None, users: int = 48, n: int = 250
) -> Line:
    def row(stage: str, metric: str, value: float, low: float | None, high: float | None) -> Row:
        return Row(stage, "in_domain", metric, "", "", value, low, high, n, users)

    lift = row("tuned", f"{ACC}_lift", tuned - base, low, high)
    return Line(
        "acc@0",
        ACC,
        row("base", ACC, base, 0.1, 0.9),
        row("tuned", ACC, tuned, tuned - 0.05, 0.99),
        lift,
    )


def scores_of(right: list[bool], users: list[str]) -> list[PairScore]:
    return [
        PairScore(f"p{n}", u, -2.0, -4.0 if ok else -1.0, 2, 2)
        for n, (ok, u) in enumerate(zip(right, users, strict=True))
    ]


def test_two_people_show_nothing_however_large_the_numbers() -> None:
    """30 % to 100 % on ten pairs of two people, from the scores on."""
    users = ["a"] * 5 + ["b"] * 5
    base = scores_of([True, True, True, *[False] * 7], users)
    tuned = scores_of([True] * 10, users)
    results = Results(
        [
            *score_rows("base", "in_domain", base, {}),
            *score_rows("tuned", "in_domain", tuned, {}, base),
        ]
    )
    found = sentence(results.line("in_domain", ACC), "people", unseen=True)
    assert (
        found
        == "On 2 unseen people’s 10 pairs, no change of acc@0 is shown, because so few people leave"
        " every change possible: 30.0 % before and 100.0 % after training, +70.0 [-100.0, 100.0]"
        " points."
    )


@pytest.mark.parametrize(
    ("low", "high", "users", "said"),
    [
        (0.05, 0.35, 48, "acc@0 went from 50.0 % to 70.0 %, +20.0 [5.0, 35.0] points."),
        (
            -0.05,
            0.45,
            48,
            (
                "no change of acc@0 is shown: 50.0 % before and 70.0 % after training, +20.0 [-5.0,"
                " 45.0] points."
            ),
        ),
        (0.0, 0.4, 48, "no change of acc@0 is shown: 50.0 % before"),
        (
            None,
            None,
            1,
            (
                "no change of acc@0 is shown, because there is no interval for one person: 50.0 %"
                " before"
            ),
        ),
    ],
)
def test_the_headline_carries_its_interval_or_says_that_nothing_is_shown(
    low: float | None, high: float | None, users: int, said: str
) -> None:
    found = sentence(line(0.5, 0.7, low, high, users), "people", unseen=True)
    assert said in found
    assert found.startswith(
        "On 1 unseen person’s 250 pairs, " if users == 1 else "On 48 unseen people’s 250 pairs, "
    )
    assert ("went from" in found) == (not no_change_reason(line(0.5, 0.7, low, high, users).lift))


def test_a_fall_is_shown_as_one() -> None:
    found = sentence(line(0.7, 0.5, -0.3, -0.1), "prompts", unseen=False)
    assert (
        found
        == "On 250 pairs over 48 prompts, acc@0 went from 70.0 % to 50.0 %, -20.0 [-30.0, -10.0]"
        " points."
    )


def test_old_rows_without_a_lift_show_nothing() -> None:
    full = line(0.5, 0.7, 0.1, 0.3)
    bare = Line(full.label, full.metric, full.base, full.tuned)
    assert "no change of acc@0 is shown, because there is no interval: 50.0 %" in sentence(
        bare, "people", unseen=True
    )


@pytest.mark.parametrize(
    ("tuned", "said"), [(0.9, "which is above"), (0.78, "not shown to be above")]
)
def test_only_a_whole_interval_is_above_the_ceiling(tuned: float, said: str) -> None:
    found = line(0.5, tuned, 0.1, 0.3)
    ceiling = Row(
        "tuned", "in_domain", "opa/value_blind_ceiling", "", "", 0.75, None, None, 250, 48
    )
    words = against_ceiling(Line(found.label, ACC, found.base, found.tuned, found.lift, ceiling))
    assert words.startswith(
        "a model that ignores who is asking cannot pass 75.0 % acc@0; tuned has "
    ) and words.endswith(said)


def test_the_terminal_says_so_too(rows: list[Row]) -> None:
    console = Console(file=io.StringIO(), width=200, no_color=True)
    print_results(rows, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "ufp4: no change of acc@0 is shown: +4.2 [-0.8, 9.2] points." in text
    assert "in_domain: no change" not in text


def test_no_bound_is_claimed_that_margins_may_pass() -> None:
    """`opa/mean` of 34 % needs one margin above 2 nats a token, which untouched models have now and
    then."""
    page = (ROOT / "mvp_align" / "reporting" / "report.html.j2").read_text("utf-8")
    assert not re.search(r"untouched model[^.]*(cannot|can reach)", page)
    one_in_five = [
        PairScore(f"p{n}", f"u{n}", -1.0, -1.0 - (2.5 if n % 5 == 0 else 1.0), 1, 1)
        for n in range(100)
    ]
    assert score_estimates(one_in_five)["opa/mean"].value > 0.34


def test_what_80_percent_takes() -> None:
    """The page: margins above 4 nats a token in at least 60 % of the pairs."""
    most_without = 3 / len(THRESHOLDS)  # all pairs at 4 exactly pass 0, 0.2 and 2
    least = (0.8 - most_without) / (1 - most_without)
    assert least == pytest.approx(0.6)
