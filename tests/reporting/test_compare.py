"""Comparison of two runs on the same pairs: numbers by hand, and wording that fits the interval."""

import io
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from mvp_align.errors import UserError
from mvp_align.reporting.compare import print_comparison
from mvp_align.runs.run_folder import RunFolder
from mvp_align.schema import PairScore

WRONG, RIGHT = -1.0, 1.0
HALF = [RIGHT, WRONG] * 4
"""Margins of 8 pairs, nats a token."""


def run_of(
    path: Path, margins: Sequence[float], users: int = 8, set_name: str = "in_domain"
) -> Path:
    """A run folder whose tuned scores have these margins, with alternating users."""
    path.mkdir(parents=True)
    # twice as many tokens in the rejected answer, so that sums and means tell different stories
    scores = [
        PairScore(f"p{i}", f"user{i % users}", -20.0, (-2.0 - margin) * 20, 10, 20)
        for i, margin in enumerate(margins)
    ]
    RunFolder(path, resumed=False).write_scores("tuned", set_name, scores)
    return path


def comparison(*runs: Path, set_name: str = "in_domain") -> str:
    console = Console(file=io.StringIO(), width=200)
    print_comparison(runs, set_name, console)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def cells(text: str, run: str) -> list[str]:
    """Return the row of `run` in the printed table."""
    (line,) = [
        line
        for line in text.splitlines()
        if line.startswith("│") and line.split("│")[1].strip() == run
    ]
    return [cell.strip() for cell in line.split("│")[1:-1]]


def test_higher(tmp_path: Path) -> None:
    # Lifts 1, 0, 1, 0, ...: SE^2 = 8/7 * 8 * 0.5^2 / 8^2, t(7) = 2.3646.
    text = comparison(
        run_of(tmp_path / "paper", [WRONG] * 8), run_of(tmp_path / "preference", HALF)
    )
    assert (
        text.splitlines()[-1]
        == "preference has a higher acc@0 than paper: +50.0 [+5.3, +94.7] points."
    )
    assert cells(text, "paper") == ["paper", "0.0 [0.0, 32.4]", "", "-1.000", "", "8", "8"]
    assert cells(text, "preference") == [
        "preference", "50.0 [5.3, 94.7]", "+50.0 [+5.3, +94.7]", "0.000 [-0.894, 0.894]",
        "+1.000 [+0.106, +1.894]",
        "8", "8",
    ]  # fmt: skip
    assert "in_domain: tuned models, 95 % intervals clustered by user" in text


def test_lower(tmp_path: Path) -> None:
    text = comparison(run_of(tmp_path / "a", [RIGHT] * 8), run_of(tmp_path / "b", HALF))
    assert text.splitlines()[-1] == "b has a lower acc@0 than a: -50.0 [-94.7, -5.3] points."


def test_none_shown(tmp_path: Path) -> None:
    # Two lifts of +1, two of -1, four of 0: SE^2 = 8/7 * 4 / 8^2.
    other = [WRONG, RIGHT, WRONG, RIGHT, *HALF[4:]]
    text = comparison(run_of(tmp_path / "a", HALF), run_of(tmp_path / "b", other))
    assert (
        text.splitlines()[-1]
        == "No difference in acc@0 shown between b and a: +0.0 [-63.2, +63.2] points spans 0."
    )


def test_one_user_has_no_interval(tmp_path: Path) -> None:
    first, other = (
        run_of(tmp_path / "a", [WRONG] * 8, users=1),
        run_of(tmp_path / "b", [RIGHT] * 8, users=1),
    )
    text = comparison(first, other)
    assert text.splitlines()[-1] == "b against a: one user alone, so there is no interval."
    assert cells(text, "b") == ["b", "100.0", "+100.0", "1.000", "+2.000", "8", "1"]


def test_users_widen_the_interval(tmp_path: Path) -> None:
    """The same lifts, 1 for two people and 0 for two: SE^2 = 4/3 * 4 * (2 * 0.5)^2 / 8^2, t(3) =
    3.1824, so it spans 0."""
    text = comparison(
        run_of(tmp_path / "a", [WRONG] * 8, users=4),
        run_of(tmp_path / "b", [RIGHT, WRONG] * 4, users=4),
    )
    assert (
        text.splitlines()[-1]
        == "No difference in acc@0 shown between b and a: +50.0 [-41.9, +100.0] points spans 0."
    )


