"""CONTRIBUTING.md's examples of extensions work as shown.

Each is applied to a copy of the package, runs with all of them are made, and each is found in their
output.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from judge_server import polite, running
from pages import BLOCK, patched

ROOT = Path(__file__).parents[1]
KINDS = {
    "A metric": 2,
    "A recipe": 1,
    "A loss": 1,
    "A data format": 2,
    "An evaluation set": 1,
    "A judge": 1,
    "A group variable": 1,
    "A tracker": 2,
}
"""By heading, how many files of a checkout it takes."""

PEOPLE, QUESTIONS = 8, 4


def sections() -> dict[str, list[tuple[str, str]]]:
    """Return the language and text of each block by heading."""
    _, *parts = re.split(r"^### (.+)\n", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), flags=re.M)
    return dict(zip(parts[::2], map(BLOCK.findall, parts[1::2]), strict=True))


def add(checkout: Path, language: str, block: str) -> str:
    """Write a new file, or apply a diff to an existing one, and return its path."""
    if language == "diff":
        name, text = patched(checkout, block)
    else:
        head, _, text = block.partition("\n")
        name = head.removeprefix("# ")
        assert not (checkout / name).exists(), name
    (checkout / name).write_text(text, encoding="utf-8")
    return name


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this repository with every example applied."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("mvp_align", "recipes", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", folder)
    touched = {
        kind: {add(folder, *block) for block in blocks} for kind, blocks in sections().items()
    }
    assert {kind: len(names) for kind, names in touched.items()} == KINDS
    (folder / "data").mkdir()
    for name in ("train", "neighbours"):
        records = [
            {
                "question": f"Question {number} of {name}"
                + ": is it so or not" * (number % 2)
                + "?",
                "better": f"Number {number} is fine.",
                "worse": f"Nobody needs number {number}.",
                "asker": f"u{number % PEOPLE}",
                "wants": "High factuality.",
            }
            for number in range(PEOPLE * QUESTIONS)
        ]
        (folder / "data" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    return folder


def command(checkout: Path, *words: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def mvp_align(checkout: Path, *words: str) -> str:
    return command(checkout, "-c", "from mvp_align.cli import main; main()", *words)


@pytest.fixture(scope="module")
def runs(checkout: Path, sharp_model: Path) -> tuple[Path, Path]:
    """A run of each new recipe, the first with all other examples."""
    words = [
        f"model.id={sharp_model}",
        "model.name=sharp",
        "hardware=cpu",
        "run.logp_cache=false",
        "data=files",
        "data.format=ranked",
        "data.train=data/train.jsonl",
        "prompt=question",
        "evals.min_users=2",
        "train.max_steps=2",
        "train.learning_rate=1e-3",
    ]
    everything = [
        "evals.sets=[auto,neighbours]",
        "evals.metrics=[opa,paa]",
        "evals.judge=strict",
        "generation.limit=4",
        "generation.max_new_tokens=2",
        "tracking.backend=lines",
    ]
    with running(polite) as url:
        command(
            checkout,
            "train.py",
            "recipe=lora_flooded",
            *words,
            *everything,
            "run.dir=flooded",
            STRICT_URL=url,
        )
    command(checkout, "train.py", "recipe=lora_swapped", *words, "tracking=none", "run.dir=swapped")
    return checkout / "flooded", checkout / "swapped"


def rows(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def values(run: Path, metric: str, **where: str) -> dict[tuple[object, object], float]:
    """Return values by (stage, group), by default of the test pairs."""
    wanted = {"metric": metric, "set": "in_domain", "group_by": "", **where}
    return {
        (row["stage"], row["group"]): float(str(row["value"]))
        for row in rows(run)
        if all(row[key] == value for key, value in wanted.items())
    }


def test_a_metric_has_rows_intervals_groups_and_a_label(runs: tuple[Path, Path]) -> None:
    run = runs[0]
    margins = {
        stage: [
            line["margin"]
            for line in map(
                json.loads, (run / "scores" / f"{stage}-in_domain.jsonl").read_text().splitlines()
            )
        ]
        for stage in ("base", "tuned")
    }
    assert values(run, "decided") == {
        (stage, ""): pytest.approx(sum(abs(m) > 0.01 for m in found) / len(found))
        for stage, found in margins.items()
    }
    assert all(row["low"] is not None for row in rows(run) if row["metric"] == "decided")
    assert values(run, "decided", group_by="question_length")
    assert "told apart" in (run / "report.html").read_text("utf-8")


def test_each_recipe_trains_in_its_own_way(runs: tuple[Path, Path]) -> None:
    flooded, swapped = runs
    assert values(swapped, "opa/margin")["tuned", ""] < values(swapped, "opa/margin")["base", ""]
    assert values(flooded, "opa/margin")["tuned", ""] > values(flooded, "opa/margin")["base", ""]
    losses = {}
    for run in runs:
        state = json.loads((run / "checkpoints/checkpoint-2/trainer_state.json").read_text())
        losses[run] = [log["loss"] for log in state["log_history"] if "loss" in log]
    assert min(losses[flooded]) >= 0.69 > min(losses[swapped])


def test_a_set_a_format_a_judge_and_a_tracker_are_in_the_run(runs: tuple[Path, Path]) -> None:
    run, report = runs[0], (runs[0] / "report.html").read_text("utf-8")
    (acc, *_) = [row for row in rows(run) if row["set"] == "neighbours"]
    assert (acc["n"], acc["users"]) == (PEOPLE * QUESTIONS, PEOPLE)
    assert "Our neighbours" in report and "question length" not in report
    assert "length of the question" in report
    assert "neighbours" in json.loads((run / "environment.json").read_text())["inputs"]
    assert values(run, "paa/dvb_judge/coverage", set="neighbours")
    assert "answers judged by strict" in report
    lines = (run / "lines.txt").read_text().splitlines()
    assert lines[-1] == "finished" and "tuned/neighbours/decided" in lines[-2]


def test_statistics_and_aggregates_know_all_of_it(checkout: Path, runs: tuple[Path, Path]) -> None:
    text = mvp_align(
        checkout, "stats", "flooded", "--metric", "decided", "--bootstrap", "100",
        "--set", "neighbours",
    )  # fmt: skip
    assert "decided by length of the question" in text and "paa/dvb_judge" in text
    assert values(runs[0], "decided_lift_p", set="neighbours")
    text = mvp_align(checkout, "runs", "aggregate", "flooded", "swapped")
    for word in ("recipe=lora_flooded", "recipe=lora_swapped", "told apart", "neighbours"):
        assert word in text, word
