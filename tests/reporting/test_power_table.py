"""`mvp-align power` on a finished run's files and on figures given, and mistakes."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from mvp_align.cli import app
from mvp_align.config import Config, Data, Model, Prompt
from mvp_align.errors import UserError
from mvp_align.metrics.clusters import clustered_se, clusters_of
from mvp_align.metrics.power import Study
from mvp_align.runs.run_folder import open_run
from mvp_align.schema import PairScore


def power(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["power", *map(str, words)])


def lines_of(*words: str | Path) -> list[dict]:
    done = power(*words, "--format", "json")
    assert done.exception is None
    (table,) = json.loads(done.stdout)["tables"]
    return table["rows"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """40 users of 5 pairs each: 12 of them change in 3 of theirs."""
    config = Config(
        recipe="evaluate",
        model=Model("tiny", "somewhere/tiny"),
        data=Data(name="files"),
        prompt=Prompt("p", "{question}"),
    )
    folder = open_run(tmp_path / "run", config)
    for stage in ("base", "tuned"):
        scores = [
            PairScore(
                f"p{n}", f"u{n // 5}", -20.0,
                -30.0 if stage == "tuned" and n // 5 < 12 and n % 5 < 3 else -10.0, 10, 10,
            )
            for n in range(200)
        ]  # fmt: skip
        folder.write_scores(stage, "in_domain", scores)
    folder.finish()
    return folder.path


def test_a_run_s_own_figures(run: Path) -> None:
    (line,) = lines_of("--run", run)
    changes = np.array([float(n // 5 < 12 and n % 5 < 3) for n in range(200)])
    clusters = clusters_of([f"u{n // 5}" for n in range(200)])
    error = clustered_se(changes, clusters)
    assert (line["users"], line["pairs_per_user"], line["power"]) == (40, 5, 0.8)
    # the study that is planned is the one that was: its error at this lift is the run's
    deff = line["design_effect"]
    d, mean = changes.mean(), changes.mean()
    assert np.sqrt((d - mean**2) * deff / 200) == pytest.approx(error, rel=0.03)
    wider = lines_of("--run", run, "--users", "40,80,160")
    lifts = [one["lift"] for one in wider]
    assert lifts[0] == line["lift"] and lifts == sorted(lifts, reverse=True)
    (given,) = lines_of("--run", run, "--icc", "0", "--users", "40")
    assert given["design_effect"] == 1 and given["lift"] < line["lift"]


def test_figures_that_are_given() -> None:
    words = ("--pairs-per-user", "5", "--icc", "0.1", "--discordant", "30")
    study = Study(100, 5, 0.1, 0.3)
    (line,) = lines_of(*words, "--users", "100")
    assert line["lift"] == pytest.approx(study.smallest_lift())
    (line,) = lines_of(*words, "--lift", "5", "--power", "0.9")
    assert line["users"] == study.users_for(0.05, 0.9)
    (line,) = lines_of(*words, "--lift", "5", "--users", "100")
    assert line["power"] == pytest.approx(study.power(0.05))
    few = power(*words, "--users", "2")
    assert "2 users: no lift is shown" in " ".join(few.stdout.split())
    (line,) = lines_of(*words, "--users", "2")
    assert (line["lift"], line["power"]) == (None, None)
    titled = power(*words, "--lift", "5", "--users", "100")
    assert "Power for a lift of 5 points, at level 0.05" in titled.stdout


def test_notes_of_a_csv_go_to_stderr() -> None:
    words = ("--pairs-per-user", "5", "--icc", "0.1", "--discordant", "30", "--users", "2,100")
    done = power(*words, "--format", "csv")
    none, some = csv.DictReader(io.StringIO(done.stdout))
    assert (none["users"], none["lift"], none["power"]) == ("2", "", "")
    assert some["users"] == "100" and float(some["power"]) == 0.8
    assert "2 users: no lift is shown with that power" in done.stderr
    assert "The test is that of lifts" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lift", "5"], "--pairs-per-user, --icc, --discordant: needed without --run"),
        (["--users", "5;6"], "--users 5;6: whole numbers"),
        (["--users", "1"], "--users 1: must be from 2"),
        (["--discordant", "0.3"], "--discordant 0.3: must be from 1 to 100 % of the pairs."),
        (["--lift", "0.05"], "--lift 0.05: must be from 0.1 to 100 points."),
        (["--power", "80"], "--power 80: must be from"),
        (["--run", "/nosuch/run"], "/nosuch/run: no scores of in_domain of both models"),
        (["--format", "pdf"], "--format pdf: must be one of"),
        (
            ["--lift", "40", "--pairs-per-user", "5", "--icc", "0.1", "--discordant", "30"],
            "--lift 40: acc@0 cannot rise by more points than the 30.0 % of pairs",
        ),
    ],
)
def test_mistakes_are_told(words: list[str], message: str) -> None:
    done = power(*words)
    assert isinstance(done.exception, UserError) and done.stdout == ""
    assert message in str(done.exception)