def test_three_runs_are_each_set_against_the_first(tmp_path: Path) -> None:
    runs = [
        run_of(tmp_path / n, m) for n, m in (("a", [WRONG] * 8), ("b", HALF), ("c", [RIGHT] * 8))
    ]
    assert comparison(*runs).splitlines()[-2:] == [
        "b has a higher acc@0 than a: +50.0 [+5.3, +94.7] points.",
        # Tango: (8 - z^2) / (8 + z^2)
        "c has a higher acc@0 than a: +100.0 [+35.1, +100.0] points.",
    ]


def test_one_run_alone_is_a_table(tmp_path: Path) -> None:
    text = comparison(run_of(tmp_path / "a", HALF))
    assert cells(text, "a")[1:3] == ["50.0 [5.3, 94.7]", ""]
    assert "acc@0 than" not in text


def test_a_set_with_a_slash(tmp_path: Path) -> None:
    run = run_of(tmp_path / "a", HALF, set_name="ufp4/honesty")
    assert cells(comparison(run, set_name="ufp4/honesty"), "a")[1] == "50.0 [5.3, 94.7]"


@pytest.mark.parametrize("other", [HALF[:6], [*HALF, RIGHT]])
def test_different_pairs(other: list[float], tmp_path: Path) -> None:
    first, second = run_of(tmp_path / "a", HALF), run_of(tmp_path / "b", other)
    with pytest.raises(UserError) as caught:
        comparison(first, second)
    assert (
        str(caught.value)
        == f"{first} and {second} were scored on different pairs, so they cannot be compared pair"
        " by pair."
    )


def test_missing_run_and_missing_set(tmp_path: Path) -> None:
    first = run_of(tmp_path / "a", HALF)
    for run, set_name in ((tmp_path / "nosuch", "in_domain"), (first, "ufp4")):
        with pytest.raises(UserError) as caught:
            comparison(run, set_name=set_name)
        assert (
            str(caught.value)
            == f"{run}/scores/tuned-{set_name}.jsonl: no such file. Has the run ended, and is"
            f" {set_name} among its evals.sets?"
        )


def test_empty_and_broken_scores(tmp_path: Path) -> None:
    empty, broken = run_of(tmp_path / "a", []), run_of(tmp_path / "b", HALF)
    with pytest.raises(
        UserError, match=r"tuned-in_domain\.jsonl holds no scores, so there is nothing to compare\."
    ):
        comparison(empty)
    scores = broken / "scores" / "tuned-in_domain.jsonl"
    scores.write_text(scores.read_text(encoding="utf-8") + '{"id": "p9"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"tuned-in_domain\.jsonl, line 9: no score of a pair"):
        comparison(broken)


def cli(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mvp_align.cli", *map(str, words)],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_cli_compares(tmp_path: Path) -> None:
    done = cli("compare", run_of(tmp_path / "a", [WRONG] * 8), run_of(tmp_path / "b", HALF))
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout.splitlines()[-1] == "b has a higher acc@0 than a: +50.0 [+5.3, +94.7] points."
    )


def test_cli_takes_the_set(tmp_path: Path) -> None:
    done = cli("compare", "--set", "ufp4", run_of(tmp_path / "a", HALF, set_name="ufp4"))
    assert done.returncode == 0
    assert "ufp4: tuned models" in done.stdout


def test_cli_ends_plainly(tmp_path: Path) -> None:
    done = cli("compare", tmp_path / "nosuch")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        f"\n{tmp_path}/nosuch/scores/tuned-in_domain.jsonl: no such file."
    )
    assert "Traceback" not in done.stderr


def test_cli_checks_a_precision_before_it_reads_anything(tmp_path: Path) -> None:
    done = cli("merge", tmp_path / "run", tmp_path / "target", "--precision", "fp8")
    assert done.returncode == 2
    assert "--precision fp8: must be one of fp32, bf16, fp16." in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "target").exists()


def test_the_console_script_prints_errors_plainly_too() -> None:
    project = tomllib.loads(
        (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    )
    assert project["project"]["scripts"] == {
        "mvp-align": "mvp_align.cli:main"
    }  # not :app, which lets UserError through
