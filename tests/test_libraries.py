"""What libraries say that nobody can act on is dropped, by its own text; everything else they say is heard."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from mvp_align.libraries import NOISE, set_up_libraries

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("name", "words"), NOISE.items())
def test_only_the_known_words_are_dropped(name: str, words: str, caplog: pytest.LogCaptureFixture) -> None:
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
    from mvp_align.libraries import set_up_libraries
    set_up_libraries()
import bitsandbytes
warnings.warn_explicit("renamed", FutureWarning, "transformers/x.py", 1, module="transformers.modeling_utils")
warnings.warn_explicit("ours", FutureWarning, "mine.py", 1, module="mvp_align.mine")
"""


def test_importing_them_is_quiet(tmp_path: Path) -> None:
    """With the words that they would say otherwise, so that the test sees when they no longer do."""
    said = {
        way: subprocess.run([sys.executable, "-c", LOUD, way], cwd=ROOT, capture_output=True, text=True, timeout=300)
        for way in ("loudly", "quietly")
    }
    loud = said["loudly"].stdout + said["loudly"].stderr
    assert "renamed" in loud and "Failed to load CPU gemm_4bit_forward" in loud
    quiet = said["quietly"].stdout + said["quietly"].stderr
    assert quiet.splitlines() == ["mine.py:1: FutureWarning: ours"]
