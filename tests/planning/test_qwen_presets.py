"""Qwen's presets are planned from config.json and a tokenizer, before any weights are here."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from mvp_align.config import Config
from mvp_align.modeling.qwen1_weights import Qwen1Shape
from recipes import lora_dpo

GIB = 2**30
SHARED_BY_BOTH = {
    "vocab_size": 152_064,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131_072,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
QWEN2_5 = {
    "qwen2_5_7b": Qwen2Config(
        **SHARED_BY_BOTH,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
    ),
    "qwen2_5_14b": Qwen2Config(
        **SHARED_BY_BOTH | {"num_key_value_heads": 8},
        hidden_size=5120,
        intermediate_size=13_824,
        num_hidden_layers=48,
        num_attention_heads=40,
    ),
}
QWEN_1 = {
    "qwen_7b": Qwen1Shape(
        model_type="qwen",
        vocab_size=151_936,
        hidden_size=4096,
        intermediate_size=22_016,
        num_hidden_layers=32,
        num_attention_heads=32,
        seq_length=8192,
    ),
    "qwen_14b": Qwen1Shape(
        model_type="qwen",
        vocab_size=152_064,
        hidden_size=5120,
        intermediate_size=27_392,
        num_hidden_layers=40,
        num_attention_heads=40,
        seq_length=2048,
    ),
}
"""As in their config.json."""
SHAPES = QWEN2_5 | {name: shape.as_qwen2(torch.bfloat16) for name, shape in QWEN_1.items()}
PARAMETERS = {
    "qwen2_5_7b": 7_615_616_512,
    "qwen2_5_14b": 14_770_033_664,
    "qwen_7b": 7_721_324_544,
    "qwen_14b": 14_167_290_880,
}
"""Worked out by hand from these sizes."""


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_the_parameters_of_its_model(name: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(SHAPES[name])
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


def test_a_converted_context_is_the_length_of_training() -> None:
    lengths = {name: SHAPES[name].max_position_embeddings for name in QWEN_1}
    assert lengths == {"qwen_7b": 8192, "qwen_14b": 2048}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("name", QWEN2_5)
def test_a_dry_run_prices_a_preset_without_its_weights(
    name: str,
    tiny_model: Path,
    compose: Callable[..., Config],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for part in tiny_model.glob("*token*"):
        shutil.copy(part, folder)
    SHAPES[name].save_pretrained(folder)
    words = [f"model={name}", f"model.id={folder}", f"run.dir={tmp_path / 'run'}"]
    words += ["data.limit=8", "tracking=none", "hardware=cuda", "train.dry_run=true"]
    lora_dpo.main(compose(*words))
    shown = " ".join(capsys.readouterr().out.split())
    found = re.search(r"GiB: weights ([\d.]+), adapter and optimizer ([\d.]+), peak", shown)
    assert found, shown
    assert float(found[1]) == pytest.approx(2 * PARAMETERS[name] / GIB, abs=0.06)
    shape = SHAPES[name]
    kv = shape.num_key_value_heads * shape.hidden_size // shape.num_attention_heads
    rank = 16 * shape.num_hidden_layers * (4 * shape.hidden_size + 2 * kv)
    assert float(found[2]) == pytest.approx(16 * rank / GIB, abs=0.06)
    assert "on a GPU, in 16 bits: peak" in shown
