"""Tables of a finished run: every number of metrics.jsonl, the paper's tables, in files."""

import csv
import io
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mvp_align.metrics.rows import Row, read_rows, write_rows
from mvp_align.reporting.export import export_tables, write_tables
from mvp_align.reporting.table_formats import FORMATS, format_tables


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def cli(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mvp_align.cli", "export", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_paper_s_tables_hold_the_rows(run: Path) -> None:
    rows = {
        (row.stage, row.set, row.metric): row
        for row in read_rows(run / "metrics.jsonl")
        if not row.group_by
    }
    found = {
        table["name"]: table for table in json.loads(cli(run, "--format", "json").stdout)["tables"]
    }
    for line in found["paper_opa"]["rows"]:
        assert line["model"] == "tiny"
        for name in ("in_domain", "ufp4_sample"):
            row = rows[line["stage"], name, "opa/mean"]
            assert (line[name], line[f"{name}_low"]) == (row.value, row.low)
    assert any("ufp4_sample: synthetic" in note for note in found["paper_opa"]["notes"])
    acc = {line["metric"]: line for line in found["paper_acc_at_d"]["rows"]}
    assert list(acc) == ["acc@0", "acc@0.2", "acc@2", "acc@4", "acc@6", "acc@8"]
    for metric, line in acc.items():
        row = rows["tuned", "in_domain", f"opa/{metric}"]
        assert (line["in_domain tuned"], line["in_domain tuned_high"]) == (row.value, row.high)


def test_every_group_that_was_measured_is_there_and_no_other(run: Path) -> None:
    """Suppressed groups are counted in a note, and have no row."""
    rows = [row for row in read_rows(run / "metrics.jsonl") if row.set == "in_domain"]
    text = format_tables("csv", export_tables(run))
    told = {
        (line["group_by"], line["group"], line["n"]): line["tuned"]
        for line in csv.DictReader(io.StringIO(text))
        if line["table"].startswith("in_domain_by_")
    }
    wanted = {
        (row.group_by, row.group, str(row.n)): repr(row.value)
        for row in rows
        if row.stage == "tuned" and row.group_by and row.metric == "opa/acc@0"
    }
    assert wanted and told == wanted
    held = {row.group_by: row for row in rows if row.metric == "opa/acc@0_suppressed"}
    assert held
    notes = {table.name: " ".join(table.notes) for table in export_tables(run)}
    for group_by, row in held.items():
        assert f"{row.users} pe" in notes[f"in_domain_by_{group_by.replace(',', '_and_')}"]


def test_crossings_that_the_paper_has_are_there_or_named(run: Path) -> None:
    names = {table.name: table for table in export_tables(run)}
    said = " ".join(names["in_domain_by_region"].notes)
    assert "--cross region,age" in said and "--set in_domain" in said
    rows = read_rows(run / "metrics.jsonl")
    crossed = Row(
        "tuned", "in_domain", "opa/acc@0", "region,age", "Western,18-24 years old", 0.5, 0.4, 0.6,
        9, 6,
    )  # fmt: skip
    write_rows(run / "metrics.jsonl", [*rows, crossed])
    names = {table.name: table for table in export_tables(run)}
    (cells,) = names["in_domain_by_region_and_age"].rows
    assert cells[0] == "Western 18-24 years old"
    assert "--cross region,age" not in " ".join(names["in_domain_by_region"].notes)


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_a_table(run: Path, tmp_path: Path, form: str) -> None:
    tables = export_tables(run)
    paths = write_tables(tables, form, tmp_path / "out")
    noted = [table.name for table in tables if table.notes and form == "csv"]
    notes = {path.name: path for path in paths if path.name.endswith(".notes.txt")}
    assert len({*paths}) == len(tables) + len(noted) == len([*(tmp_path / "out").iterdir()])
    assert len(notes) == len(noted)
    for table in tables:
        if path := notes.get(f"{table.name}.notes.txt"):
            assert path.read_text("utf-8").splitlines() == [*table.notes]
    before = [path.read_bytes() for path in paths]
    assert all(before)
    write_tables(tables, form, tmp_path / "out")
    assert [path.read_bytes() for path in paths] == before


def test_colours_are_the_terminals_alone(run: Path, tmp_path: Path) -> None:
    """Of files that a command writes while it runs in a terminal none has its codes."""
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "90"}
    words = ["export", str(run), "--format", "table"]
    shown = {}
    for place, more in (("terminal", []), ("files", ["--to", str(tmp_path / "out")])):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "mvp_align.cli", *words, *more]
        with subprocess.Popen(command, stdout=theirs, env=env) as started:
            os.close(theirs)
            shown[place] = b"".join(iter(lambda: read_some(ours), b""))  # noqa: B023
        os.close(ours)
        assert started.returncode == 0
    assert b"\x1b[" in shown["terminal"]
    files = [path.read_bytes() for path in (tmp_path / "out").iterdir()]
    assert files and not any(b"\x1b" in content for content in files)


def read_some(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # its other end is closed
        return b""


def test_its_latex_compiles(run: Path, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex on this machine")
    paths = write_tables(export_tables(run), "latex", tmp_path)
    inputs = "\\clearpage\n".join(f"\\input{{{path.name}}}\n" for path in paths)
    document = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{inputs}"
    (tmp_path / "all.tex").write_text(f"{document}\\end{{document}}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


def test_figures_are_drawn_as_on_the_page(run: Path, tmp_path: Path) -> None:
    done = cli(run, "--to", tmp_path / "out", "--figures")
    assert done.returncode == 0, done.stderr
    drawn = {path.name: path for path in (tmp_path / "out").glob("*.svg")}
    assert {"in_domain-groups.svg", "ufp4_sample-groups.svg"} <= {*drawn}
    for path in drawn.values():
        ElementTree.parse(path)
    row = next(
        row
        for row in read_rows(run / "metrics.jsonl")
        if (row.stage, row.set, row.metric, row.group_by)
        == ("tuned", "in_domain", "opa/acc@0", "dimension")
    )
    assert f"{100 * row.value:.1f} %" in drawn["in_domain-groups.svg"].read_text("utf-8")


def test_mistakes_end_plainly(tmp_path: Path, run: Path) -> None:
    for words, message in (
        ((tmp_path / "none",), "config.yaml: no such file"),
        ((run, "--figures"), "--figures: --to FOLDER says where to."),
        ((run, "--format", "xlsx"), "--format xlsx: must be one of"),
        ((run, "--to", run / "config.yaml"), "cannot be written"),
    ):
        done = cli(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr and "Traceback" not in done.stderr
