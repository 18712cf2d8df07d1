"""Log-probs that are not finite stop scoring with counts and ids, and are never cached."""

import math
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mvp_align.errors import UserError
from mvp_align.scoring.cache import LogpCache, open_cache, to_safetensors
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.tokens import Answer, TokenizedPair

BAD = 60
"""The token whose row of the head is broken."""


def model_with(row: float) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(shape).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight[BAD] = row
    return model


def pairs(count: int) -> list[TokenizedPair]:
    """Pairs, of which every second has the broken token in its rejected answer."""
    return [
        TokenizedPair(
            f"p{n}",
            f"u{n}",
            Answer((1, 2 + n, 5, 6), 2),
            Answer((1, 2 + n, 7, BAD if n % 2 == 0 else 9, 8), 2),
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("row", [math.nan, math.inf])
def test_scoring_stops_and_says_how_many_of_whom(row: float, tmp_path: Path) -> None:
    cache = open_cache(tmp_path, {"model": "broken"})
    with pytest.raises(UserError) as stopped:
        score_pairs(model_with(row), pairs(12), label="tuned in_domain", cache=cache)
    said = str(stopped.value)
    assert said.startswith("tuned in_domain: 6 of 24 answers have no finite log-prob")
    assert "p0, p2, p4" in said and "p10" not in said and "p1," not in said
    assert "train.learning_rate" in said and "hardware.precision" in said
    assert all(math.isfinite(logp) for logp in cache.known.values())
    kept = open_cache(tmp_path, {"model": "broken"}).known
    assert len(kept) == 18 and all(math.isfinite(logp) for logp in kept.values())


def test_a_token_without_any_probability_stops_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """-inf is no margin: the pair would count as right or wrong, and the mean would be infinite."""
    model = model_with(0.0)

    class Never(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = super().forward(x)
            logits[..., BAD] = -math.inf
            return logits

    head = Never(16, 64, bias=False)
    head.weight = model.lm_head.weight
    model.set_output_embeddings(head)
    with pytest.raises(UserError, match="base ufp4: 1 of 2 answers have no finite log-prob"):
        score_pairs(model, pairs(1), label="base ufp4")


def test_a_cache_never_holds_nan(tmp_path: Path) -> None:
    cache = LogpCache()
    answer = Answer((1, 2, 3), 1)
    for value in (math.nan, -math.inf, math.inf):
        cache.add(answer, value)
        assert answer not in cache
    cache.add(answer, -1.5)
    assert cache[answer] == -1.5


def test_what_an_older_version_kept_is_computed_again(tmp_path: Path) -> None:
    import hashlib

    cache = open_cache(tmp_path, {"model": "m"})
    content = to_safetensors({b"a" * 32: math.nan, b"b" * 32: -2.0})
    assert cache.folder is not None
    (cache.folder / f"{hashlib.sha256(content).hexdigest()}.safetensors").write_bytes(content)
    assert open_cache(tmp_path, {"model": "m"}).known == {b"b" * 32: -2.0}
