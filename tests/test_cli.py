"""`mvp-align`: entry points equal train.py and evaluate.py; the command `cache`."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mvp_align import __version__
from mvp_align.cli import app
from mvp_align.errors import UserError
from mvp_align.scoring.cache import open_cache
from mvp_align.scoring.identity import logps_folder
from mvp_align.scoring.tokens import Answer

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "words", "code"),
    [
        ("train", ["--cfg", "job", "train.beta=0.25"], 0),
        ("train", ["-m", "train.batch_size=8,9", "train.betta=1"], 2),
        ("train", ["--no-such-option"], 2),
        ("evaluate", ["--help"], 0),
        ("evaluate", ["data=files"], 2),
    ],
)
def test_the_command_equals_the_script(
    name: str, words: list[str], code: int, tmp_path: Path
) -> None:
    started = ([str(ROOT / f"{name}.py")], ["-m", "mvp_align.cli", name])
    script, command = (
        subprocess.run([sys.executable, *start, *words], cwd=tmp_path, capture_output=True)
        for start in started
    )
    assert script.returncode == command.returncode == code, command.stderr
    # argparse names the program
    command_words = command.stderr.replace(b"cli.py " + name.encode(), name.encode() + b".py")
    assert (script.stdout, script.stderr.split()) == (command.stdout, command_words.split())


def test_help_and_version_import_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from mvp_align.cli import main; sys.argv = ['mvp-align', sys.argv[1]]\n"
        "try: main()\n"
        "finally: print({'torch', 'transformers', 'hydra', 'pydantic'} & {*sys.modules})"
    )
    for word, shown in (("--help", "evaluate"), ("--version", f"mvp-align {__version__}\n")):
        command = [sys.executable, "-c", code, word]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert shown in done.stdout and done.stdout.endswith("set()\n")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch) -> list[str]:
    monkeypatch.setenv("MVP_ALIGN_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    keys = []
    for name in ("small", "large"):
        with open_cache(
            logps_folder(), {"model": name, "dtype": "float32", "quantization": "none"}
        ) as cache:
            cache.add(Answer((1, 2, 3), 1), -1.5)
            assert cache.folder is not None
            keys.append(cache.folder.name)
    return keys


def test_ls_shows_every_model(kept: list[str]) -> None:
    shown = CliRunner().invoke(app, ["cache", "ls"])
    assert shown.exit_code == 0
    for word in (*kept, "small", "large", "float32"):
        assert word in shown.output


def test_clear_takes_one_key_or_all(kept: list[str]) -> None:
    runner = CliRunner()
    assert (
        "Removed 1 log-probs of 1 models" in runner.invoke(app, ["cache", "clear", kept[0]]).output
    )
    shown = runner.invoke(app, ["cache", "ls"]).output
    assert kept[0] not in shown and kept[1] in shown
    assert "of 1 models" in runner.invoke(app, ["cache", "clear"]).output
    assert kept[1] not in runner.invoke(app, ["cache", "ls"]).output


def test_an_unknown_key_is_named(kept: list[str]) -> None:
    result = CliRunner().invoke(app, ["cache", "clear", "nothing"])
    assert isinstance(result.exception, UserError)
    assert "nothing: nothing is kept under that key" in str(result.exception)
