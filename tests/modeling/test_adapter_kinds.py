"""LoRA variants: scored as PEFT does, switched off completely, saved whole; others are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel

from mvp_align.config import Lora, Model
from mvp_align.errors import UserError
from mvp_align.modeling.adapter_folder import COMPUTED, SAY_NOTHING, known_defaults, read_adapter
from mvp_align.modeling.adapters import (
    WEIGHTS,
    has_no_effect,
    load_adapter,
    load_reference,
    new_adapter,
    save_adapter,
)
from mvp_align.modeling.base import load_base
from mvp_align.modeling.fingerprint import adapter_fingerprint, fingerprint
from mvp_align.modeling.hardware import Placement
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.tokens import TokenizedPair

Load = Callable[..., PreTrainedModel]
Tokens = list[TokenizedPair]

LINEAR = ["q_proj", "v_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": LINEAR},
    "a pattern of names": {"target_modules": r".*layers\.1\..*(q|v)_proj"},
    "some layers": {"target_modules": LINEAR, "layers_to_transform": [1]},
    "ranks": {
        "target_modules": LINEAR,
        "rank_pattern": {"v_proj": 2},
        "alpha_pattern": {"v_proj": 64},
    },
    "rsLoRA": {"target_modules": LINEAR, "use_rslora": True},
    "DoRA": {"target_modules": LINEAR, "use_dora": True},
    "a bias of its own": {"target_modules": LINEAR, "lora_bias": True},
    "orthogonal": {"target_modules": LINEAR, "init_lora_weights": "orthogonal"},
    "embeddings": {"target_modules": [*LINEAR, "embed_tokens"]},
    "embeddings, DoRA": {"target_modules": [*LINEAR, "embed_tokens"], "use_dora": True},
    "some tokens": {"target_modules": LINEAR, "trainable_token_indices": [10, 20, 1000]},
    "whole modules": {
        "target_modules": LINEAR,
        "modules_to_save": ["norm", "embed_tokens", "lm_head"],
    },
}


def shaken(model: PeftModel) -> PeftModel:
    """A model with an adapter whose tensors all differ from their initial values."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * (0.3 if "lora_" in name else 0.05))
    return model.eval()


def made_by_peft(base: PreTrainedModel, folder: Path, **settings: Any) -> PeftModel:
    """An adapter saved by PEFT's defaults, as by other tools."""
    torch.manual_seed(0)
    model = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=8, task_type=TaskType.CAUSAL_LM, **settings)
    )
    shaken(model).save_pretrained(str(folder))
    return model


def own_margins(model: PeftModel, tokens: Tokens) -> Tensor:
    """Margins in nats per token from the model's own logits, one answer at a time."""

    def mean_logp(ids: tuple[int, ...], start: int) -> float:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        return float(logits.gather(1, torch.tensor(ids[1:])[:, None])[start - 1 :].mean())

    return torch.tensor(
        [
            mean_logp(p.chosen.ids, p.chosen.start) - mean_logp(p.rejected.ids, p.rejected.start)
            for p in tokens
        ]
    )


def margins(model: torch.nn.Module, tokens: Tokens) -> Tensor:
    return torch.tensor([score.margin for score in score_pairs(model, tokens)])


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_scored_as_peft_does_and_going_on_saves_all_of_it(
    load: Load, tokenizer, tokens: Tokens, tmp_path: Path, kind: str
) -> None:
    tokens = tokens[:6]
    expected = own_margins(made_by_peft(load(), tmp_path / "theirs", **KINDS[kind]), tokens)
    base = load()
    before, weights = margins(base, tokens), fingerprint(base)
    assert (expected - before).abs().max() > 0.05

    going_on = load_adapter(base, tmp_path / "theirs", trainable=True)
    assert torch.allclose(margins(going_on, tokens), expected, atol=2e-5)
    assert fingerprint(going_on) == weights
    with going_on.disable_adapter():
        assert torch.equal(margins(going_on, tokens), before)

    save_adapter(going_on, tokenizer, tmp_path / "same")
    theirs, ours = load_file(tmp_path / "theirs" / WEIGHTS), load_file(tmp_path / "same" / WEIGHTS)
    assert {name for name in theirs if ".base_layer." not in name} == ours.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    trained, started = (
        shaken(going_on),
        adapter_fingerprint(load_adapter(load(), tmp_path / "same"), "default"),
    )
    learned = margins(trained, tokens)
    assert (learned - expected).abs().max() > 0.02
    assert adapter_fingerprint(trained, "default") != started
    save_adapter(trained, tokenizer, tmp_path / "trained")
    again = load_adapter(load(), tmp_path / "trained")
    assert torch.equal(margins(again, tokens), learned)
    assert adapter_fingerprint(again, "default") == adapter_fingerprint(trained, "default")
    assert fingerprint(again) == weights


