"""The commands of docs/tracking.md are commands."""

import re
import shlex
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser
from typer.testing import CliRunner

from mvp_align.cli import app
from mvp_align.launch import check_command

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tracking.md").read_text(encoding="utf-8")
BLOCKS = [
    line.split("#")[0].strip()
    for text in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in text.splitlines()
]
COMMANDS = sorted({*BLOCKS, *re.findall(r"`([^`\n]+)`", PAGE)})


def starting(words: str) -> list[str]:
    return [command for command in COMMANDS if command.startswith(words)]


@pytest.mark.parametrize("command", starting("python train.py"))
def test_training_commands_compose(command: str) -> None:
    check_command("train", get_args_parser().parse_args(shlex.split(command)[2:]).overrides)


@pytest.mark.parametrize("command", starting("mvp-align "))
def test_our_commands_parse(command: str) -> None:
    result = CliRunner().invoke(app, [*shlex.split(command)[1:], "--help"])
    assert result.exit_code == 0, result.output


def test_settings_and_files_that_are_named_exist() -> None:
    settings = [
        word for command in starting("tracking.") for word in command.replace("NAME", "x").split()
    ]
    check_command("train", [word for word in settings if "=" in word])
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert links and all((ROOT / "docs" / link).exists() for link in links)
    assert len(starting("python train.py")) >= 5 and len(starting("mvp-align ")) >= 5
