"""The README's commands are commands: each composes, each target exists, each Python example
runs."""

import json
import re
import shlex
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser

from mvp_align.data.readers import read_pairs
from mvp_align.launch import check_command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
INLINE = re.findall(r"`([^`\n]+)`", README)


def commands(start: str) -> list[str]:
    """Commands of bash blocks and of inline code that begin with `start`, comments and `...`
    removed."""
    lines = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
    return [
        line.split("#")[0].replace("...", "").strip()
        for line in [*lines, *INLINE]
        if line.startswith(start)
    ]


@pytest.mark.parametrize(
    "command", sorted(set(commands("python train.py") + commands("accelerate launch train.py")))
)
def test_training_commands_compose(command: str) -> None:
    words = shlex.split(command)
    check_command(
        "train", get_args_parser().parse_args(words[words.index("train.py") + 1 :]).overrides
    )


def test_training_commands_are_found() -> None:
    assert len(commands("python train.py")) >= 6
    assert len(commands("accelerate launch")) >= 1
    assert len(commands("python evaluate.py")) >= 1


def test_evaluate_command_composes() -> None:
    for command in commands("python evaluate.py"):
        check_command("evaluate", shlex.split(command)[2:])


def test_make_targets_exist() -> None:
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    named = {word for command in commands("make ") for word in command.split()[1:]}
    assert named and named <= targets


def test_files_that_are_linked_exist() -> None:
    links = [
        link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith(("http", "#"))
    ]
    assert links
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []


def test_the_example_pair_is_read(tmp_path: Path) -> None:
    (example,) = [text for kind, text in BLOCKS if kind == "json"]
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(json.loads(example)) + "\n", encoding="utf-8")
    (pair,) = read_pairs(str(path), "pairs").pairs
    assert pair.user_id == "u7"
    assert pair.profile_text == "Retired nurse."


def test_the_callback_example_runs(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    class Trainer:
        def __init__(self) -> None:
            self.callbacks: list[object] = []

        def add_callback(self, callback: object) -> None:
            self.callbacks.append(callback)

    (example,) = [text for kind, text in BLOCKS if kind == "python"]
    names = {
        "trainer": Trainer(),
        "tokenizer": AutoTokenizer.from_pretrained(tiny_model),
        "test_rows": [{"prompt": "Why?", "chosen": " Because it is so.", "rejected": " No."}],
    }
    exec(compile(example, "README.md", "exec"), names)
    trainer = names["trainer"]
    assert isinstance(trainer, Trainer)
    assert [type(callback).__name__ for callback in trainer.callbacks] == [
        "OPACallback",
        "OODCallback",
    ]
