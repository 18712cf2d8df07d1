"""Compare SmolLM2's scores of real third-party pairs with golden figures, made one at a time."""

import json
from pathlib import Path

import pytest
import torch

from mvp_align.data.prompts import PAPER, render_prompts
from mvp_align.data.readers import read_pairs
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.tokens import TokenizedPair, tokenize_pairs

pytestmark = [pytest.mark.real_model, pytest.mark.reference]

ROWS = 64
FEW = 12
"""Rows for the batch sizes other than 8: enough for batches of unlike lengths, and minutes less."""


@pytest.fixture(scope="module")
def golden(shared: Path) -> torch.Tensor:
    """Mean log-probs [row, chosen or rejected], in nats per token."""
    rows = json.loads((shared / "reference" / "opa_psoups_friendly_64.json").read_text("utf-8"))[
        "rows"
    ]
    assert [row["row"] for row in rows] == list(range(ROWS))
    return torch.tensor([(row["chosen_logp_mean"], row["rejected_logp_mean"]) for row in rows])


@pytest.fixture(scope="module")
def model(compose):
    from mvp_align.modeling.base import load_base
    from mvp_align.modeling.hardware import Placement
    from mvp_align.modeling.source import packaged_gguf

    config = compose().model
    if packaged_gguf(config) is None:
        pytest.skip("the demo model's package is not installed: `make setup`")
    return load_base(
        config, Placement(device=torch.device("cpu"), dtype=torch.float32, attention=None)
    )


@pytest.fixture(scope="module")
def pairs(compose, shared: Path) -> list[TokenizedPair]:
    from mvp_align.modeling.source import load_tokenizer

    tokenizer = load_tokenizer(compose().model)
    read = read_pairs(str(shared / "data" / "psoups_friendly.json"), "ufp4", limit=ROWS)
    assert len(read.pairs) == ROWS
    return tokenize_pairs(render_prompts(read.pairs, PAPER, tokenizer), tokenizer).pairs


@pytest.mark.parametrize(("batch_size", "rows"), [(1, FEW), (2, FEW), (8, ROWS), (16, FEW)])
def test_mean_log_probs_are_the_golden_ones(
    model, pairs, golden, batch_size: int, rows: int
) -> None:
    scores = score_pairs(model, pairs[:rows], batch_size=batch_size)
    found = torch.tensor([(score.chosen_logp_mean, score.rejected_logp_mean) for score in scores])
    torch.testing.assert_close(found, golden[:rows], atol=1e-4, rtol=0)
    margins = golden[:rows, 0] - golden[:rows, 1]
    assert [score.margin > 0 for score in scores] == (margins > 0).tolist()
