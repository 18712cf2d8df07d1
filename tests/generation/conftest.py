"""A small model sharpened so that its answers differ and some of them end."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mvp_align.config import Generation
from mvp_align.schema import PreferencePair, PromptedPair


@pytest.fixture(scope="session")
def tokenizer(sharp_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(sharp_model)


@pytest.fixture(scope="session")
def talker_folder(
    sharp_model: Path, tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The sharp LLaMA with two end tokens, each slightly likelier than a frequent word."""
    folder = tmp_path_factory.mktemp("models") / "talker"
    model = AutoModelForCausalLM.from_pretrained(sharp_model, dtype=torch.float32)
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        head[tokenizer.eos_token_id] = 1.01 * head[tokenizer.convert_tokens_to_ids("AS")]
        # <|endoftext|>, which no tokenizer names as its EOS
        head[0] = 1.01 * head[tokenizer(" mortar").input_ids[0]]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, 0]
    # what authors of chat models set, and nobody asked for here
    model.generation_config.repetition_penalty = 1.7
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def talker(talker_folder: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(talker_folder, dtype=torch.float32)
    model.config.use_cache = False  # as load_base leaves it
    return model


@pytest.fixture(scope="session")
def prompts(few_pairs: list[PreferencePair]) -> list[PromptedPair]:
    """Prompts of different lengths."""
    return [
        PromptedPair(p.id, p.user_id, f"{p.question} " * (1 + n % 4), p.chosen, p.rejected)
        for n, p in enumerate(few_pairs)
    ]


@pytest.fixture(scope="session")
def greedy() -> Generation:
    return Generation(max_new_tokens=12, temperature=0, batch_size=5)
