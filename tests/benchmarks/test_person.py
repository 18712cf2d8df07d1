"""The personal recipe's benchmark trains, skips what is done, and its figures are the files'."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import person
from benchmarks.person import MIN_USERS
from mvp_align.errors import UserError
from mvp_align.runs.pair_files import read_groups, read_scores


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def right(folder: Path, name: str) -> dict[str, float]:
    found = read_scores(folder / "scores" / f"{name}.jsonl")
    return {score.id: float(score.margin > 0) for score in found}


def test_seeds_and_a_lever_left_out(tiny: list[str], tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(person.main)
    given = [word for word in tiny if not word.startswith(("run.dir", "data.limit"))]
    given += ["train.batch_size=2", "evals.every_steps=null", "train.best_by=null", "data.limit=60"]
    options = [part for word in given for part in ("-o", word)]
    out = tmp_path / "person"
    words = [str(out), "--validation", "--seeds", "12,13", "--only", "recipe,no_order"]
    words += ["--json", str(out / "person.json"), *options]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0, (first.output, first.exception)
    seconds = [float(line.split()[1]) for line in first.output.splitlines() if line.endswith(" s")]
    assert len(seconds) == 3  # the lever is left out under the first seed alone
    config = (out / "no_order-12" / "config.yaml").read_text()
    assert "order: shuffled" in config and "seed: 12" in config

    recipe, without = json.loads((out / "person.json").read_text())
    runs = [right(out / f"recipe-{seed}", "tuned-in_domain") for seed in (12, 13)]
    assert recipe["acc"]["mean"] == pytest.approx(mean([mean([*run.values()]) for run in runs]))
    other = right(out / "no_order-12", "tuned-in_domain")
    expected = mean([other[name] - value for name, value in runs[0].items()])
    assert without["difference"]["mean"] == pytest.approx(expected)
    assert recipe["difference"] is None
    own, another = (
        [right(out / f"recipe-{seed}", f"tuned-in_domain-profile_{kind}") for seed in (12, 13)]
        for kind in ("values", "shuffled")
    )
    apart = [x[name] - y[name] for x, y in zip(own, another, strict=True) for name in x]
    assert recipe["own_over_another"]["mean"] == pytest.approx(mean(apart))

    groups = read_groups(out / "recipe-12" / "groups" / "in_domain.jsonl")
    assert all(name.startswith("val-") for name in groups)
    people: dict[str, set[str]] = {}
    for _, user, tags in groups.values():
        people.setdefault(f"{tags['dimension']} {tags['level']}", set()).add(user)
    assert recipe["suppressed"] == {
        cell: len(users) for cell, users in people.items() if len(users) < MIN_USERS
    }
    assert recipe["cells"].keys() | recipe["suppressed"].keys() == people.keys()
    low = [name for name, (_, _, tags) in groups.items() if tags["level"] == "Low"]
    assert recipe["levels"]["Low"]["mean"] == pytest.approx(
        mean([run[name] for run in runs for name in low])
    )

    before = (out / "recipe-12" / "DONE").stat().st_mtime_ns
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0, (again.output, again.exception)
    assert (out / "recipe-12" / "DONE").stat().st_mtime_ns == before

    misspelt = CliRunner().invoke(app, [str(out), "--only", "recipe,no_ordr"])
    assert isinstance(misspelt.exception, UserError) and "no_ordr" in str(misspelt.exception)
    wrong = CliRunner().invoke(app, [str(out), "--only", "recipe", "-o", "train.betta=1"])
    assert isinstance(wrong.exception, UserError) and "betta" in str(wrong.exception)
