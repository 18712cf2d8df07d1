"""Models are identical only if weights and everything else that affects log-probs are equal."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from mvp_align.config import Config, Model
from mvp_align.modeling.adapters import load_reference, new_adapter, save_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.fingerprint import adapter_fingerprint, checksums, fingerprint
from mvp_align.modeling.hardware import Placement
from mvp_align.modeling.source import load_tokenizer
from mvp_align.scoring.identity import identity, logp_cache
from mvp_align.scoring.methods import scoring_method
from mvp_align.scoring.passes import Method

Load = Callable[..., PreTrainedModel]


@pytest.fixture
def base(compose, tiny, placement: Placement) -> nn.Module:
    return load_base(compose(*tiny).model, placement)


def test_one_changed_element_or_a_swap_changes_the_fingerprint(base: nn.Module) -> None:
    before = fingerprint(base)
    weight = base.get_input_embeddings().weight.data
    one = weight[777, 13].clone()
    weight[777, 13] = torch.nextafter(one, torch.tensor(9.0))
    assert fingerprint(base) != before
    weight[777, 13] = one
    assert fingerprint(base) == before
    weight[[5, 6]] = weight[[6, 5]]
    assert fingerprint(base) != before


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.uint8]
)
def test_checksums_take_every_dtype_and_see_the_order(dtype: torch.dtype, monkeypatch) -> None:
    values = torch.arange(100).to(dtype)
    assert checksums(values) == checksums(values.clone())
    assert checksums(values.flip(0)) != checksums(values)
    monkeypatch.setattr("mvp_align.modeling.fingerprint.CHECKSUM_CHUNK", 10)
    assert checksums(values.roll(10)) != checksums(values)
    assert checksums(torch.empty(0, dtype=dtype)) == (0, 0)


def test_an_adapter_does_not_change_the_base(base: nn.Module, compose, tiny) -> None:
    before = identity(base)
    model = new_adapter(base, compose(*tiny).lora, seed=1)
    assert identity(model) == before


def test_a_scaling_that_is_in_no_tensor_tells_adapters_apart(compose, tiny, placement) -> None:
    config: Config = compose(*tiny)

    def found(**settings: object) -> str:
        model = new_adapter(
            load_base(config.model, placement), replace(config.lora, **settings), seed=1
        )
        return adapter_fingerprint(model, "default")

    kinds = [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 8}}, {"use_dora": True}]
    hashes = [found(**kind) for kind in kinds]
    assert len({*hashes}) == 4
    assert hashes == [found(**kind) for kind in kinds]


def test_reference_adapters_are_told_apart(base, compose, tiny, tmp_path: Path) -> None:
    config: Config = compose(*tiny)
    model = new_adapter(base, config.lora, seed=1)
    save_adapter(model, load_tokenizer(config.model), tmp_path / "a")
    load_reference(model, tmp_path / "a")
    found = identity(model, "ref")
    assert found["adapter"] != "none"
    assert found["weights"] == identity(model)["weights"]
    model.get_parameter("base_model.model.model.layers.0.self_attn.q_proj.lora_B.ref.weight").data[
        0, 0
    ] += 1
    assert identity(model, "ref")["adapter"] != found["adapter"]


def test_precision_and_quantisation_count(compose, tiny, placement: Placement) -> None:
    model = compose(*tiny).model
    half = Placement(torch.device("cpu"), torch.bfloat16, None)
    found = [identity(load_base(model, placement)), identity(load_base(model, half))]
    found.append(identity(load_base(model, placement, "4bit")))
    assert [one["dtype"] for one in found] == ["float32", "bfloat16", "float32"]
    assert [one["quantization"] for one in found] == ["none", "none", "nf4"]
    assert len({one["weights"] for one in found}) == 3


def test_log_probs_are_kept_in_the_folder_asked_for(base, tmp_path: Path) -> None:
    made = logp_cache(base, tmp_path / "logps")
    assert made.folder is not None
    assert made.folder.parent == tmp_path / "logps"


def test_the_fingerprint_is_of_the_weights(
    load: Load, model_config: Model, placement: Placement
) -> None:
    model = load()
    first = fingerprint(model)
    assert len(first) == 16
    assert fingerprint(load()) == first
    for name, parameter in model.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.reshape(-1)[0] += 1e-3
        assert fingerprint(model) != first, name
        with torch.no_grad():
            parameter.copy_(kept)
    assert fingerprint(model) == first
    assert (
        fingerprint(load_base(model_config, Placement(placement.device, torch.bfloat16, None)))
        != first
    )
    assert fingerprint(load("4bit")) != first


def test_the_fingerprint_ignores_adapters(load: Load, trained) -> None:
    bare = fingerprint(load())
    assert fingerprint(trained) == bare
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_" in name:
                parameter.add_(1)
    assert fingerprint(trained) == bare
    assert fingerprint(trained.merge_and_unload()) != bare


def test_sharing_prompts_before_or_after_is_one_identity(load: Load) -> None:
    fresh, shared = load(), load()
    assert scoring_method(shared) is Method.PACKED
    assert identity(fresh) == identity(shared)
    eager = load()
    eager.set_attn_implementation("eager")
    assert identity(eager) != identity(fresh)
