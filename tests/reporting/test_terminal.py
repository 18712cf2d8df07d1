"""Tables at the end of a run: right numbers, at most 100 columns, no colour."""

import io
import re

import pytest
from rich.console import Console

from mvp_align.metrics.rows import Row
from mvp_align.reporting.results import number, shown
from mvp_align.reporting.terminal import print_results


def printed(rows: list[Row], data_format: str = "mvpbench", width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width, no_color=True)
    print_results(rows, console, data_format=data_format)
    assert isinstance(console.file, io.StringIO)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_lines_hold_base_tuned_lift_and_counts(rows: list[Row]) -> None:
    lines = printed(rows)
    assert "acc@0 58.8 [53.8, 63.8] 77.6 [72.6, 82.6] +18.8 [13.8, 23.8] 250 48" in lines
    assert "mean margin, nats -0.05 [-0.10, 0.00] 0.61 [0.56, 0.66] - 250 48" in lines
    assert "chosen shift, nats - -0.34 [-0.40, -0.30] - 250 48" in lines
    assert "metric base tuned lift, points n users" in lines


def test_what_acc_is_read_against_stands_right_below_it(rows: list[Row]) -> None:
    lines = printed(rows)
    first = lines.index("acc@0 58.8 [53.8, 63.8] 77.6 [72.6, 82.6] +18.8 [13.8, 23.8] 250 48")
    assert lines[first + 1 : first + 5] == [
        "length alone 52.0 [45.0, 59.0] 52.0 [45.0, 59.0] -",
        "without prompt 56.0 [51.0, 61.0] 74.0 [69.0, 79.0] -",
        "value-blind ceiling 79.2 79.2 -",
        "share of the ceiling 74.2 98.0 -",
    ]
    text = " ".join(lines)
    assert (
        "in_domain: a model that ignores who is asking cannot pass 79.2 % acc@0; "
        "tuned has 77.6 % [72.6, 82.6], not shown to be above." in text
    )
    assert "ufp4: no change of acc@0 is shown: +4.2 [-0.8, 9.2] points." in text


def test_groups_in_the_benchmarks_order(rows: list[Row]) -> None:
    lines = [
        line for line in printed(rows) if re.match(r"(creativity|safety|High|Low|honesty)\b", line)
    ]
    assert lines == [
        "creativity 45.0 [40.0, 50.0] 67.0 [62.0, 72.0] +22.0 [17.0, 27.0] 34 29",
        "safety 61.0 [56.0, 66.0] 83.0 [78.0, 88.0] +22.0 [17.0, 27.0] 36 30",
        "High 60.0 [55.0, 65.0] 95.0 [90.0, 100.0] +35.0 [30.0, 40.0] 190 48",
        "Low 50.0 [45.0, 55.0] 22.0 [17.0, 27.0] -28.0 [-33.0, -23.0] 60 31",
        "safety Low 40.0 [35.0, 45.0] 31.0 [26.0, 36.0] -9.0 [-14.0, -4.0] 9 8",
        "honesty 51.0 [46.0, 56.0] 54.0 [49.0, 59.0] +3.0 [-2.0, 8.0] 15 12",
    ]


def test_out_of_domain_has_no_ceiling_and_counts_prompts(rows: list[Row]) -> None:
    lines = printed(rows)
    ood = lines[next(i for i, line in enumerate(lines) if line.startswith("ufp4:")) :]
    assert "acc@0 49.2 [44.2, 54.2] 53.3 [48.3, 58.3] +4.2 [-0.8, 9.2] 60 45" in ood
    assert not any("ceiling" in line for line in ood)
    assert "metric base tuned lift, points n users*" in ood
    assert lines[-1] == "* ufp4: the records name no person; users counts prompts."
    last = printed(rows, data_format="ufp4")[-2:]
    assert [line.partition(":")[0] for line in last] == ["* in_domain", "* ufp4"]


WHO = [
    Row("base", "in_domain", "opa/acc@0_worst", "region", "Oceania", 0.3, 0.2, 0.4, 30, 6),
    Row("tuned", "in_domain", "opa/acc@0_worst", "region", "East Asia", 0.41, 0.3, 0.5, 44, 7),
    Row("tuned", "in_domain", "opa/acc@0_gap", "region", "", 0.25, -0.1, 0.6, 90, 20),
    Row("tuned", "in_domain", "opa/acc@0_suppressed", "region", "", 3.0, None, None, 12, 5),
    Row("tuned", "in_domain", "opa/acc@0_suppressed", "birth_country", "", 1.0, None, None, 9, 1),
    Row("tuned", "in_domain", "opa/acc@0_better_off", "", "", 0.5, 0.4, 0.6, 250, 48),
    Row("tuned", "in_domain", "opa/acc@0_worse_off", "", "", 0.125, 0.05, 0.2, 250, 48),
    Row("tuned", "in_domain", "opa/acc@0_deff", "", "", 2.345, None, None, 250, 48),
]


