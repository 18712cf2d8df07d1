"""A merged model scores like base plus adapter, within the rounding of its stored precision."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from mvp_align.config import Model
from mvp_align.errors import UserError
from mvp_align.modeling.adapters import save_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import Placement
from mvp_align.schema import PairScore
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.merge import TOLERANCE, difference, merge_adapter
from mvp_align.scoring.tokens import TokenizedPair


def furthest(one: list[PairScore], other: list[PairScore]) -> float:
    """Return the largest difference in nats per token."""
    assert [score.id for score in one] == [score.id for score in other]
    return max(difference(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("precision", "dtype", "within"), [
    ("fp32", torch.float32, 1e-5), ("bf16", torch.bfloat16, TOLERANCE["bf16"]), ("fp16",
    torch.float16, TOLERANCE["fp16"]),
])  # fmt: skip
def test_the_merged_model_scores_as_base_and_adapter_do(
    load: Callable[..., PreTrainedModel], model_config: Model, trained: PeftModel, adapter: Path,
    tokens: list[TokenizedPair], tmp_path: Path, precision: str, dtype: torch.dtype, within: float,
) -> None:  # fmt: skip
    tuned = score_pairs(trained, tokens)
    # without its adapter the model would be found out
    assert furthest(tuned, score_pairs(load(), tokens)) > 2 * within
    error = merge_adapter(model_config, adapter, tmp_path / "merged", precision)
    assert 0 <= error < within
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not isinstance(merged, PeftModel)
    assert merged.dtype == dtype
    assert furthest(score_pairs(merged, tokens), tuned) < within
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert not list((tmp_path / "merged").glob("*.bin"))
    text = "Question: how so?"
    ours = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert ours(text).input_ids == AutoTokenizer.from_pretrained(model_config.id)(text).input_ids


def test_an_existing_target_is_left_alone(
    model_config: Model, adapter: Path, tmp_path: Path
) -> None:
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "thesis.tex").write_text("mine")
    with pytest.raises(
        UserError, match=r"merged exists already: choose another folder, or delete it\."
    ):
        merge_adapter(model_config, adapter, tmp_path / "merged", "fp32")
    assert [path.name for path in (tmp_path / "merged").iterdir()] == ["thesis.tex"]


def test_a_merge_that_a_precision_cannot_hold_is_not_written(
    model_config: Model, trained: PeftModel, tokenizer, tmp_path: Path
) -> None:
    """Weights beyond fp16's 65504 become infinite, and log-probs not a number."""
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_B" in name:
                parameter.mul_(1e6)
    save_adapter(trained, tokenizer, tmp_path / "huge")
    with pytest.raises(
        UserError, match=r"huge, merged and stored in fp16, cannot be scored: use fp32\."
    ):
        merge_adapter(model_config, tmp_path / "huge", tmp_path / "merged", "fp16")
    assert not (tmp_path / "merged").exists()


def test_an_adapter_of_another_base_is_refused(
    model_config: Model, adapter: Path, tmp_path: Path
) -> None:
    settings = adapter / "adapter_config.json"
    settings.write_text(settings.read_text().replace("sharp-llama", "other-llama"))
    with pytest.raises(
        UserError, match=r"was trained on .*other-llama, but the model is .*sharp-llama"
    ):
        merge_adapter(model_config, adapter, tmp_path / "merged", "fp32")
    assert not (tmp_path / "merged").exists()


TIED = {
    "LoRA on the embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "LoRA on the head": {"target_modules": ["q_proj", "lm_head"]},
    "whole embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "some tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [10, 20, 30]},
}


@pytest.mark.parametrize("kind", TIED)
def test_where_head_and_embeddings_are_one_each_gets_its_own_change(
    sharp_model: Path, tokens: list[TokenizedPair], placement: Placement, tmp_path: Path, kind: str
) -> None:
    base = AutoModelForCausalLM.from_pretrained(sharp_model)
    base.config.tie_word_embeddings = True
    base.tie_weights()
    base.save_pretrained(tmp_path / "tied")
    AutoTokenizer.from_pretrained(sharp_model).save_pretrained(tmp_path / "tied")
    config = Model("tied", str(tmp_path / "tied"))
    loaded = load_base(config, placement)
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    model = get_peft_model(loaded, LoraConfig(r=4, task_type="CAUSAL_LM", **TIED[kind]))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(str(tmp_path / "adapter"))
    tuned = score_pairs(model.eval(), tokens[:4])
    assert furthest(tuned, score_pairs(load_base(config, placement), tokens[:4])) > 0.01
    merge_adapter(config, tmp_path / "adapter", tmp_path / "merged", "fp32")
    assert (
        furthest(
            score_pairs(load_base(Model("m", str(tmp_path / "merged")), placement), tokens[:4]),
            tuned,
        )
        < 1e-4
    )


def test_what_cannot_be_merged_says_so(
    model_config: Model, load: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    model = get_peft_model(
        load(), LoraConfig(target_modules=["q_proj"], lora_bias=True, task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        next(value for name, value in model.named_parameters() if "lora_B" in name).fill_(1)
    model.save_pretrained(str(tmp_path / "adapter"))
    with pytest.raises(
        UserError,
        match=r"cannot be merged \(.*bias.*\): serve the base and the adapter side by side",
    ):
        merge_adapter(model_config, tmp_path / "adapter", tmp_path / "merged", "fp32")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
