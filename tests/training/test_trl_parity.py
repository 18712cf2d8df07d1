"""PairTrainer computes the same as TRL's DPOTrainer for every option, or refuses the option."""

import gc
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    set_seed,
)
from trl import DPOConfig, DPOTrainer

from mvp_align.training.pair_trainer import PairTrainer

Base = Callable[[], PreTrainedModel]

STEPS = 4
KEYS = ("loss", "grad_norm", "rewards/margins", "logps/chosen", "logps/rejected")
SOURCE = inspect.getsource(DPOTrainer._compute_loss)
LOSSES = re.findall(r'loss_type == "(\w+)"', SOURCE)
DIVERGENCES = re.findall(r'f_divergence_type == "(\w+)"', SOURCE)
SMOOTHED = {"exo_pair": {"label_smoothing": 1e-3}}

SMALL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "qwen3_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "head_dim": 8,
    },
}
HEADS: dict[str, dict[str, Any]] = {
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 3.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.7},
    "gemma2": {
        "final_logit_softcapping": 3.0,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 256,
    },
}


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> Iterator[None]:
    """Speed up garbage collection, which takes half of the time of each training."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def tokenizer(few_pairs) -> PreTrainedTokenizerBase:
    """A byte-level BPE with few tokens, because a large vocabulary would take most of the time."""
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer, bpe.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    texts = [text for pair in few_pairs for text in (pair.question, pair.chosen, pair.rejected)]
    trainer = BpeTrainer(
        vocab_size=400,
        special_tokens=["<eos>"],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", pad_token="<eos>")


@pytest.fixture(scope="module")
def rows(few_pairs) -> Dataset:
    return Dataset.from_list(
        [{"prompt": p.question, "chosen": p.chosen, "rejected": p.rejected} for p in few_pairs[:8]]
    )


@pytest.fixture
def compared(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> Callable[..., None]:
    """`compared(base, beforehand=True, ...)`: check that TRL's training and ours agree.

    Each trains a fresh adapter on `base()`. With `beforehand`, our reference is precomputed.
    """

    def adapted(base: Base) -> PeftModel:
        set_seed(5)
        model = get_peft_model(
            base(), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=4)
        )
        # at zero, gradients of A vanish and rewards would stay near it for four steps
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.05)
        return model

    def arguments(**settings: Any) -> DPOConfig:
        return DPOConfig(
            str(tmp_path),
            max_steps=STEPS,
            learning_rate=5e-3,
            lr_scheduler_type="constant",
            max_length=None,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=1,
            logging_steps=1,
            save_strategy="no",
            seed=7,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
            report_to="none",
            dataloader_pin_memory=False,
            **settings,
        )

    def compare(
        base: Base, *, beforehand: bool = True, pairs: Dataset = rows, **settings: Any
    ) -> None:
        common = {"train_dataset": pairs, "processing_class": tokenizer}
        theirs = DPOTrainer(model=adapted(base), args=arguments(**settings), **common)
        ours = PairTrainer(model=(model := adapted(base)), args=arguments(**settings), **common)
        if beforehand:
            ours.precompute_reference(model, "ref", batch_size=4)
        theirs.train()
        ours.train()
        keys = (*KEYS, "aux_loss") if ours.aux_loss_enabled else KEYS
        found, wanted = (
            {key: [row[key] for row in trainer.state.log_history if key in row] for key in keys}
            for trainer in (ours, theirs)
        )
        assert len(wanted["loss"]) == STEPS
        assert len(set(wanted["loss"])) == STEPS  # it learns, and not the same each step
        for key in keys:
            rel = 1e-4 if key == "grad_norm" else 1e-5
            assert (key, found[key]) == (key, pytest.approx(wanted[key], rel=rel, abs=1e-5))

    return compare


@pytest.fixture
def family(tokenizer: PreTrainedTokenizerBase) -> Callable[..., Base]:
    def made(model_type: str, settings: dict[str, Any]) -> Base:
        ids = dict.fromkeys(
            ("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id
        )
        shape = AutoConfig.for_model(
            model_type, vocab_size=len(tokenizer), **SMALL, **ids, **settings
        )

        def base() -> PreTrainedModel:
            set_seed(3)
            model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
            with torch.no_grad():
                for module in model.modules():
                    if isinstance(module, nn.Linear):
                        module.weight.mul_(6)
            return model

        return base

    return made


@pytest.fixture
def llama(family: Callable[..., Base]) -> Base:
    return family("llama", {})


def test_trl_has_the_losses_and_divergences_that_it_is_known_for() -> None:
    assert len(LOSSES) == len(set(LOSSES)) >= 15
    assert {"sigmoid", "ipo", "exo_pair", "aot", "discopop", "sft", "sigmoid_norm"} <= set(LOSSES)
    assert len(DIVERGENCES) == len(set(DIVERGENCES)) >= 4


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(compared, llama, loss: str) -> None:
    compared(llama, loss_type=[loss], **SMOOTHED.get(loss, {}))


@pytest.mark.parametrize("loss", ["robust", "exo_pair", "aot", "aot_unpaired"])
def test_label_smoothing(compared, llama, loss: str) -> None:
    compared(llama, loss_type=[loss], label_smoothing=0.2)


@pytest.mark.parametrize("tau", [0.05, 1.0])
def test_the_temperature_of_discopop(compared, llama, tau: float) -> None:
    compared(llama, loss_type=["discopop"], discopop_tau=tau)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_every_f_divergence(compared, llama, divergence: str) -> None:
    compared(llama, loss_type=["sigmoid"], f_divergence_type=divergence)


@pytest.mark.parametrize("coefficient", [0.2, 0.8])
def test_the_coefficient_of_the_alpha_divergence(compared, llama, coefficient: float) -> None:
    compared(llama, f_divergence_type="alpha_divergence", f_alpha_divergence_coef=coefficient)


def test_losses_together(compared, llama) -> None:
    compared(llama, loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0])


@pytest.mark.parametrize("beforehand", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_length_desensitised_dpo(compared, llama, alpha: float, beforehand: bool) -> None:
    compared(llama, beforehand=beforehand, ld_alpha=alpha)


@pytest.mark.parametrize("loss", ["sigmoid", "sigmoid_norm"])
def test_weighted_preference_optimisation(compared, llama, loss: str) -> None:
    compared(llama, loss_type=[loss], use_weighting=True)


@pytest.mark.parametrize("model_type", MIXTURES)
def test_a_mixture_of_experts_with_its_auxiliary_loss(compared, family, model_type: str) -> None:
    base = family(
        model_type,
        {**MIXTURES[model_type], "router_aux_loss_coef": 0.5, "output_router_logits": True},
    )
    compared(base)
    compared(base, router_aux_loss_coef=0.0)


@pytest.mark.parametrize("model_type", HEADS)
def test_logits_that_are_more_than_a_linear_head(compared, family, model_type: str) -> None:
    compared(family(model_type, HEADS[model_type]))


def test_a_prompt_that_merges_whole_into_the_answer(compared, llama, rows, tokenizer) -> None:
    """No token of the prompt is left: the first token has no context, and is scored by neither."""
    pair = {"prompt": "W", "chosen": "hat do you make of tea?", "rejected": "hat, not today."}
    ids = tokenizer(pair["prompt"] + pair["chosen"]).input_ids
    assert tokenizer(pair["prompt"]).input_ids[0] != ids[0]
    compared(llama, pairs=Dataset.from_list([pair, rows[0], pair, rows[1]]))
