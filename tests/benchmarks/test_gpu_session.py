"""The prepared GPU session: what is kept, skipped and stopped, and what its table claims."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from page_commands import check_overrides
from typer.testing import CliRunner

from benchmarks import gpu_session, random_llama, session_parts, session_targets, training
from benchmarks.session_lines import LINES, Line, Setting, read_json, read_tests
from benchmarks.session_targets import TARGETS, table_of

SLOW = "import time; time.sleep(60)"


def python(code: str):
    return lambda setting, line: [sys.executable, "-c", code, str(setting.figures(line))]


def leaves(figures: str, then: str = "") -> str:
    return f"import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('{figures}'); {then}"


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`session(lines, ...)`: the records of one session with these lines, on a CPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    file = tmp_path / "records.jsonl"

    def ran(lines: list[Line], *words: str) -> list[dict]:
        monkeypatch.setattr(gpu_session, "LINES", lines)
        app = typer.Typer()
        app.command()(gpu_session.main)
        given = ["--tiny", "--json", str(file), "--work", str(tmp_path / "work"), *words]
        result = CliRunner().invoke(app, given)
        assert result.exit_code == 0, (result.output, result.exception)
        assert gpu_session.REHEARSAL in result.output
        return [json.loads(line) for line in file.read_text().splitlines()]

    ran.file = file
    return ran


def test_each_line_is_kept_and_not_run_again(session) -> None:
    scoring = Line("scoring", 60, python(leaves('{"pairs_per_second": 9.5}')), read_json)
    broken = Line("demo", 60, python("raise SystemExit('no disk')"), read_json)
    records = session([scoring, broken])
    assert [record["line"] for record in records] == ["scoring", "demo"]
    assert records[0]["figures"] == {"pairs_per_second": 9.5}
    assert records[0]["failed"] is None and records[0]["rehearsal"] is True
    assert records[1]["failed"] == "exit code 1: no disk"

    with session.file.open("a") as file:
        file.write('{"line": "losses", "figu')  # killed while it wrote
    mended = replace(broken, command=python(leaves('{"seconds": 3}')))
    records = session([replace(scoring, command=python("raise SystemExit(1)")), mended])
    assert [record["line"] for record in records] == ["scoring", "demo", "demo"]
    assert records[-1]["figures"] == {"seconds": 3}


def test_a_line_is_stopped_with_its_children_and_keeps_what_it_found(
    session, tmp_path: Path
) -> None:
    child = tmp_path / "child"
    start = (
        f"import subprocess; p = subprocess.Popen([sys.executable, '-c', '{SLOW}']);"
        f" pathlib.Path('{child}').write_text(str(p.pid)); p.wait()"
    )
    line = Line("scoring", 3, python(leaves('{"pairs_per_second": 1}', start)), read_json)
    (record,) = session([line])
    assert record["failed"] == "stopped after 3 s"
    assert record["figures"] == {"pairs_per_second": 1}
    until = time.monotonic() + 10
    while Path(f"/proc/{child.read_text()}/stat").exists():
        stat = Path(f"/proc/{child.read_text()}/stat").read_text()
        if stat.rpartition(")")[2].split()[0] == "Z" or time.monotonic() > until:
            break
        time.sleep(0.05)
    assert time.monotonic() < until


def test_no_line_starts_when_the_time_is_up(session) -> None:
    line = Line("scoring", 60, python(leaves("{}")), read_json)
    session.file.write_text("")
    assert session([line], "--minutes", "0.1") == []


def test_a_rehearsal_and_a_measurement_share_no_file(session) -> None:
    session.file.write_text(json.dumps({"line": "ours", "rehearsal": False}) + "\n")
    with pytest.raises(typer.BadParameter, match="holds figures of a GPU"):
        gpu_session.read_records(session.file, rehearsal=True)
    assert len(gpu_session.read_records(session.file, rehearsal=False)) == 1


def test_without_a_gpu_only_a_rehearsal_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_session.torch.cuda, "is_available", lambda: False)
    app = typer.Typer()
    app.command()(gpu_session.main)
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2 and "--tiny" in result.output


def step_row(name: str, contender: str, batch: int, rate: float, **more) -> dict:
    known = {
        "product_share": 0.5, "data_sheet_share": 0.3, "busy_share": 0.96, "kernels": 900,
        "micro": batch, "seconds_of_a_pair_inside": 1.25 / rate,
    }  # fmt: skip
    return {**known, "name": name, "contender": contender, "batch": batch,
            "pairs_per_second": rate, **more}  # fmt: skip


@pytest.fixture
def known() -> dict[str, dict]:
    return {
        "ours": {"rows": [
            step_row("mvp-align, as configured", "mvp-align", 8, 50.0),
            step_row("mvp-align, 16 a pass", "mvp-align", 16, 80.0),
            step_row("mvp-align, 32 a pass", "mvp-align", 32, 90.0, product_share=0.62),
        ]},
        "rivals": {"rows": [
            step_row("TRL", "TRL", 16, 20.0, seconds_of_a_pair_inside=1 / 16),
            step_row("TRL, 2 pairs a pass x 4", "TRL, 2 pairs a pass x 4", 8, 4.0),
            step_row("TRL with Liger kernels", "TRL with Liger kernels", 16, 25.0),
        ]},
        "unsloth": {"rows": [
            {"name": "Unsloth with TRL", "contender": "Unsloth with TRL", "batch": 16,
             "failed": "no module"},
        ]},
        "losses": {"gap_fp32": 2e-6, "gap_bf16": 3e-3, "plain_bf16_beside_fp32": 4e-3},
        "demo": {"seconds": 47.0},
        "generation": {"plain_answers_per_second": 2.5},
    }  # fmt: skip


def test_targets_are_compared_with_figures(known) -> None:
    cells = {what.strip(): rest for what, *rest in table_of(known, {"scoring": "late"}, False)}
    assert cells["training as configured, pairs/s"] == ["at least 55.0", "50.0", "no"]
    assert cells["16 pairs a pass and more, pairs/s"] == ["at least 75.0", "90.0", "yes"]
    # Liger's 25 is the best of TRL's
    assert cells["times the best TRL, outside"] == ["at least 3.50", "3.20", "no"]
    assert cells["times TRL at 2 x 4, outside"] == ["at least 10.00", "12.50", "yes"]
    assert cells["times TRL precomputed, outside"][1:] == ["not measured", "-"]
    assert cells["times Unsloth, outside"][1:] == ["not measured: no module", "-"]
    assert cells["scoring, pairs/s"][1:] == ["not measured: late", "-"]
    assert cells["losses beside the plain path's, fp32"] == ["at most 1.0e-05", "2.0e-06", "yes"]
    bf16 = "bf16, beside the plain path's own distance to fp32"
    assert cells[bf16] == ["at most 4.0e-03", "3.0e-03", "yes"]
    assert cells["the demo from command to DONE, s"] == ["at most 30", "47", "no"]
    assert cells["GPU busy"] == ["at least 95.0%", "96.0%", "yes"]
    assert cells["plain generate, batch 8, answers/s"] == ["shown", "2.50", "-"]


def test_a_rehearsal_reaches_no_target(known, capsys: pytest.CaptureFixture[str]) -> None:
    assert {cells[-1] for cells in table_of(known, {}, True)} == {"-"}
    session_targets.show_all({}, {}, "a CPU", True)
    shown = capsys.readouterr().out
    assert "figures mean nothing" in shown and " measured" not in shown.replace("not measured", "")


def test_pytest_s_counts_are_read(tmp_path: Path) -> None:
    setting = Setting(tmp_path, tiny=True)
    setting.log("gpu_tests").write_text("..F\n1 failed, 19 passed, 2 skipped in 156.20s\n")
    found = read_tests(setting, "gpu_tests", 160.0)
    assert found == {"seconds": 160.0, "failed": 1, "passed": 19, "skipped": 2}
    setting.log("gpu_tests").write_text("ImportError: no torch\n")
    with pytest.raises(ValueError, match="counted nothing"):
        read_tests(setting, "gpu_tests", 1.0)


def test_why_a_line_failed_is_what_its_command_said(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(training.main)
    said = CliRunner().invoke(app, ["--gpu", "--only", "nobody"])
    assert said.exit_code == 2
    log = tmp_path / "line.log"
    log.write_text(said.output)
    words = gpu_session.last_line(log)
    assert words and words in said.output and not set(words) & set("╭╮╰╯─│")
    log.write_text("\n")
    assert gpu_session.last_line(log) == "no message"


@pytest.mark.parametrize("tiny", [False, True])
def test_passes_that_were_found_go_to_lines_of_their_case_alone(tiny: bool, tmp_path: Path) -> None:
    """`benchmarks.training` refuses them elsewhere."""
    setting = Setting(tmp_path, tiny)
    setting.settings.write_text("{}")
    commands = {line.name: line.command(setting, line.name) for line in LINES}

    def case(words: list[str]) -> list[str]:
        shape = words[words.index("--shape") + 1]
        return [shape, *(word for word in words if "=" in word)]

    given = {name for name, words in commands.items() if "--settings" in words}
    assert "rivals" in given and "compiled" not in given
    assert all(case(commands[name]) == case(commands["find"]) for name in given)


@pytest.mark.parametrize("tiny", [False, True])
def test_commands_of_all_lines_parse(tiny: bool, tmp_path: Path) -> None:
    setting = Setting(tmp_path, tiny, "tokenizer", tmp_path / "unsloth", tmp_path / "passes.json")
    (tmp_path / "passes.json").write_text("{}")
    mains = {
        "benchmarks.training": training.main,
        "benchmarks.random_llama": random_llama.main,
    }
    for line in LINES:
        command = line.command(setting, line.name)
        assert command[0] == sys.executable
        if command[1] != "-m":
            assert Path(command[1]).name == "train.py"
            check_overrides("train", command[2:])
        elif command[2] in mains:
            app = typer.Typer()
            app.command()(mains[command[2]])
            typer.main.get_command(app).make_context(command[2], command[3:])
        elif command[2] == "benchmarks.session_parts":
            parts = typer.main.get_command(session_parts.app).commands
            parts[command[3]].make_context(command[3], command[4:])
        else:
            assert command[2] == "pytest"
    assert {one.line for one in TARGETS} <= {line.name for line in LINES}
