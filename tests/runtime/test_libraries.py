"""Selected messages of libraries are dropped by their text, and all others are kept."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mvp_align.doctor.machine import wandb_login
from mvp_align.modeling.source import cache_root
from mvp_align.runtime.libraries import NOISE, set_up_libraries

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("name", "words"), NOISE.items())
def test_only_the_known_words_are_dropped(
    name: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger(name)
    before = list(logger.filters)
    try:
        set_up_libraries()
        logger.warning(f"{words} and more: %s", "why")
        logger.warning("Your weights are wrong.")
    finally:
        logger.filters = before
    assert set(caplog.messages) == {"Your weights are wrong."}


LOUD = """
import logging, sys, warnings
if "quietly" in sys.argv:
    from mvp_align.runtime.libraries import set_up_libraries
    set_up_libraries()
import bitsandbytes
module = "transformers.modeling_utils"
warnings.warn_explicit("renamed", FutureWarning, "transformers/x.py", 1, module=module)
warnings.warn_explicit("ours", FutureWarning, "mine.py", 1, module="mvp_align.mine")
"""


def test_importing_them_is_quiet(tmp_path: Path) -> None:
    """With the words that they would say otherwise, so that the test sees when they no longer
    do."""
    said = {
        way: subprocess.run(
            [sys.executable, "-c", LOUD, way], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        for way in ("loudly", "quietly")
    }
    loud = said["loudly"].stdout + said["loudly"].stderr
    assert "renamed" in loud and "Failed to load CPU gemm_4bit_forward" in loud
    quiet = said["quietly"].stdout + said["quietly"].stderr
    assert quiet.splitlines() == ["mine.py:1: FutureWarning: ours"]


HOMELESS = """
import os, sys
sys.path.insert(0, sys.argv[1])
from mvp_align.errors import UserError
from mvp_align.runtime.libraries import find_home
os.setgroups([]), os.setgid(54321), os.setuid(54321)
try:
    find_home()
except UserError as error:
    sys.exit(str(error))
print(os.path.expanduser("~/.cache"))
"""


@pytest.mark.skipif(
    os.getuid() != 0, reason="becoming a user whom the machine does not know needs root"
)
@pytest.mark.parametrize("home", [{}, {"HOME": ""}])
def test_a_user_without_a_home(home: dict[str, str], tmp_path: Path) -> None:
    def said(**variables: str) -> subprocess.CompletedProcess[str]:
        plain = {
            name: value
            for name, value in os.environ.items()
            if name not in ("HOME", "MVP_ALIGN_CACHE")
        }
        return subprocess.run(
            [sys.executable, "-c", HOMELESS, str(ROOT)],
            cwd=tmp_path, env=plain | home | variables, capture_output=True, text=True, timeout=100,
        )  # fmt: skip

    assert said().stderr.startswith("No home folder: HOME is not set, and user 54321 has none.")
    assert "MVP_ALIGN_CACHE=FOLDER" in said().stderr
    assert said(MVP_ALIGN_CACHE="kept").stdout == f"{tmp_path}/kept/.cache\n"


def test_the_cache_needs_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setenv("MVP_ALIGN_CACHE", "kept")
    assert cache_root() == Path("kept")
    monkeypatch.setenv("NETRC", "/nowhere")
    assert wandb_login().level == "ok"


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the folder that the command runs in."""
    monkeypatch.setenv("MVP_ALIGN_CACHE", "")
    assert cache_root() == Path.home() / ".cache" / "mvp-align"
