"""Match adapters to bases by Hub id, recorded hashes, or weights, never by a folder's last name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from mvp_align.config import Lora, Model
from mvp_align.errors import UserError
from mvp_align.modeling.adapter_base import check_base, same_base
from mvp_align.modeling.adapters import load_adapter, load_reference, new_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.fingerprint import fingerprint
from mvp_align.modeling.hardware import Placement

Load = Callable[..., PreTrainedModel]
SNAPSHOT = (
    "/home/me/.cache/huggingface/hub/models--meta-llama--Llama-2-7b-hf/snapshots/01c7f73d771d"
)


@pytest.mark.parametrize(
    ("made_for", "base", "same"),
    [
        ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf", True),
        ("meta-llama/llama-2-7b-HF", "meta-llama/Llama-2-7b-hf", True),
        (SNAPSHOT, "meta-llama/Llama-2-7b-hf", True),
        ("meta-llama/Llama-2-7b-hf", SNAPSHOT + "/", True),
        (SNAPSHOT, SNAPSHOT.replace("01c7f", "99999"), True),
        (SNAPSHOT, "meta-llama/Llama-2-7b-chat-hf", False),
        ("unsloth/Llama-3.2-1B-bnb-4bit", "unsloth/Llama-3.2-1B", True),
        ("unsloth/Llama-3.2-1B", "unsloth/Llama-3.2-1B-unsloth-bnb-4bit", True),
        ("unsloth/Llama-3.2-1B-bnb-4bit", "unsloth/Llama-3.2-3B", False),
        ("A/merged", "B/merged", False),
        ("/a/merged", "/b/merged", False),
        ("./a/merged", "./b/merged", False),
        ("/gone/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf", True),
        ("gpt2", "openai-community/gpt2", True),
        ("gpt2", "openai-community/gpt2-large", False),
        ("meta-llama/Llama-2-7b-hf", "HuggingFaceTB/SmolLM2-135M", False),
    ],
)
def test_names_of_one_model(made_for: str, base: str, same: bool) -> None:
    assert same_base(made_for, base) is same
    assert same_base(base, made_for) is same


@pytest.fixture
def said_of(adapter: Path) -> Callable[[Any], Path]:
    """`said_of(name)`: the adapter with another name for its base."""

    def renamed(name: str) -> Path:
        settings = json.loads((adapter / "adapter_config.json").read_text())
        settings["base_model_name_or_path"] = name
        (adapter / "adapter_config.json").write_text(json.dumps(settings))
        return adapter

    return renamed


def test_an_adapter_of_another_base_is_refused_unless_one_says_any(
    load: Load, said_of: Callable[[str], Path]
) -> None:
    adapter = said_of("meta-llama/Llama-2-7b-hf")
    other = (
        r"was trained on meta-llama/Llama-2-7b-hf, but the model is .*sharp-llama\."
        r" .*adapter_base=any"
    )
    with pytest.raises(UserError, match=f"^adapter=.*{other}"):
        load_adapter(load(), adapter)
    with pytest.raises(UserError, match=f"^train.reference=.*{other}"):
        load_reference(new_adapter(load(), Lora(), seed=1), adapter)
    load_adapter(load(), adapter, any_base=True)
    load_reference(new_adapter(load(), Lora(), seed=1), adapter, any_base=True)


def test_folders_are_compared_by_their_bytes(
    sharp_model: Path, placement: Placement, said_of: Callable[[str], Path], tmp_path: Path
) -> None:
    copy, other = tmp_path / "a" / "merged", tmp_path / "b" / "merged"
    shutil.copytree(sharp_model, copy)
    shutil.copytree(sharp_model, other)
    changed = load_base(Model("x", str(other)), placement)
    with torch.no_grad():
        changed.get_input_embeddings().weight[5, 5] += 1
    changed.save_pretrained(other)
    adapter = said_of(str(copy))
    load_adapter(load_base(Model("x", str(sharp_model)), placement), adapter)
    with pytest.raises(UserError, match=r"was trained on .*a/merged, but the model is .*b/merged"):
        load_adapter(load_base(Model("x", str(other)), placement), adapter)


def test_a_folder_that_is_gone_is_not_taken_for_one_of_the_same_last_name(
    load: Load, said_of
) -> None:
    with pytest.raises(
        UserError, match=r"/elsewhere/SHARP-llama is not here to be compared.*adapter_base=any"
    ):
        load_adapter(load(), said_of("/elsewhere/SHARP-llama"))


def left_by_a_run(adapter: Path, base: PreTrainedModel, weights: str) -> None:
    """Write environment.json beside `adapter`, as its run would."""
    known = {
        "hashes": {"base_model": weights},
        "versions": {"transformers": transformers.__version__},
        "loaded": {"dtype": str(base.dtype).removeprefix("torch."), "quantization": "none"},
    }
    (adapter.parent / "environment.json").write_text(json.dumps(known))


def test_what_the_run_hashed_decides_over_names(load: Load, model_config: Model, said_of) -> None:
    base = load()
    adapter = said_of("/elsewhere/whatever")
    left_by_a_run(adapter, base, fingerprint(base))
    load_adapter(load(), adapter)
    left_by_a_run(adapter, base, "0123456789abcdef")
    with pytest.raises(UserError, match="The run that trained it has hashed other weights"):
        load_adapter(load(), adapter)
    said_of(model_config.id)  # the right name, and other weights under it
    with pytest.raises(UserError, match="The run that trained it has hashed other weights"):
        load_adapter(load(), adapter)
    load_adapter(load(), adapter, any_base=True)


def test_unlike_hashes_of_unlike_precisions_say_nothing(
    load: Load, placement: Placement, model_config, said_of
) -> None:
    adapter = said_of(model_config.id)
    half = load_base(model_config, Placement(placement.device, torch.bfloat16, None))
    left_by_a_run(adapter, half, fingerprint(half))
    load_adapter(load(), adapter)
    load_adapter(load("4bit"), adapter)


def test_what_is_told_of_a_base(adapter: Path) -> None:
    def told(made_for: str | None, base: str, **how: Any) -> list[str]:
        return check_base(adapter, {"base_model_name_or_path": made_for}, base, **how)

    assert told("a/b", "a/b") == []
    assert told("a/b", "a/b", any_base=True) == []
    assert "does not say which model" in told(None, "a/b")[0]
    assert "unchecked (adapter_base=any)" in told("c/d", "a/b", any_base=True)[0]
    assert "one of them is in 4 bits" in told("a/b-bnb-4bit", "a/b")[0]
    assert "by its name alone" in told("a/tmp", "/tmp")[0]
