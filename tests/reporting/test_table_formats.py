"""Tables as text: programs get every bit of a number, people its rounding, LaTeX compiles."""

import csv
import io
import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvp_align.errors import UserError
from mvp_align.metrics.rows import Row
from mvp_align.reporting.results import shown
from mvp_align.reporting.table import (
    NATS,
    PROBABILITY,
    SHARE,
    Bounds,
    Column,
    Number,
    ResultTable,
    measured,
)
from mvp_align.reporting.table_formats import FORMATS, check_format, format_tables

COLUMNS = (
    Column("group"),
    Column("metric", only="programs"),
    Column("label", "measured", only="people"),
    Column("value", "acc@0", "estimate"),
    Column("bootstrap", kind="interval"),
    Column("p", kind="number"),
    Column("n", kind="count"),
    Column("seeds", kind="list", only="programs"),
)
HOSTILE = r"a|b & 5 % _x_ $y$ #1 {z} ~ ^ \input{/etc/passwd} <script>alert(1)</script> [red]"

finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20)


def table_of(group: str = HOSTILE, value: float = 0.5123, low: float = 0.4) -> ResultTable:
    rows = [
        (
            group, "opa/acc@0", "acc@0", Number(value, low, 0.6, SHARE), Bounds(low, 0.61, SHARE),
            Number(0.0001, style=PROBABILITY), 3, (0.1, 0.2),
        ),
        (
            "b", "opa/margin", "margin", Number(-0.25, style=NATS, signed=True), None, None, None,
            None,
        ),
    ]  # fmt: skip
    return ResultTable("one", "Who & what", COLUMNS, rows, notes=["2 groups < 5: left out."])


@given(text, finite, finite)
def test_programs_read_back_every_bit(group: str, value: float, low: float) -> None:
    table = table_of(group, value, low)
    (first, second) = csv.DictReader(io.StringIO(format_tables("csv", [table]), newline=""))
    assert float(first["value"]) == value and float(first["value_low"]) == low
    assert (first["group"], first["metric"], first["n"]) == (group, "opa/acc@0", "3")
    assert (first["value_unit"], first["p_unit"]) == ("share", "p")
    assert float(first["bootstrap_low"]) == low and "bootstrap" not in first
    assert first["seeds"] == "0.1 0.2" and "label" not in first
    assert (second["value_unit"], second["value_low"], second["p"]) == ("nats/token", "", "")
    (told,) = json.loads(format_tables("json", [table]))["tables"]
    assert told["notes"] == ["2 groups < 5: left out."]
    assert told["columns"] == list(first) == list(told["rows"][0])
    assert (told["rows"][0]["value"], told["rows"][0]["group"]) == (value, group)
    assert told["rows"][0]["seeds"] == [0.1, 0.2]
    assert told["rows"][1]["value_low"] is None and told["rows"][1]["n"] is None


def test_several_tables_are_one_csv() -> None:
    other = ResultTable("two", "", [Column("group"), Column("users", kind="count")], [("x", 7)])
    again = ResultTable("sum", "", [Column("group")], [("y",)], restated=True)
    found = list(csv.DictReader(io.StringIO(format_tables("csv", [table_of(), other, again]))))
    assert [row["table"] for row in found] == ["one", "one", "two"]
    assert (found[2]["users"], found[2]["value"], found[0]["users"]) == ("7", "", "")


def test_outside_a_terminal_no_number_is_cut() -> None:
    """100 columns, or as many as the numbers take and 30 for a text, which is wrapped."""
    heads = [Column("run"), *(Column(f"of {n}", kind="estimate") for n in range(9))]
    cells = [Number(0.5, 0.4, 0.6, SHARE)] * 9
    for columns, row in ((heads[:3], cells[:2]), (heads, cells)):
        name = "a name of many words " * 12
        text = format_tables("table", [ResultTable("one", "", columns, [[name.strip(), *row]])])
        assert text.count("50.0 [40.0, 60.0]") == len(row)
        assert max(map(len, text.splitlines())) <= max(100, 32 + 19 * len(row))


