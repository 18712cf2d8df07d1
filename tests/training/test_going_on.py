"""Training that continues from an adapter starts from exactly its weights."""

import pytest
import torch
from safetensors.torch import load_file

from mvp_align.modeling.adapters import WEIGHTS


@pytest.mark.parametrize("recipe", ["lora_dpo", "lora_sft"])
def test_in_4_bits_the_start_is_the_very_adapter(bench, recipe: str) -> None:
    """TRL rounds it to bf16."""
    adapter = bench("quantization=4bit").adapter("start")
    made = bench("quantization=4bit", f"recipe={recipe}", f"adapter={adapter}", "train.max_steps=1")
    trainer = made.dpo() if recipe == "lora_dpo" else made.sft()
    held = load_file(adapter / WEIGHTS)
    now = {
        name.replace(".default.", "."): value
        for name, value in trainer.model.named_parameters()
        if "lora_" in name
    }
    assert now.keys() == held.keys()
    assert all(torch.equal(now[name], held[name]) for name in held)
