"""Pairs as a file, and our own scores to compare with."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mvp_align.harness.records import read_prompted
from mvp_align.schema import PairScore, PreferencePair
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.tokens import tokenize_pairs


@pytest.fixture(scope="session")
def pairs_file(few_pairs: list[PreferencePair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the 16 pairs: two merge with the prompt's last token, half have a profile.

    One more exceeds the limits.
    """
    rows = [
        {
            "id": pair.id, "user_id": pair.user_id, "prompt": pair.question,
            "chosen": pair.rejected if number % 3 else pair.chosen,
            "rejected": pair.chosen if number % 3 else pair.rejected,
            "profile": "A gardener of few words." * (number % 2),
        }
        for number, pair in enumerate(few_pairs)
    ]  # fmt: skip
    rows.append({**rows[0], "id": "long", "prompt": "why " * 600 + "?"})
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def ours(sharp_model: Path) -> Callable[..., dict[str, PairScore]]:
    """`ours(data, format, prompt)`: our own scores by id, of the pairs within the limits."""
    tokenizer = AutoTokenizer.from_pretrained(sharp_model)
    model = AutoModelForCausalLM.from_pretrained(sharp_model, dtype=torch.float32)

    def scores(data: Path | str, format: str, prompt: str = "paper") -> dict[str, PairScore]:
        pairs = tokenize_pairs(read_prompted(str(data), format, prompt), tokenizer).pairs
        return {
            score.id: score
            for score in score_pairs(model, [pair for pair in pairs if pair.prompt_tokens <= 512])
        }

    return scores
