"""Runs of recipes, compared, listed and aggregated from their folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from mvp_align.config import Config
from mvp_align.reporting.aggregate import aggregate
from mvp_align.reporting.aggregate_page import write_aggregate
from mvp_align.reporting.compare_page import write_comparison
from mvp_align.reporting.comparison import compare_set
from mvp_align.reporting.comparison_tables import settings_table
from mvp_align.reporting.listing import listed_runs
from mvp_align.reporting.shared_pairs import scored_sets

QUICK = (
    "model.name=sharp", "hardware=cpu", "tracking=none", "run.logp_cache=false", "data.limit=24",
    "train.max_steps=3", "train.micro_batch_size=2", "train.learning_rate=1e-3",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(
    compose: Callable[..., Config], sharp_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Two seeds, and one of them on fewer test pairs and with another prompt."""
    outputs = tmp_path_factory.mktemp("outputs")
    runs = []
    for name, words in (
        ("12", ["seed=12"]),
        ("13", ["seed=13"]),
        ("few", ["seed=12", "prompt=question", "data.limit=8"]),
    ):
        where = [f"model.id={sharp_model}", f"run.dir={outputs / name}", f"run.name={name}"]
        config = compose(*QUICK, *where, *words)
        import_module("recipes.lora_dpo").main(config)
        runs.append(outputs / name)
    return runs


def margins(run: Path, name: str) -> dict[str, float]:
    lines = (run / "scores" / f"tuned-{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["id"]: line["margin"] for line in map(json.loads, lines)}


def test_recipes_runs_are_compared_on_what_they_share(finished: list[Path]) -> None:
    assert scored_sets(finished) == ["in_domain", "ufp4_sample"]
    for runs in (finished[:2], finished):
        found = compare_set(runs, "in_domain")
        first = margins(runs[0], "in_domain")
        kept = [id for id in first if all(id in margins(run, "in_domain") for run in runs)]
        assert list(found.shared.ids) == kept and found.shared.unproven == ()
        assert bool(found.shared.left_out()) == (len(kept) < len(first))
        (acc,) = [one for one in found.metrics if one.metric == "opa/acc@0"]
        for run, line in zip(runs[1:], acc.lines[1:], strict=True):
            now = margins(run, "in_domain")
            changes = [(now[id] > 0) - (first[id] > 0) for id in kept]
            assert line.difference is not None
            assert line.difference.value == pytest.approx(sum(changes) / len(kept))
    assert len(kept) < len(first)


def test_settings_that_differ_are_those_of_the_commands(finished: list[Path]) -> None:
    rows = settings_table(finished[:2]).rows
    assert [list(row) for row in rows] == [["seed", "12", "12"], ["seed", "13", "13"]]
    named = {row[0] for row in settings_table(finished).rows}
    assert {"seed", "data.limit", "prompt.name", "prompt.template"} <= named
    assert not {name for name in named if str(name).startswith(("run.", "tracking."))}


def test_their_pages_have_curves_and_every_set(finished: list[Path], tmp_path: Path) -> None:
    found = compare_set(finished, "in_domain")
    text = write_comparison(finished, found, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "train/loss over optimizer steps" in text and "Without curves.jsonl" not in text
    assert "Out of domain: a synthetic sample" in text
    again = write_comparison(finished, found, tmp_path / "again.html").read_bytes()
    assert again == (tmp_path / "page.html").read_bytes()
    groups, broken = aggregate([str(run) for run in finished[:2]])
    page = write_aggregate(groups, broken, tmp_path / "seeds.html").read_text(encoding="utf-8")
    assert "in_domain: acc@0 by seed" in page and "seed 13" in page


def test_they_are_listed_as_done(finished: list[Path]) -> None:
    runs = listed_runs(finished[0].parent)
    assert [(run.folder.name, run.state) for run in runs] == [
        ("12", "done"), ("13", "done"), ("few", "done"),
    ]  # fmt: skip
    assert all(run.headline and run.headline.lift for run in runs)
