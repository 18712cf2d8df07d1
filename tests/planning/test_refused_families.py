"""Model families that cannot be scored or trained are refused before any work, also in dry runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from mvp_align.config import Config
from mvp_align.data.load import load_data
from mvp_align.errors import UserError
from mvp_align.modeling.adapters import start_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import Placement
from mvp_align.modeling.source import load_tokenizer
from mvp_align.planning.forecast import forecast_lines
from mvp_align.planning.preflight import make_plan
from mvp_align.scoring.tokens import Answer, TokenizedPair
from mvp_align.training.step import train_pass

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
}
Command = Callable[..., Config]


@pytest.fixture
def command(compose: Command, tiny: list[str], tiny_model: Path, tmp_path: Path) -> Command:
    """`command("bert", ...)`: a small run with a tiny model of that family."""

    def commanded(family: str, *overrides: str, **options: Any) -> Config:
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        shape = AutoConfig.for_model(
            family, **SIZES, vocab_size=len(tokenizer), pad_token_id=2, **options
        )
        AutoModelForCausalLM.from_config(shape).save_pretrained(tmp_path / family)
        tokenizer.save_pretrained(tmp_path / family)
        return compose(*tiny, f"model.id={tmp_path / family}", *overrides)

    return commanded


def test_a_model_that_sees_later_tokens_is_refused_in_the_plan(
    command: Command, placement: Placement
) -> None:
    config = command("bert")
    with pytest.raises(UserError, match=r"^BertLMHeadModel is no causal language model: [^\n]+$"):
        make_plan(config, load_data(config), load_tokenizer(config.model), placement)


def test_sft_on_other_logits_than_the_models_is_refused(
    command: Command, placement: Placement
) -> None:
    config = command(
        "modernbert-decoder", "recipe=lora_sft", "lora.target_modules=[q_proj]", local_attention=8
    )
    plan = make_plan(config, load_data(config), load_tokenizer(config.model), placement)
    words = "SFTTrainer would train ModernBertDecoderForCausalLM on other logits than its own"
    with pytest.raises(UserError, match=words):
        forecast_lines(config, plan, placement)
    with pytest.raises(UserError, match=words):  # and so before the base is scored
        train_pass(
            start_adapter(load_base(config.model, placement), config), plan.train_tokens[:1], config
        )


def test_the_trial_before_step_1_balances_experts(command: Command, placement: Placement) -> None:
    config = command(
        "mixtral", num_local_experts=4, router_aux_loss_coef=0.5, num_key_value_heads=2
    )
    model = start_adapter(load_base(config.model, placement), config)
    pair = TokenizedPair("p", "u", Answer((5, 6, 7, 8), 2), Answer((5, 6, 9), 2))
    gradients = []
    for _ in ("with", "without"):
        model.zero_grad()
        train_pass(model, [pair], config)
        gradients.append(
            torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        )
        model.get_base_model().config.router_aux_loss_coef = 0.0
    assert not torch.allclose(*gradients)
