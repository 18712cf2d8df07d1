"""`mvp-align cache`: what is kept is shown, and goes when it is told to."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mvp_align.cli import app
from mvp_align.errors import UserError
from mvp_align.scoring.cache import open_cache
from mvp_align.scoring.identity import logps_folder
from mvp_align.scoring.tokens import Answer


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
