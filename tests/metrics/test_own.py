"""Metrics of the current folder join the table, or stop the command in words."""

import subprocess
import sys
from pathlib import Path

import pytest

GOOD = """from mvp_align.metrics.metric import Metric
LONG = Metric("long", "share", "longer", per_pair=lambda score: float(score.chosen_tokens > 9))
"""


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "mvp_align.cli", *words]
    return subprocess.run(program, cwd=folder, capture_output=True, text=True)


def stats(folder: Path, text: str, metric: str = "long") -> str:
    """Return what `mvp-align stats` says where `metrics/one.py` holds that text."""
    (folder / "metrics").mkdir()
    (folder / "metrics" / "one.py").write_text(text, encoding="utf-8")
    done = command(folder, "stats", "nowhere", "--metric", metric)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return " ".join(done.stderr.split())


def test_a_metric_is_known_in_its_folder_alone(tmp_path: Path) -> None:
    assert (
        "long: no metric of that name" in command(tmp_path, "stats", "x", "--metric", "long").stderr
    )
    assert "no metric" not in stats(tmp_path, GOOD)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("lambda", "lamda"), "cannot be run (SyntaxError"),
        (GOOD.replace('"long"', '"opa/acc@0"'), "opa/acc@0 is the name of a metric of mvp-align"),
        (GOOD.replace('"long"', '"paa/mine/loss"'), "paa/mine/loss is the name of a metric of"),
        (GOOD.replace('"long"', '"long_gap"'), "'long_gap' cannot name a metric"),
        (GOOD + GOOD.split("\n")[1].replace("LONG", "AGAIN"), "long is defined twice"),
        (GOOD.split(", per_pair")[0] + ")", "long has no per_pair"),
    ],
)
def test_what_is_wrong_with_a_metric_is_said(text: str, said: str, tmp_path: Path) -> None:
    message = stats(tmp_path, text)
    assert said in message and "metrics" in message


def test_files_that_are_no_metrics_are_not_run(tmp_path: Path) -> None:
    assert "no metric of that name" in stats(tmp_path, "raise SystemExit('this ran')")


def test_a_dry_run_stops_at_a_broken_metric_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "one.py").write_text(GOOD.replace("lambda", "lamda"))
    done = command(tmp_path, "train", "train.dry_run=true", "hardware=cpu")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "cannot be run" in done.stderr
