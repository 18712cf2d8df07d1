"""docs/judging.md: its commands run, and what it says of rules, judges and defaults is so."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from mvp_align.cli import app
from mvp_align.generation.patience import GIVE_UP_AFTER, REFUSALS
from mvp_align.judging.asking import GRACE_SECONDS
from mvp_align.judging.judge import LIMIT_USD
from mvp_align.judging.judges import JUDGES, read_judge
from mvp_align.judging.labels import PRESETS, SEMANTIC_EPSILON, Rules

PAGE = Path(__file__).parents[2] / "docs" / "judging.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse_and_name_what_there_is(command: str) -> None:
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    assert words[:2] == ["mvp-align", "judge"]
    group = typer.main.get_command(app)
    given = group.commands["judge"].make_context("judge", words[2:]).params  # type: ignore[attr-defined]
    for name in given["judges"] or []:
        assert name == "semantic" or (JUDGES / f"{name}.yaml").is_file()
    assert given["preset"] is None or given["preset"] in PRESETS
    assert given["limit_usd"] == LIMIT_USD


def test_commands_are_found() -> None:
    assert len(COMMANDS) == 4


def test_options_and_links_exist() -> None:
    options = {
        option
        for param in typer.main.get_command(app).commands["judge"].params
        for option in param.opts
    }  # type: ignore[attr-defined]
    assert set(re.findall(r"--[a-z][a-z-]+", TEXT)) <= options
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (PAGE.parent / link).is_file()


def test_figures_are_those_of_the_code() -> None:
    rules = Rules()
    assert f"m >= l + {rules.win_over_l:g} and m >= w - {rules.win_within_w:g}" in TEXT
    assert f"m <= w - {rules.loss_below_w:g}" in TEXT
    assert f"within {SEMANTIC_EPSILON} of cosine" in TEXT
    assert f"`--limit-usd` ({LIMIT_USD:g})" in TEXT
    assert f"fails {GIVE_UP_AFTER} requests in a row" in TEXT
    assert f"refuses {REFUSALS} requests in a row alike" in TEXT
    assert f"up to\n{GRACE_SECONDS} s" in TEXT
    assert {*PRESETS} <= set(re.findall(r"`([a-z_]+)`", TEXT))


def test_the_judge_s_file_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "reasoner.yaml").write_text(text)
    judge = read_judge(str(tmp_path / "reasoner.yaml"))
    assert (
        judge.parameters("scores") == judge.parameters("yes_no") == {"max_completion_tokens": 4000}
    )
