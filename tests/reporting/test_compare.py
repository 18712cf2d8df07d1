"""Comparison of two runs on the same pairs: numbers by hand, and wording that fits the interval."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from mvp_align.errors import UserError
from mvp_align.reporting.compare import terminal_tables, verdicts
from mvp_align.reporting.compare_page import headline
from mvp_align.reporting.comparison import compare_set
from mvp_align.reporting.table_formats import format_tables
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
    found = compare_set(runs, set_name)
    text = format_tables("table", terminal_tables(runs, found), 200)
    return "\n".join([text, *verdicts(found)])


def cells(text: str, run: str) -> list[str]:
    """Return the row of `run` in the table of metrics."""
    lines = text[text.index(" users, 95 %") :].splitlines()
    return re.split(r" {2,}", next(line for line in lines if line.split()[:1] == [run]).strip())


def test_higher(tmp_path: Path) -> None:
    # Lifts 1, 0, 1, 0, ...: SE^2 = 8/7 * 8 * 0.5^2 / 8^2, t(7) = 2.3646.
    text = comparison(
        run_of(tmp_path / "paper", [WRONG] * 8), run_of(tmp_path / "preference", HALF)
    )
    assert (
        text.splitlines()[-1]
        == "preference has a higher acc@0 than paper: +50.0 [+5.3, +94.7] points."
    )
    assert cells(text, "paper") == ["paper", "0.0 [0.0, 32.4]", "-", "-", "-1.00", "-"]
    assert cells(text, "preference") == [
        "preference", "50.0 [5.3, 94.7]", "+50.0 [5.3, 94.7]", "0.033", "0.00 [-0.89, 0.89]",
        "+1.00 [0.11, 1.89]",
    ]  # fmt: skip
    assert "in_domain: tuned models, 8 pairs of 8 users, 95 % intervals clustered by user" in text


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
    assert cells(text, "b") == ["b", "100.0", "+100.0", "-", "1.00", "+2.00"]


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


def test_a_word_among_many_runs_is_corrected_for_them(tmp_path: Path) -> None:
    """p 0.033 among six: 0.199 by Holm, as the line of the table says."""
    first = run_of(tmp_path / "a", [WRONG] * 8)
    same = [run_of(tmp_path / f"same{n}", [WRONG] * 8) for n in range(5)]
    runs = [first, run_of(tmp_path / "b", HALF), *same]
    text = comparison(*runs)
    assert cells(text, "b")[3] == "0.199"
    assert text.splitlines()[-6] == (
        "No difference in acc@0 shown between b and a: +50.0 [+5.3, +94.7] points leaves 0 out"
        " alone, but not among 6 comparisons (p 0.199, Holm)."
    )
    assert "b has a higher" not in text
    assert headline(compare_set(runs, "in_domain")).startswith("Of 6 runs, 0 have a higher acc@0")
    assert "b has a higher acc@0 than a" in comparison(*runs[:2])


def test_one_run_alone_is_a_table(tmp_path: Path) -> None:
    text = comparison(run_of(tmp_path / "a", HALF))
    assert cells(text, "a")[1:3] == ["50.0 [5.3, 94.7]", "-"]
    assert "acc@0 than" not in text


def test_a_set_with_a_slash(tmp_path: Path) -> None:
    run = run_of(tmp_path / "a", HALF, set_name="ufp4/honesty")
    assert cells(comparison(run, set_name="ufp4/honesty"), "a")[1] == "50.0 [5.3, 94.7]"


@pytest.mark.parametrize("other", [HALF[:6], [*HALF, RIGHT]])
def test_other_pairs_are_left_out_and_counted(other: list[float], tmp_path: Path) -> None:
    first, second = run_of(tmp_path / "a", HALF), run_of(tmp_path / "b", other)
    text = comparison(first, second)
    kept, most = min(8, len(other)), max(8, len(other))
    assert f"compared on the {kept} pairs that all runs share, of up to {most} in a run." in text
    name, total = ("a", 8) if len(other) < 8 else ("b", 9)
    assert f"{name}: {total - kept} of its {total} pairs" in text


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
    *_, verdict, page = done.stdout.splitlines()
    assert verdict == "b has a higher acc@0 than a: +50.0 [+5.3, +94.7] points."
    written = Path(page.removeprefix("Page: "))
    assert written.parent == tmp_path and verdict in written.read_text(encoding="utf-8")


def test_cli_prints_every_number_for_programs(tmp_path: Path) -> None:
    a, b = run_of(tmp_path / "a", [WRONG] * 8), run_of(tmp_path / "b", HALF)
    done = cli("compare", a, b, "--format", "json")
    assert done.returncode == 0 and done.stderr.startswith("b has a higher acc@0 than a:")
    tables = {one["name"]: one for one in json.loads(done.stdout)["tables"]}
    (acc,) = [
        row
        for row in tables["metrics"]["rows"]
        if (row["metric"], row["run"]) == ("opa/acc@0", "b")
    ]
    assert (acc["value"], acc["difference"], acc["pairs"]) == (0.5, 0.5, 8)
    assert acc["difference_low"] == pytest.approx(0.053, abs=1e-3)
    assert tables["flips"]["rows"] == [
        {"set": "in_domain", "run": "b", "gained": 4, "lost": 0, "pairs": 8}
    ]
    flipped = tables["flipped_pairs"]["rows"]
    assert [(one["run"], one["id"], one["now"]) for one in flipped] == [
        ("b", f"p{n}", "right") for n in (0, 2, 4, 6)
    ]
    assert (flipped[0]["first_margin"], flipped[0]["margin"]) == (WRONG, RIGHT)
    assert not list(tmp_path.glob("*.html"))  # asked for by --page alone


def test_what_a_csv_has_no_place_for_is_said_beside_it(tmp_path: Path) -> None:
    a, b = run_of(tmp_path / "a", HALF), run_of(tmp_path / "b", HALF[:6])
    done = cli("compare", a, b, "--format", "csv")
    assert done.returncode == 0 and "that all runs share" not in done.stdout
    said = "in_domain: compared on the 6 pairs that all runs share, of up to 8 in a run."
    assert done.stderr.splitlines().count(said) == 1


def test_cli_refuses_what_it_would_not_use(tmp_path: Path) -> None:
    a, b = run_of(tmp_path / "a", HALF), run_of(tmp_path / "b", HALF)
    done = cli("compare", a, b, "--metric", "paa/semantic", "--page", tmp_path / "page.html")
    assert done.returncode == 2 and "--page and --format show scores" in done.stderr
    done = cli("compare", a, b, "--format", "xml")
    assert done.returncode == 2 and "--format xml: must be one of table, csv" in done.stderr
    assert not list(tmp_path.glob("*.html"))


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