@pytest.mark.parametrize("kind", ["ranks", "DoRA", "embeddings", "some tokens", "whole modules"])
def test_a_reference_of_any_kind_stands_beside_the_trained_adapter(
    load: Load, tokens: Tokens, tmp_path: Path, kind: str
) -> None:
    tokens = tokens[:3]
    expected = margins(made_by_peft(load(), tmp_path / "theirs", **KINDS[kind]), tokens)
    model = load_adapter(load(), tmp_path / "theirs", trainable=True)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    load_reference(model, tmp_path / "theirs")
    learned = margins(shaken(model), tokens)
    model.set_adapter("ref")
    assert torch.allclose(margins(model, tokens), expected, atol=1e-6)
    model.set_adapter("default")
    assert torch.equal(margins(model, tokens), learned)
    assert {
        name for name, parameter in model.named_parameters() if parameter.requires_grad
    } == trained


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"bias": "all"}, r"trains the base's own biases \(bias=all\).*merge_and_unload"),
    ({"bias": "lora_only"}, r"bias=lora_only.*set \"bias\": \"none\""),
    (
        {"init_lora_weights": "pissa"},
        "init_lora_weights=pissa, which changes the base's own weights",
    ),
    ({"init_lora_weights": "pissa_niter_16"}, "path_initial_model_for_weight_conversion"),
    ({"init_lora_weights": "olora"}, "init_lora_weights=olora"),
    ({"init_lora_weights": "loftq"}, "init_lora_weights=loftq"),
    ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication="),
    (
        {"alora_invocation_tokens": [5, 6]},
        r"uses alora_invocation_tokens=\[5, 6\], which is not computed here",
    ),
    ({"use_qalora": True}, "use_qalora=True"),
    (
        {"made_up_later": True, "peft_version": "9.9"},
        "does not know: made_up_later.*PEFT 9.9: install",
    ),
    (
        {"peft_type": "PROMPT_TUNING"},
        "is an adapter of kind PROMPT_TUNING. It acts on what the model reads",
    ),
    ({"peft_type": "PREFIX_TUNING"}, "is an adapter of kind PREFIX_TUNING"),
    (
        {"peft_type": "IA3"},
        (
            "is an adapter of kind IA3, and only LoRA adapters are taken. Fold it into its base"
            " with PEFT"
        ),
    ),
    ({"peft_type": "LOHA"}, "is an adapter of kind LOHA"),
    ({"peft_type": "ADALORA"}, "is an adapter of kind ADALORA"),
    ({"peft_type": "XLORA"}, "is an adapter of kind XLORA"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED)
def test_what_would_be_scored_wrongly_or_saved_in_part_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    adapter = tmp_path / "adapter"
    LoraConfig(target_modules=LINEAR).save_pretrained(str(adapter))
    (adapter / WEIGHTS).touch()
    read_adapter(adapter)
    settings = json.loads((adapter / "adapter_config.json").read_text()) | change
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    for setting in ("adapter", "train.reference"):
        with pytest.raises(UserError, match=f"^{setting}={adapter} .*{said}"):
            read_adapter(adapter, setting)


def test_every_setting_of_the_installed_peft_is_judged() -> None:
    """A new one is refused where it is not at its default, until somebody has tried it."""
    judged = COMPUTED | SAY_NOTHING | {"bias"}
    not_tried = {
        "megatron_config", "corda_config", "lora_ga_config", "velora_config",
        "alora_invocation_tokens", "use_qalora",
        "monteclora_config", "layer_replication", "use_bdlora", "arrow_config", "kasa_config",
    }  # fmt: skip
    assert set(known_defaults()) - judged == not_tried


def test_a_real_prompt_tuning_adapter_is_refused(load: Load, tmp_path: Path) -> None:
    prompts = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4)
    get_peft_model(load(), prompts).save_pretrained(str(tmp_path / "prompts"))
    with pytest.raises(UserError, match="is an adapter of kind PROMPT_TUNING"):
        load_adapter(load(), tmp_path / "prompts")


