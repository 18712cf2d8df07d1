"""The commands and settings of docs/answers.md exist."""

import re
import shlex
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser
from typer.testing import CliRunner

from mvp_align.cli import app
from mvp_align.launch import check_command

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "answers.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("#")[0].strip()
    for text in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in text.splitlines()
]


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if command.startswith("python ")]
)
def test_hydra_commands_compose(command: str) -> None:
    script, *words = shlex.split(command)[1:]
    check_command(Path(script).stem, get_args_parser().parse_args(words).overrides)


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if command.startswith("mvp-align ")]
)
def test_our_commands_parse(command: str) -> None:
    result = CliRunner().invoke(app, [*shlex.split(command)[1:], "--help"])
    assert result.exit_code == 0, result.output


def test_settings_and_files_that_are_named_exist() -> None:
    assert len(COMMANDS) == 7
    settings = re.findall(r"`((?:generation|evals)\.\w+)`", PAGE)
    assert set(settings) >= {"generation.temperature", "evals.judge", "evals.every_steps"}
    values = {
        "evals.sets": "[ufp4]",
        "evals.ufp4": "x",
        "evals.judge": "none",
        "evals.metrics": "[opa,paa]",
    }
    named = {*settings, "evals.metrics", "evals.ufp4"}
    check_command("train", ["data.val=x", *(f"{name}={values.get(name, 1)}" for name in named)])
    check_command("train", ["prompt@generation.prompt=paper"])
    links = [link for link in re.findall(r"\]\(([^)]+)\)", PAGE) if not link.startswith("http")]
    assert links and all((ROOT / "docs" / link).exists() for link in links)


def test_the_callback_example_runs(tokenizer) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    added: list[object] = []

    class Trainer:
        add_callback = staticmethod(added.append)

    rows = [{"prompt": "Why?", "chosen": "Because it is so.", "rejected": "No."}]
    exec(
        compile(example, "answers.md", "exec"),
        {"trainer": Trainer, "tokenizer": tokenizer, "test_rows": rows},
    )
    assert len(added) == 1
