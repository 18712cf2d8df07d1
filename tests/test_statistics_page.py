"""docs/statistics.md: its command prints what the page shows, its Python example runs, its names
are the code's."""

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mvp_align.cli import app
from mvp_align.config import Config, Data, Model, Prompt
from mvp_align.data.readers import read_pairs
from mvp_align.metrics import names
from mvp_align.metrics.groups import tags_of
from mvp_align.metrics.opa import opa_rows
from mvp_align.metrics.rows import write_rows
from mvp_align.runs.pair_files import write_groups
from mvp_align.runs.run_folder import open_run
from mvp_align.schema import PairScore

PAGE = (Path(__file__).parents[1] / "docs" / "statistics.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


def example_run(folder: Path) -> None:
    """The test people of the bundled sample, with margins drawn at random: a person's taste, and a
    lift that follows it."""
    pairs = read_pairs("sample:test.json", "mvpbench").pairs
    random = np.random.default_rng(12)
    taste = {user: random.normal(0, 0.5) for user in sorted({pair.user_id for pair in pairs})}
    base, tuned = [], []
    for pair in pairs:
        margin = taste[pair.user_id] + random.normal(0, 0.6)
        for scores, value in ((base, margin), (tuned, margin + 0.3 + 0.4 * taste[pair.user_id])):
            scores.append(PairScore(pair.id, pair.user_id, -20.0, 10 * (-2.0 - value), 10, 10))
    model, prompt = Model("example", "somewhere/example"), Prompt("paper", "{question}")
    run = open_run(
        folder, Config(recipe="evaluate", model=model, data=Data(name="sample"), prompt=prompt)
    )
    run.write_scores("base", "in_domain", base)
    run.write_scores("tuned", "in_domain", tuned)
    write_groups(
        run.groups("in_domain"), [(pair.id, pair.user_id, tags_of(pair)) for pair in pairs]
    )
    write_rows(run.metrics, opa_rows("tuned", "in_domain", tuned, {}, base))


def test_the_command_prints_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example_run(tmp_path / "outputs" / "example")
    monkeypatch.chdir(tmp_path)
    (command,) = [text for kind, text in BLOCKS if kind == "bash"]
    words = command.split()
    assert words[0] == "mvp-align"
    result = CliRunner().invoke(app, words[1:])
    assert result.exception is None
    (shown,) = [text for kind, text in BLOCKS if kind == "text"]
    assert [
        line.rstrip() for line in result.stdout.rstrip().splitlines()
    ] == shown.rstrip().splitlines()


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = [text for kind, text in BLOCKS if kind == "python"]
    exec(compile(example, "statistics.md", "exec"), {})
    said = re.findall(r"# prints (.*)", example)
    assert said and capsys.readouterr().out.splitlines() == said


def test_every_derived_row_is_explained() -> None:
    for word in (*names.DERIVED, names.LIFT, "_vs_RUN_lift"):
        assert f"`{word}`" in PAGE, word