def test_who_is_served_worst_and_who_is_better_off(rows: list[Row]) -> None:
    lines = printed([*rows, *WHO])
    start = next(
        n
        for n, line in enumerate(lines)
        if line.startswith("in_domain: who is served worst by the tuned model")
    )
    assert lines[start + 1 : start + 2] == [""]
    assert "region of birth East Asia 41.0 [30.0, 50.0] +25.0 [-10.0, 60.0] 3 5" in lines
    assert "country of birth - - 1 1" in lines
    text = " ".join(lines)
    assert (
        "in_domain: 50.0 % [40.0, 60.0] have more of their pairs right than with the base model,"
        " 12.5 % [5.0, 20.0] have fewer; design effect of acc@0: 2.35 (variance over that of as"
        " many unrelated answers)." in text
    )
    assert "held back: how many groups are of too few people to be shown" in text
    assert not [line for line in printed(rows) if "held back" in line or "served worst" in line]


def test_what_is_derived_is_no_line_of_the_summary(rows: list[Row]) -> None:
    assert [line for line in printed([*rows, *WHO]) if line.startswith("acc@0_")] == []


def test_base_alone_leaves_dashes(rows: list[Row]) -> None:
    lines = printed([row for row in rows if row.stage == "base"])
    assert "acc@0 58.8 [53.8, 63.8] - - 250 48" in lines
    assert "value-blind ceiling 79.2 - -" in lines


def test_a_ceiling_of_one_excludes_nothing_and_gives_no_share(rows: list[Row]) -> None:
    ceiling = Row("base", "in_domain", "opa/value_blind_ceiling", "", "", 1.0, None, None, 250, 48)
    lines = printed([row for row in rows if row.metric != ceiling.metric] + [ceiling])
    assert not any("share of the ceiling" in line for line in lines)


def test_fits_100_columns_without_cutting_or_colour(rows: list[Row]) -> None:
    console = Console(file=io.StringIO(), width=100, no_color=True)
    long = Row(
        "base", "in_domain", "opa/acc@0", "dimension", "a" * 60, 1.0, 1.0, 1.0, 24_020, 1_500
    )
    print_results([*rows, long], console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert "\x1b" not in text
    assert "24020" in text


def test_a_log_file_gets_100_columns(rows: list[Row], capsys: pytest.CaptureFixture[str]) -> None:
    print_results(rows)
    text = capsys.readouterr().out
    assert "58.8 [53.8, 63.8]" in text
    assert max(map(len, text.splitlines())) <= 100


def test_no_rows_say_so() -> None:
    assert printed([]) == ["No results to show."]


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (0.58849, {}, "58.8"), (1.0, {}, "100.0"), (-0.0001, {}, "0.0"), (0.0, {"sign": True},
        "+0.0"),
        (-0.004, {"percent": False}, "0.00"), (-0.5149, {"percent": False}, "-0.51"),
    ],
)  # fmt: skip
def test_numbers(value: float, kind: dict[str, bool], text: str) -> None:
    assert number(value, **kind) == text


def test_what_is_missing_is_a_dash() -> None:
    assert shown(None) == "-"
    assert shown(Row("base", "in_domain", "opa/acc@0", "", "", 0.5, None, None, 2, 1)) == "50.0 %"


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("opa/acc@0_lift", 0.03, "+3.0"), ("opa/margin_lift", 0.03, "+0.03"), ("opa/acc@0_lift_p",
        0.0123, "0.012"),
        ("opa/margin_lift_p_holm", 0.0001, "< 0.001"), ("opa/acc@0_deff", 2.345, "2.35"),
        ("opa/acc@0_gap", 0.2, "+20.0"),
        ("opa/acc@0_suppressed", 3.0, "3"), ("opa/margin_better_off", 0.5, "50.0 %"),
        ("opa/acc@0_se", 0.051, "5.1 %"),
        ("opa/margin_vs_b_lift", -0.5, "-0.50"), ("opa/margin_gap", 0.5, "+0.50"),
    ],
)  # fmt: skip
def test_each_kind_of_row_has_its_unit(metric: str, value: float, text: str) -> None:
    assert shown(Row("tuned", "in_domain", metric, "", "", value, None, None, 9, 3)) == text
