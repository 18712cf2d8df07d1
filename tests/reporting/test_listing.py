"""`mvp-align runs ls`: every run of a folder with its state and what came of it."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from compared_runs import Compose, compared_run, drawn_margins

from mvp_align.errors import UserError
from mvp_align.metrics.rows import read_rows
from mvp_align.reporting.listing import ListedRun, chosen_runs, listed_runs, runs_table
from mvp_align.reporting.references import config_of
from mvp_align.reporting.table_formats import format_tables
from mvp_align.runs.lock import locked

IDS = [f"p{number}" for number in range(40)]


@pytest.fixture
def outputs(compose: Compose, tmp_path: Path) -> Path:
    """Three finished runs of different lifts, one unfinished, one broken, and a folder of none."""
    base = drawn_margins(0, IDS)
    for name, shift, settings in (
        ("low", -2.0, ["seed=13"]),
        ("high", 2.0, ["recipe=lora_sft"]),
        ("middle", 0.0, []),
    ):
        compared_run(compose, tmp_path / name, drawn_margins(1, IDS, shift), *settings, base=base)
    compared_run(compose, tmp_path / "cut", drawn_margins(1, IDS), done=False)
    broken = compared_run(compose, tmp_path / "broken", drawn_margins(1, IDS))
    (broken / "metrics.jsonl").write_text('{"stage": "tuned"}\n', encoding="utf-8")
    (tmp_path / "notes").mkdir()
    return tmp_path


def named(runs: list[ListedRun]) -> dict[str, ListedRun]:
    return {run.folder.name: run for run in runs}


def test_states_and_headlines(outputs: Path) -> None:
    found = named(listed_runs(outputs))
    assert {name: run.state for name, run in found.items()} == {
        "low": "done", "high": "done", "middle": "done", "cut": "unfinished", "broken": "broken",
    }  # fmt: skip
    assert "metrics.jsonl, line 1: no row" in found["broken"].why
    for name in ("low", "high", "middle"):
        rows = {
            (row.stage, row.metric): row
            for row in read_rows(outputs / name / "metrics.jsonl")
            if not row.group_by
        }
        headline = found[name].headline
        assert headline is not None and headline.set == "in_domain"
        assert headline.base == rows["base", "opa/acc@0"]
        assert headline.tuned == rows["tuned", "opa/acc@0"]
        assert headline.lift == rows["tuned", "opa/acc@0_lift"]
        done = (outputs / name / "DONE").read_text(encoding="utf-8")
        assert found[name].date == done.split()[0]
    assert found["cut"].headline is None and found["cut"].date == "2026-11-28T20:00:00+00:00"
    assert found["low"].settings["seed"] == "13"


def test_a_run_that_another_process_works_on_is_locked(outputs: Path) -> None:
    code = "import sys; from pathlib import Path; from mvp_align.runs.lock import lock\n"
    code += "lock(Path(sys.argv[1])); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(outputs / "cut")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        other.stdout.readline()
        run = named(listed_runs(outputs))["cut"]
        assert run.state == "locked" and f"in use by process {other.pid}" in run.why
        other.stdin.close()
    assert named(listed_runs(outputs))["cut"].state == "unfinished"
    with locked(outputs / "cut"):  # by this very process
        assert named(listed_runs(outputs))["cut"].state == "unfinished"


def test_a_config_that_cannot_be_read_is_broken(outputs: Path) -> None:
    (outputs / "low" / "config.yaml").write_text("a: [", encoding="utf-8")
    run = named(listed_runs(outputs))["low"]
    assert (run.state, run.settings) == ("broken", {}) and "config.yaml" in run.why


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"seed: 12\nmodel: {name: '${nope}'}\n", "Interpolation key 'nope' not found"),
        (b"seed: 12 # \xe9t\xe9\n", "byte 11 is not UTF-8"),
        (b"- seed\n", "not a list"),
    ],
)
def test_a_config_that_says_nothing_is_broken_with_its_reason(
    outputs: Path, content: bytes, why: str
) -> None:
    (outputs / "low" / "config.yaml").write_bytes(content)
    run = named(listed_runs(outputs))["low"]
    assert (run.state, run.settings) == ("broken", {})
    assert run.why.startswith(f"{outputs}/low/config.yaml cannot be read: ") and why in run.why
    assert config_of(outputs / "low") is None


def test_sorted_and_filtered(outputs: Path) -> None:
    runs = listed_runs(outputs)

    def names(
        states: tuple[str, ...] = (), where: tuple[str, ...] = (), by: str = "name"
    ) -> list[str]:
        return [run.folder.name for run in chosen_runs(runs, states, where, by)]

    assert names() == ["broken", "cut", "high", "low", "middle"]
    assert names(by="lift") == ["high", "middle", "low", "broken", "cut"]
    assert names(("done",), by="tuned") == ["high", "middle", "low"]
    assert names(where=("recipe=lora_sft",)) == ["high"]
    assert names(("done", "broken"), ("seed=12",)) == ["broken", "high", "middle"]
    for states, where, by, message in (
        (("gone",), (), "name", "--state gone: must be one of done"),
        ((), ("colour=red",), "name", "--where colour=red: NAME=VALUE belongs there"),
        ((), ("seed",), "name", "--where seed: NAME=VALUE"),
        ((), (), "size", "--sort size: must be one of name, date"),
    ):
        with pytest.raises(UserError, match=message):
            names(states, where, by)


def test_every_format_has_the_numbers(outputs: Path) -> None:
    runs = chosen_runs(listed_runs(outputs), (), (), "name")
    table = runs_table(outputs, runs, len(runs))
    (low,) = [
        row
        for row in csv.DictReader(io.StringIO(format_tables("csv", [table])))
        if row["run"] == "low"
    ]
    headline = named(runs)["low"].headline
    assert headline is not None and headline.lift is not None and headline.base is not None
    assert float(low["lift"]) == headline.lift.value
    assert (float(low["lift_low"]), float(low["lift_high"])) == (
        headline.lift.low,
        headline.lift.high,
    )
    assert float(low["base"]) == headline.base.value
    rows = json.loads(format_tables("json", [table]))["tables"][0]["rows"]
    cut = next(row for row in rows if row["run"] == "cut")
    assert (cut["state"], cut["lift"]) == ("unfinished", None)
    text = format_tables("table", [table], 200)
    assert f"{100 * headline.lift.value:+.1f} [" in text and "broken: " in text
    assert format_tables("md", [table]).count("\n| ") >= 6


def test_the_current_folder(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(outputs)
    assert len(listed_runs(Path())) == 5


def test_nothing_to_list(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        listed_runs(tmp_path / "nosuch")
    with pytest.raises(UserError, match="holds no run"):
        listed_runs(tmp_path)


def test_what_is_not_shown_is_counted(outputs: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mvp_align.cli", "runs", "ls", str(outputs), "--state", "broken"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 other runs are not shown." in done.stdout and "\n low" not in done.stdout