def test_an_adapter_that_changes_nothing_is_no_tuned_model(
    load: Load, tokenizer, tmp_path: Path
) -> None:
    fresh = new_adapter(load(), Lora(), seed=1)
    assert has_no_effect(fresh)
    save_adapter(fresh, tokenizer, tmp_path / "fresh")
    with pytest.raises(UserError, match=r"changes nothing.*Leave adapter out"):
        load_adapter(load(), tmp_path / "fresh")
    going_on = load_adapter(load(), tmp_path / "fresh", trainable=True)
    load_reference(going_on, tmp_path / "fresh")
    with torch.no_grad():
        next(value for name, value in going_on.named_parameters() if "lora_B.default" in name)[
            3, 3
        ] = 1e-9
    assert not has_no_effect(going_on)
    assert has_no_effect(going_on, "ref")


def test_lora_on_the_head_is_scored_but_not_trained_on(
    load: Load, tokens: Tokens, tmp_path: Path
) -> None:
    made = made_by_peft(load(), tmp_path / "theirs", target_modules=["q_proj", "lm_head"])
    expected = own_margins(made, tokens[:4])
    assert torch.allclose(
        margins(load_adapter(load(), tmp_path / "theirs"), tokens[:4]), expected, atol=2e-5
    )
    with pytest.raises(UserError, match=r"LoRA on the output head, where training cannot go on"):
        load_adapter(load(), tmp_path / "theirs", trainable=True)


def test_whole_embeddings_in_the_file_must_be_the_bases(
    load: Load, tokenizer, adapter: Path
) -> None:
    name = "base_model.model.model.embed_tokens.weight"
    weight = load().get_input_embeddings().weight.detach().clone()
    held = load_file(adapter / WEIGHTS)
    save_file(held | {name: weight.bfloat16()}, adapter / WEIGHTS, metadata={"format": "pt"})
    base = load()
    before = fingerprint(base)
    assert fingerprint(load_adapter(base, adapter)) == before
    weight[7, 7] += 1
    save_file(held | {name: weight}, adapter / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"brings model\.embed_tokens\.weight whole.*switching the adapter off"
    ):
        load_adapter(load(), adapter)


@pytest.mark.parametrize("kind", ["embeddings", "whole modules", "plain"])
def test_a_resized_vocabulary_says_how_to_make_its_base(
    load: Load, tmp_path: Path, kind: str
) -> None:
    base = load()
    base.resize_token_embeddings(49160)
    made = get_peft_model(base, LoraConfig(r=4, task_type=TaskType.CAUSAL_LM, **KINDS[kind]))
    shaken(made).save_pretrained(str(tmp_path / "theirs"), save_embedding_layers=True)
    with pytest.raises(
        UserError,
        match=r"vocabulary of 49160 tokens, and .*sharp-llama has 49152: .*resize_token_emb",
    ):
        load_adapter(load(), tmp_path / "theirs")


def test_experts_are_saved_whole(tokenizer, tokens: Tokens, tmp_path: Path, sharpen) -> None:
    """LoRA on parameters that no linear layer holds."""
    shape = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    sharpen(MixtralForCausalLM(shape)).save_pretrained(tmp_path / "experts")
    model, cpu = (
        Model("experts", str(tmp_path / "experts")),
        Placement(torch.device("cpu"), torch.float32, None),
    )
    experts = {
        "target_modules": ["q_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    }
    expected = own_margins(
        made_by_peft(load_base(model, cpu), tmp_path / "theirs", **experts), tokens[:4]
    )
    base = load_base(model, cpu)
    before = margins(base, tokens[:4])
    going_on = load_adapter(base, tmp_path / "theirs", trainable=True)
    assert torch.allclose(margins(going_on, tokens[:4]), expected, atol=2e-5)
    assert (expected - before).abs().max() > 0.01
    with going_on.disable_adapter():
        assert torch.allclose(margins(going_on, tokens[:4]), before, atol=1e-6)
    save_adapter(going_on, tokenizer, tmp_path / "ours")
    theirs, ours = load_file(tmp_path / "theirs" / WEIGHTS), load_file(tmp_path / "ours" / WEIGHTS)
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    again = load_adapter(load_base(model, cpu), tmp_path / "ours")
    assert torch.allclose(margins(again, tokens[:4]), expected, atol=2e-5)