def test_people_read_rounded_numbers() -> None:
    terminal = format_tables("table", [table_of("x [red]")], width=90)
    line = next(line for line in terminal.splitlines() if "x [red]" in line)
    assert line.split() == (
        ["x", "[red]", "acc@0", "51.2", "[40.0,", "60.0]", "[40.0,", "61.0]", "<", "0.001", "3"]
    )
    assert "-0.25" in terminal and "left out." in terminal and "opa/acc@0" not in terminal
    cells = format_tables("md", [table_of()]).splitlines()[4].replace("\\|", "/").split(" | ")
    assert cells[2] == "51.2 [40.0, 60.0]" and "&lt;script>" in cells[0]


@given(text)
def test_a_cell_of_markdown_is_one_cell(group: str) -> None:
    line = format_tables("md", [table_of(group)]).splitlines()[4]
    assert line.replace("\\\\", "").replace("\\|", "").count("|") == 7


def test_latex_compiles(tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex on this machine")
    body = format_tables("latex", [table_of(), table_of("[1] Côte d'Ivoire ± 3, -0.5")])
    assert "$-$0.25" in body and "51.2 [40.0, 60.0]" in body and "\\input" not in body
    document = (
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n%s\n\\end{document}"
    )
    (tmp_path / "x.tex").write_text(document % body, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "x.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert (tmp_path / "x.pdf").stat().st_size > 1000


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_table_holds_what_is_not_finite(value: float) -> None:
    for make in (lambda: Number(value), lambda: Number(1, value, 2), lambda: Bounds(0, value)):
        with pytest.raises(ValueError, match="no finite number"):
            make()


def test_a_row_has_to_fit_its_columns() -> None:
    for cells, message in (((), "shorter"), ((1,), "one: 1 in group is no text")):
        with pytest.raises(ValueError, match=message):
            ResultTable("one", "", [Column("group")], [cells])
    twice = ResultTable("one", "", [Column("a"), Column("a")], [("x", "y")])
    with pytest.raises(ValueError, match="two columns of one key"):
        format_tables("csv", [twice])


@pytest.mark.parametrize(
    ("metric", "value", "low", "high", "text"),
    [
        ("opa/acc@0", 0.588, 0.512, 0.66, "58.8 % [51.2, 66.0]"),
        ("opa/acc@0_lift", 0.0301, -0.01, 0.07, "+3.0 [-1.0, 7.0]"),
        ("opa/acc@0_gap", 0.02, None, None, "+2.0"),
        ("opa/margin", -0.00001, -0.5, 0.5, "0.00 [-0.50, 0.50]"),
        ("opa/acc@0_lift_p", 0.0123, None, None, "0.012"),
        ("opa/acc@0_lift_p_holm", 0.0002, None, None, "< 0.001"),
        ("opa/acc@0_deff", 1.5, None, None, "1.50"),
        ("opa/acc@0_suppressed", 3.0, None, None, "3"),
        ("opa/acc@0_better_off", 0.421, 0.279, 0.578, "42.1 % [27.9, 57.8]"),
        ("opa/share_of_ceiling", 1.02, None, None, "102.0 %"),
        ("damage/perplexity", 41.2, 40.0, 42.0, "41.20 [40.00, 42.00]"),
    ],
)
def test_a_metric_is_shown_as_what_it_is(
    metric: str, value: float, low: float | None, high: float | None, text: str
) -> None:
    row = Row("tuned", "in_domain", metric, "", "", value, low, high, 9, 3)
    assert shown(row) == text
    number = measured(row)
    assert number is not None and (number.value, number.low, number.high) == (value, low, high)


def test_an_unknown_format_is_told() -> None:
    for form in FORMATS:
        check_format(form)
    with pytest.raises(UserError, match="--format markdown: its name is md"):
        check_format("markdown")
    with pytest.raises(UserError, match="must be one of table, csv, latex, md, json"):
        check_format("pdf")
