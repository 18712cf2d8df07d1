"""Bases stored quantised are recognised by their weights: 4-bit ones train, others are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel

from mvp_align.config import Config, Lora, Model
from mvp_align.errors import UserError
from mvp_align.modeling.adapters import WEIGHTS, new_adapter
from mvp_align.modeling.base import four_bit_layers, load_base, run_quantization
from mvp_align.modeling.fingerprint import fingerprint
from mvp_align.modeling.hardware import Placement
from mvp_align.scoring.identity import identity
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.merge import merge_adapter
from recipes import lora_dpo

Load = Callable[..., PreTrainedModel]


def stored(source: Path, folder: Path, kind: str = "nf4", nested: bool = True) -> Path:
    """Store the model in `source` in 4 bits as other tools do, with bf16 compute."""
    how = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=nested,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(
        source, quantization_config=how, device_map={"": "cpu"}
    )
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def four_bit(sharp_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(sharp_model, tmp_path_factory.mktemp("models") / "sharp-llama-bnb-4bit")


def test_it_is_loaded_as_4_bit_and_computes_in_the_runs_precision(
    four_bit: Path, load: Load, placement: Placement, tokens
) -> None:
    base = load_base(Model("x", str(four_bit)), placement)
    assert four_bit_layers(base) == 2 * 7
    layers = [module for module in base.modules() if isinstance(module, Linear4bit)]
    assert {module.compute_dtype for module in layers} == {torch.float32}
    assert not any(module.support_avx512bf16_for_cpu for module in layers)
    assert identity(base)["quantization"] == "nf4"
    assert (
        run_quantization(Model("x", str(four_bit)), "none")
        == run_quantization(Model("x", str(four_bit)), "4bit")
        == "nf4"
    )
    ours = [score.margin for score in score_pairs(load("4bit"), tokens)]
    assert [score.margin for score in score_pairs(base, tokens)] == pytest.approx(ours, abs=1e-5)


def test_an_adapter_on_it_learns_after_scoring(
    four_bit: Path, placement: Placement, tokens
) -> None:
    base = load_base(Model("x", str(four_bit)), placement)
    score_pairs(base, tokens)
    model = new_adapter(base, Lora(), seed=1)
    model(input_ids=torch.arange(20)[None], labels=torch.arange(20)[None]).loss.backward()
    grads = [p.grad for name, p in model.named_parameters() if "lora_B" in name]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)


def test_pissa_is_refused_on_it(four_bit: Path, placement: Placement, compose, sharp) -> None:
    with pytest.raises(UserError, match=r"lora\.init=pissa .*q_proj is quantised: leave it out"):
        new_adapter(load_base(Model("x", str(four_bit)), placement), Lora(init="pissa"), seed=1)
    config = compose(*sharp, f"model.id={four_bit}", "lora.init=pissa", "train.dry_run=true")
    with pytest.raises(UserError, match=r"lora\.init=pissa .*are stored in nf4: leave it out"):
        lora_dpo.main(config)


def test_scales_and_kind_tell_two_4_bit_models_apart(
    sharp_model: Path, placement: Placement, tmp_path: Path
) -> None:
    found = []
    for kind, nested in (("nf4", True), ("nf4", False), ("fp4", True)):
        folder = stored(sharp_model, tmp_path / f"{kind}-{nested}", kind, nested)
        base = load_base(Model("x", str(folder)), placement)
        found.append(base)
    assert [identity(base)["quantization"] for base in found] == ["nf4", "nf4", "fp4"]
    # the first two hold the same steps, by other scales
    assert len({fingerprint(base) for base in found}) == 3


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        (
            {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False},
            "bitsandbytes, 8 bits",
        ),
        ({"quant_method": "mxfp4"}, "mxfp4"),
    ],
)
@pytest.mark.parametrize("asked", ["none", "4bit"])
def test_other_formats_are_refused_before_anything_loads(
    sharp_model: Path,
    placement: Placement,
    tmp_path: Path,
    how: dict[str, Any],
    said: str,
    asked: str,
) -> None:
    folder = tmp_path / "stored"
    folder.mkdir()
    config = json.loads((sharp_model / "config.json").read_text()) | {"quantization_config": how}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        UserError, match=rf"stored quantised \({said}\).*Set model\.id to the unquantised model"
    ):
        load_base(Model("x", str(folder)), placement, asked)
    with pytest.raises(UserError, match="stored quantised"):
        run_quantization(Model("x", str(folder)), asked)


def test_merging_needs_the_unquantised_model_and_says_which(
    four_bit: Path, model_config: Model, adapter: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"stored in 4 bits.*--base .*/sharp-llama\b") as caught:
        merge_adapter(Model("x", str(four_bit)), adapter, tmp_path / "merged", "fp32")
    assert "bnb-4bit`" not in str(caught.value)
    assert not (tmp_path / "merged").exists()
    assert merge_adapter(model_config, adapter, tmp_path / "merged", "fp32") < 1e-5


def test_a_run_on_it_trains_and_records_what_was_loaded(
    four_bit: Path,
    sharp_model: Path,
    compose: Callable[..., Config],
    tiny: list[str],
    tmp_path: Path,
    capsys,
) -> None:
    from recipes import evaluate, lora_dpo

    words = [*tiny, f"model.id={four_bit}", "evals=in_domain", "data.limit=8", "train.max_steps=2"]
    lora_dpo.main(compose(*words))
    assert "quantization nf4" in capsys.readouterr().out
    lora_dpo.main(compose(*words, "train.dry_run=true", "run.dir=elsewhere"))
    ours = capsys.readouterr().out
    lora_dpo.main(
        compose(*words, f"model.id={sharp_model}", "quantization=4bit", "train.dry_run=true")
    )
    of_flag = capsys.readouterr().out
    weights = [text.partition("weights ")[2].partition(",")[0] for text in (ours, of_flag)]
    assert weights[0] == weights[1] != ""
    assert all("try" not in text or "quantization=4bit" not in text for text in (ours, of_flag))
    run = tmp_path / "run"
    held = load_file(run / "adapter" / WEIGHTS)
    assert all(value.any() for name, value in held.items() if "lora_B" in name)
    known = json.loads((run / "environment.json").read_text())
    assert (known["loaded"]["quantization"], known["loaded"]["dtype"]) == ("nf4", "float32")
    again = compose(
        *words[:-1], f"adapter={run / 'adapter'}", f"run.dir={tmp_path / 'again'}", name="evaluate"
    )
    evaluate.main(again)
    for stage in ("base", "tuned"):
        one, other = (
            (folder / "scores" / f"{stage}-in_domain.jsonl").read_text()
            for folder in (run, tmp_path / "again")
        )
        for a, b in zip(one.splitlines(), other.splitlines(), strict=True):
            assert json.loads(a)["margin"] == pytest.approx(json.loads(b)["margin"], abs=1e-5)
