"""Tables of a finished run: every number of metrics.jsonl, the paper's tables, in files."""

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

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
    assert len({*paths}) == len(tables) == len([*(tmp_path / "out").iterdir()])
    before = [path.read_bytes() for path in paths]
    assert all(before)
    write_tables(tables, form, tmp_path / "out")
    assert [path.read_bytes() for path in paths] == before


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


def test_mistakes_end_plainly(tmp_path: Path, run: Path) -> None:
    for words, message in (
        ((tmp_path / "none",), "config.yaml: no such file"),
        ((run, "--format", "xlsx"), "--format xlsx: must be one of"),
        ((run, "--to", run / "config.yaml"), "cannot be written"),
    ):
        done = cli(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr and "Traceback" not in done.stderr
