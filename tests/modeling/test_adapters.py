"""LoRA adapters: reproducible, initially without effect, refused if unfit, saved whole."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from mvp_align.config import Lora
from mvp_align.errors import UserError
from mvp_align.modeling.adapters import (
    WEIGHTS,
    load_adapter,
    load_reference,
    new_adapter,
    save_adapter,
)
from mvp_align.scoring.logps import score_pairs

Load = Callable[..., PreTrainedModel]
ALL_LINEAR = {"down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"}


def tensors(model: PeftModel, adapter: str = "default") -> dict[str, Tensor]:
    return {
        n: p.detach().clone()
        for n, p in model.named_parameters()
        if "lora_" in n and f".{adapter}." in n
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_seed_gives_the_same_adapter_whatever_was_drawn_before(load: Load) -> None:
    first = tensors(new_adapter(load(), Lora(), seed=12))
    torch.rand(1000)
    assert same(tensors(new_adapter(load(), Lora(), seed=12)), first)
    assert not same(tensors(new_adapter(load(), Lora(), seed=13)), first)


def test_a_new_adapter_is_the_papers_and_changes_nothing_yet(load: Load, tokens) -> None:
    base = load()
    before = score_pairs(base, tokens)
    model = new_adapter(base, Lora(), seed=12)
    assert score_pairs(model, tokens) == before
    model.train()  # with LoRA's dropout on
    assert score_pairs(model, tokens) == before
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad(), model.disable_adapter():
        bare = model(input_ids=ids).logits
    assert torch.equal(model(input_ids=ids).logits, bare)

    found = tensors(model)
    assert len(found) == 2 * 3 * 2  # layers x q, k, v x A, B
    assert all((tensor == 0).all() == ("lora_B" in name) for name, tensor in found.items())
    settings = model.peft_config["default"]
    assert (settings.r, settings.lora_alpha, settings.lora_dropout, settings.bias) == (
        16,
        32,
        0.05,
        "none",
    )
    assert model.get_nb_trainable_parameters()[0] == 2 * 16 * ((64 + 64) + (64 + 32) + (64 + 32))


def test_all_linear_is_every_linear_layer_but_the_head(load: Load) -> None:
    model = new_adapter(load(), Lora(target_modules=["all-linear"]), seed=12)
    parents = [
        name.split(".lora_A")[0].rsplit(".", 1)[-1] for name in tensors(model) if "lora_A" in name
    ]
    assert len(parents) == 2 * 7
    assert set(parents) == ALL_LINEAR


@pytest.mark.parametrize(
    ("names", "unknown"),
    [
        (["c_attn"], "c_attn"),
        (["q_proj", "vproj"], "vproj"),
        (["proj"], "proj"),
        (["mlp"], "mlp"),
        (["norm"], "norm"),
    ],
)
def test_unknown_layers_are_named_beside_the_known_ones(
    load: Load, names: list[str], unknown: str
) -> None:
    with pytest.raises(UserError) as caught:
        new_adapter(load(), Lora(target_modules=names), seed=12)
    message = str(caught.value)
    assert message.startswith("lora.target_modules: ")
    assert f"has no linear layer {unknown}. It has {', '.join(sorted(ALL_LINEAR))}." in message


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        (Lora(rank_pattern={"up_proj": 4}), r"lora\.rank_pattern: up_proj would change nothing"),
        (
            Lora(alpha_pattern={"q_proj": 4, "layers.0.self_attn.q_proj": 8}),
            r"layers\.0\.self_attn\.q_proj would change nothing: .*an earlier pattern has it\. They"
            r" are k_proj, q_proj, v_proj\.",
        ),
        (Lora(rank_pattern={"(": 4}), r"lora\.rank_pattern: a name is no regular expression"),
        (Lora(init="pissa", r=33), r"q_proj has a weight of \(64, 64\)|has no more than 32 parts"),
    ],
)
def test_patterns_and_parts_that_are_not_there_are_refused(
    load: Load, lora: Lora, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        new_adapter(load(), lora, seed=12)


def test_ranks_and_alphas_by_layer(load: Load) -> None:
    patterns = Lora(
        rank_pattern={"v_proj": 4, r"layers\.1\..*": 2},
        alpha_pattern={"q_proj": 8},
        use_rslora=True,
    )
    found = {
        name.partition("layers.")[2]: (layer.r["default"], layer.scaling["default"])
        for name, layer in new_adapter(load(), patterns, seed=12).named_modules()
        if hasattr(layer, "lora_A")
    }
    assert found == {
        "0.self_attn.q_proj": (16, 8 / 4),
        "0.self_attn.k_proj": (16, 32 / 4),
        "0.self_attn.v_proj": (4, 32 / 2),
        "1.self_attn.q_proj": (2, 8 / 2**0.5),
        "1.self_attn.k_proj": (2, 32 / 2**0.5),
        "1.self_attn.v_proj": (4, 32 / 2),
    }


def test_layers_can_be_named_by_their_path(load: Load) -> None:
    model = new_adapter(
        load(), Lora(target_modules=["self_attn.q_proj", "layers.1.mlp.up_proj"]), seed=12
    )
    assert len(tensors(model)) == (2 + 1) * 2


def test_an_adapter_comes_back_from_its_folder(
    load: Load, trained: PeftModel, adapter: Path, tokens
) -> None:
    expected = score_pairs(trained, tokens)
    base = load()
    before = score_pairs(base, tokens)
    loaded = load_adapter(base, adapter)
    assert same(tensors(loaded), tensors(trained))
    assert score_pairs(loaded, tokens) == expected
    assert (
        max(abs(now.margin - then.margin) for now, then in zip(expected, before, strict=True)) > 0.1
    )
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    going_on = load_adapter(load(), adapter, trainable=True)
    assert {name for name, p in going_on.named_parameters() if p.requires_grad} == set(
        tensors(going_on)
    )


def test_a_folder_without_an_adapter(load: Load, tmp_path: Path, adapter: Path) -> None:
    (adapter / WEIGHTS).unlink()
    for folder in (tmp_path / "none", adapter):
        with pytest.raises(UserError, match=r"no adapter there.*outputs/<run>/adapter"):
            load_adapter(load(), folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("[]", "holds no object"),
        ("{}", "names no peft_type"),
    ],
)
def test_a_broken_adapter_config(load: Load, adapter: Path, text: str, said: str) -> None:
    (adapter / "adapter_config.json").write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        load_adapter(load(), adapter)
    assert str(adapter) in str(caught.value)
    assert "Copy the adapter again" in str(caught.value)


@pytest.mark.parametrize("kept", [0, 100, 0.5])
def test_a_truncated_adapter(load: Load, adapter: Path, kept: float) -> None:
    whole = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(whole[: int(kept * len(whole)) if kept < 1 else int(kept)])
    with pytest.raises(UserError, match=r"is cut off\. Copy the adapter again"):
        load_adapter(load(), adapter)


def test_an_adapter_of_other_shapes(load: Load, tokenizer, tmp_path: Path) -> None:
    base = load()
    shape = LlamaConfig(**{**base.config.to_dict(), "hidden_size": 32, "head_dim": 8})
    small = LlamaForCausalLM(shape)
    # the name is right, the shapes are not
    small.name_or_path = small.config._name_or_path = base.name_or_path
    save_adapter(new_adapter(small, Lora(), seed=12), tokenizer, tmp_path / "small")
    with pytest.raises(
        UserError, match=r"does not fit .*size mismatch.*Choose the model it was trained on"
    ):
        load_adapter(base, tmp_path / "small")


@pytest.mark.parametrize(
    ("change", "said"),
    [("lacks", "2 tensors are missing, 0"), ("more", "0 tensors are missing, 1")],
)
def test_an_adapter_with_tensors_missing_or_left_over(
    load: Load, adapter: Path, change: str, said: str
) -> None:
    held = load_file(adapter / WEIGHTS)
    if change == "lacks":
        held = {
            name: tensor for name, tensor in held.items() if "layers.1.self_attn.v_proj" not in name
        }
    else:
        name = next(name for name in held if "layers.1." in name)
        held[name.replace("layers.1.", "layers.2.")] = held[name].clone()
    save_file(held, adapter / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"{said} have no place"):
        load_adapter(load(), adapter)
    with pytest.raises(UserError, match=f"{said} have no place"):
        load_reference(new_adapter(load(), Lora(), seed=12), adapter)


def test_saving_writes_the_trained_adapter_alone_as_safetensors_with_the_tokenizer(
    trained: PeftModel, adapter: Path, tokenizer, tmp_path: Path
) -> None:
    load_reference(trained, adapter)
    target = tmp_path / "again"
    save_adapter(trained, tokenizer, target)
    assert (target / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()
    names = {path.name for path in target.iterdir()}
    assert {"adapter_config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"} <= names
    # PEFT puts further adapters into folders
    assert not any((target / name).is_dir() for name in names)
    assert not {path.suffix for path in target.iterdir()} & {".bin", ".pt", ".pkl"}
    assert len(load_file(target / WEIGHTS)) == 12
    again = AutoTokenizer.from_pretrained(target)
    text = "Question: how so?"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.chat_template == tokenizer.chat_template
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_saving_replaces_an_older_adapter_and_leftovers_of_a_kill(
    trained: PeftModel, adapter: Path, tokenizer
) -> None:
    before = (adapter / WEIGHTS).read_bytes()
    (adapter / "stale.txt").write_text("of an older run")
    shutil.copytree(adapter, adapter.with_name(".adapter-writing"))
    with torch.no_grad():
        next(p for n, p in trained.named_parameters() if "lora_B" in n).fill_(1)
    save_adapter(trained, tokenizer, adapter)
    assert (adapter / WEIGHTS).read_bytes() != before
    assert not (adapter / "stale.txt").exists()
    assert not adapter.with_name(".adapter-writing").exists()


@pytest.mark.parametrize("room", ["6m", "3900k"])
def test_a_full_disk_leaves_the_older_adapter_as_it_was(
    trained: PeftModel, tokenizer, mount_disk: Callable[[str], Path], room: str
) -> None:
    """About 3.6 MB are written, most of it the tokenizer: the second time there is room for a part
    or for next to none."""
    target = mount_disk(room) / "adapter"
    save_adapter(trained, tokenizer, target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with torch.no_grad():
        next(p for n, p in trained.named_parameters() if "lora_B" in n).fill_(1)
    with pytest.raises(UserError, match=f"No space left on the disk while writing {target}"):
        save_adapter(trained, tokenizer, target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert [path.name for path in target.parent.iterdir()] == ["adapter"]
