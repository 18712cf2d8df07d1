"""Recorded environment: versions, commit, and the command line without secrets."""

import json
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from mvp_align.runs.environment import environment, git_state, redacted


def test_environment_names_versions_device_and_hashes() -> None:
    found = json.loads(json.dumps(environment({"data/train": "abc"}, {"model": "m"})))
    assert (found["hashes"], found["inputs"]) == ({"data/train": "abc"}, {"model": "m"})
    assert found["versions"]["torch"].startswith("2.")
    assert found["device"]["threads"] >= 1
    assert datetime.fromisoformat(found["time"]).tzinfo is not None


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["train.py", "tracking.api_key=s3cret"], ["train.py", "tracking.api_key=REDACTED"]),
        (["HF_TOKEN=s3cret"], ["HF_TOKEN=REDACTED"]),
        (["--hf-token", "s3cret", "seed=1"], ["--hf-token", "REDACTED", "seed=1"]),
        (["model.id=hf_abcdefghijkl"], ["model.id=REDACTED"]),
        (
            ["data.max_tokens=512", "data.max_prompt_tokens=9"],
            ["data.max_tokens=512", "data.max_prompt_tokens=9"],
        ),
    ],
)
def test_command_line_hides_secrets_and_nothing_else(words: list[str], kept: list[str]) -> None:
    assert redacted(words) == kept


def test_git_state_is_of_this_code_alone(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    assert git_state(tmp_path) is None
    git("init", "-q")
    (tmp_path / "notes.txt").write_text("somebody else's repository")
    git("add", "notes.txt")
    git("commit", "-qm", "first")
    assert git_state(tmp_path) is None
    (tmp_path / "__init__.py").write_text("")
    git("add", "__init__.py")
    git("commit", "-qm", "second")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "__init__.py").write_text("changed = 1\n")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": True}
