"""First-generation Qwen in Qwen2's layout computes what Qwen's code does, or is refused."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from first_qwen import CONFIG, LAYERS, all_ranks, qwen_logits, random_weights, write_qwen
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2ForCausalLM
from typer.testing import CliRunner

from mvp_align.cli import app
from mvp_align.config import Config, Model
from mvp_align.errors import UserError
from mvp_align.modeling.convert import convert_qwen
from mvp_align.modeling.converted import conversion_of
from mvp_align.modeling.source import load_model_config
from mvp_align.runtime.json_files import from_json
from recipes import evaluate, lora_dpo

ROOT = Path(__file__).parents[2]
TEXTS = [path.read_text("utf-8") for path in sorted(ROOT.glob("docs/*.md"))]
COMMIT = "ef3c5c9c57b252f3149c1408daf4d649ec8b6c85"
UNSCALED = {"use_dynamic_ntk": False, "use_logn_attn": False}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_weights()


@pytest.fixture(scope="module")
def cached(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The Hub's cache with Qwen/Qwen-7B in it, and the folder of that commit."""
    cache = tmp_path_factory.mktemp("hub")
    repo = cache / "models--Qwen--Qwen-7B"
    folder = write_qwen(repo / "snapshots" / COMMIT, all_ranks(TEXTS), weights)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(constants, "HF_HUB_CACHE", str(cache))
        yield folder
    shutil.rmtree(cache)


@pytest.fixture(scope="module")
def converted(cached: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted by the command, from the Hub's id."""
    target = tmp_path_factory.mktemp("models") / "deep" / "Qwen-7B"
    done = CliRunner().invoke(app, ["convert", "Qwen/Qwen-7B", str(target)])
    assert done.exit_code == 0, done.output
    assert "in Qwen2's layout, for texts of up to 256 tokens" in " ".join(done.output.split())
    assert [path.name for path in target.parent.iterdir()] == ["Qwen-7B"]
    return target


@pytest.fixture
def copied(cached: Path, tmp_path: Path) -> Path:
    """A copy of the source to damage."""
    return Path(shutil.copytree(cached, tmp_path / "source"))


def loaded(folder: Path) -> Qwen2ForCausalLM:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert type(model) is Qwen2ForCausalLM
    return model.eval()


def logits(model: Qwen2ForCausalLM, ids: list[int]) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(torch.tensor([ids])).logits[0]
    return found


def ids_of(length: int) -> list[int]:
    draw = random.Random(length)
    return [draw.randrange(151_851) for _ in range(length)]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max())


def test_logits_are_qwens_up_to_its_length_and_scaled_beyond(
    converted: Path, weights: dict[str, Tensor]
) -> None:
    model = loaded(converted)
    for length in (1, 2, 40, 255, 256):
        expected = qwen_logits(weights, CONFIG, ids_of(length))
        assert expected.std() > 0.3
        assert error(logits(model, ids_of(length)), expected) < 3e-5
    # with one token more Qwen's code scales, so the converted model must not be asked
    for scaling, longer in (("use_dynamic_ntk", 257), ("use_logn_attn", 400)):
        only = CONFIG | UNSCALED | {scaling: True}
        over, inside = ids_of(longer), ids_of(256)
        assert error(logits(model, over), qwen_logits(weights, only, over)) > 0.01
        assert torch.equal(
            qwen_logits(weights, only, inside), qwen_logits(weights, CONFIG | UNSCALED, inside)
        )
    assert load_model_config(Model("q", str(converted))).max_position_embeddings == 256


def test_without_scaling_it_is_qwens_beyond(
    copied: Path, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    (copied / "config.json").write_text(json.dumps(CONFIG | UNSCALED))
    assert convert_qwen(str(copied), tmp_path / "plain").context == 1024
    expected = qwen_logits(weights, CONFIG | UNSCALED, ids_of(600))
    assert error(logits(loaded(tmp_path / "plain"), ids_of(600)), expected) < 3e-5


def test_longer_texts_are_refused_in_words(
    converted: Path, compose: Callable[..., Config], tiny: list[str], tmp_path: Path
) -> None:
    config = compose(*tiny, f"model.id={converted}", "train.dry_run=true")
    with pytest.raises(UserError, match=r"data\.max_tokens=1024 is over the 256 tokens"):
        lora_dpo.main(config)


def test_values_and_precision_are_kept_bit_by_bit(cached: Path, tmp_path: Path) -> None:
    source = tmp_path / "bf16"
    weights = random_weights(1, torch.bfloat16)
    weights["transformer.rotary_emb.inv_freq"] = torch.ones(4)  # as in early files
    write_qwen(source, {}, weights, shards=2)
    shutil.copy(cached / "qwen.tiktoken", source)
    convert_qwen(str(source), tmp_path / "kept")
    files = sorted((tmp_path / "kept").glob("*.safetensors"))
    found = {name: value for file in files for name, value in load_file(file).items()}
    assert len(files) == 2 and len(found) == 12 * LAYERS + 3
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    for layer in range(LAYERS):
        ours, theirs = f"model.layers.{layer}.self_attn", f"transformer.h.{layer}.attn"
        for kind in ("weight", "bias"):
            parts = [found[f"{ours}.{part}_proj.{kind}"] for part in "qkv"]
            assert torch.equal(torch.cat(parts), weights[f"{theirs}.c_attn.{kind}"])
    assert torch.equal(found["lm_head.weight"], weights["lm_head.weight"])
    index = from_json((tmp_path / "kept" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(found)
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in found.values())
    assert AutoConfig.from_pretrained(tmp_path / "kept").dtype == torch.bfloat16


def test_one_file_is_in_memory_at_a_time(tmp_path: Path) -> None:
    size, count = 40 * 2**20, 8  # glibc keeps what is freed of less than 32 MiB
    for number in range(count):
        part = {f"transformer.h.{number}.mlp.w1.weight": torch.full((size // 4,), 1.0)}
        save_file(part, tmp_path / f"model-{number}.safetensors")
    (tmp_path / "out").mkdir()
    code = f"""
from pathlib import Path
from mvp_align.modeling.qwen1_weights import convert_shards, shard_files
def held(name):
    (line,) = (l for l in open("/proc/self/status") if l.startswith(name))
    return int(line.split()[1]) * 1024
convert_shards(shard_files(Path({str(tmp_path)!r}))[:1], Path({str(tmp_path / "out")!r}))
Path("/proc/self/clear_refs").write_text("5")  # VmHWM anew
before = held("VmRSS")
convert_shards(shard_files(Path({str(tmp_path)!r})), Path({str(tmp_path / "out")!r}))
print(held("VmHWM") - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert len([*(tmp_path / "out").glob("model-*-of-00008.safetensors")]) == count
    assert int(done.stdout) < 4 * size < count * size  # read, cut, and written out


def test_the_folder_says_what_it_was_made_from(converted: Path, cached: Path) -> None:
    assert {path.name for path in converted.iterdir()} == {
        "LICENSE", "config.json", "conversion.json", "generation_config.json",
        "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
        *(path.name for path in cached.glob("*.safetensors")),
    }  # fmt: skip
    record = conversion_of(Model("q", str(converted)))
    assert record is not None
    assert (record["repo"], record["revision"]) == ("Qwen/Qwen-7B", COMMIT)
    named = {"config.json", "generation_config.json", "qwen.tiktoken"}
    assert set(record["files"]) == named | {path.name for path in cached.glob("*.safetensors")}
    summed = subprocess.run(
        ["sha256sum", *sorted(record["files"])],
        cwd=cached, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert {line.split()[1]: line.split()[0] for line in summed.stdout.splitlines()} == record[
        "files"
    ]
    generation = from_json((converted / "generation_config.json").read_text())
    assert generation == {
        "do_sample": True, "max_new_tokens": 512, "top_k": 0, "top_p": 0.8,
        "eos_token_id": [151643], "pad_token_id": 151643,
    }  # fmt: skip


def test_a_local_folder_and_a_chat_model(copied: Path, tmp_path: Path) -> None:
    generation = from_json((copied / "generation_config.json").read_text())
    chat = generation | {"chat_format": "chatml"}
    (copied / "generation_config.json").write_text(json.dumps(chat))
    convert_qwen(str(copied), tmp_path / "chat")
    record = conversion_of(Model("q", str(tmp_path / "chat")))
    assert record is not None and (record["repo"], record["revision"]) == (None, None)
    written = from_json((tmp_path / "chat" / "generation_config.json").read_text())
    assert written["eos_token_id"] == [151645, 151644, 151643]
    kept = from_json((tmp_path / "chat" / "tokenizer_config.json").read_text())
    assert kept["eos_token"] == "<|im_end|>"
    assert (tmp_path / "chat" / "chat_template.jinja").is_file()


def test_a_broken_record_is_told_before_a_run(
    compose: Callable[..., Config], tmp_path: Path
) -> None:
    assert conversion_of(Model("q", "Qwen/Qwen2.5-7B")) is None
    (tmp_path / "conversion.json").write_text('{"repo": "Qwen/Qwen-7B"}')
    with pytest.raises(UserError, match="is not what `mvp-align convert` wrote"):
        lora_dpo.main(compose(f"model.id={tmp_path}", "hardware=cpu", "train.dry_run=true"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(from_json(path.read_text()) | changes))


def changed_tensors(folder: Path, **changes: Tensor | None) -> None:
    for file in sorted(folder.glob("*.safetensors")):
        tensors = load_file(file)
        known = {name: value for name, value in changes.items() if name in tensors}
        save_file({n: v for n, v in (tensors | known).items() if v is not None}, file)


LN = "transformer.h.1.ln_1.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another kind": (
        lambda f: edit(f / "config.json", model_type="llama"),
        "is of the type llama, and only first-generation Qwen",
    ),
    "partial rotary": (
        lambda f: edit(f / "config.json", rotary_pct=0.5),
        "rotary_pct=0.5: Input should be 1",
    ),
    "biases": (lambda f: edit(f / "config.json", no_bias=False), "no_bias=False"),
    "a picture model": (
        lambda f: edit(f / "config.json", visual={"layers": 48}),
        "visual: Input should be None",
    ),
    "quantised": (
        lambda f: edit(f / "config.json", quantization_config={"bits": 4}),
        "quantization_config: Input should be None",
    ),
    "no length": (
        lambda f: (f / "config.json").write_text(
            json.dumps({k: v for k, v in CONFIG.items() if k != "seq_length"})
        ),
        "seq_length: Field required",
    ),
    "a small vocabulary": (
        lambda f: edit(f / "config.json", vocab_size=151_000),
        "vocab_size=151000: Input should be greater than or equal to 151851",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), r"has no config\.json"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
    "more layers": (
        lambda f: edit(f / "config.json", num_hidden_layers=3),
        r"model\.layers\.2\.input_layernorm\.weight has no counterpart",
    ),
    "fewer layers": (
        lambda f: edit(f / "config.json", num_hidden_layers=1),
        r"transformer\.h\.1\.attn\.c_attn\.bias in .* does not fit config\.json",
    ),
    "narrower heads": (
        lambda f: edit(f / "config.json", intermediate_size=90),
        r"mlp\.w1\.weight in .* has the shape \[48, 32\], which does not fit",
    ),
    "a missing file": (
        lambda f: (f / "model-00002-of-00003.safetensors").unlink(),
        "has no counterpart in the files",
    ),
    "a cut file": (
        lambda f: (f / "model-00003-of-00003.safetensors").write_bytes(b"\x10\0\0"),
        "is cut off or damaged",
    ),
    "two models": (
        lambda f: shutil.copy(f / "model-00001-of-00003.safetensors", f / "other.safetensors"),
        "files of two models lie in one folder",
    ),
    "a foreign tensor": (
        lambda f: save_file({"transformer.visual.proj": torch.ones(2)}, f / "more.safetensors"),
        r"transformer\.visual\.proj in more\.safetensors is no tensor of Qwen",
    ),
    "two precisions": (
        lambda f: changed_tensors(f, **{LN: torch.ones(32, dtype=torch.float16)}),
        "stored as F16, F32",
    ),
    "integers": (
        lambda f: [
            save_file({n: v.to(torch.int8) for n, v in load_file(p).items()}, p)
            for p in f.glob("*.safetensors")
        ],
        "stored as I8, and only weights that are all BF16, F16, F32",
    ),
    "no tokenizer": (lambda f: (f / "qwen.tiktoken").unlink(), r"has no qwen\.tiktoken"),
    "pickles": (
        lambda f: [p.rename(p.with_suffix(".bin")) for p in f.glob("*.safetensors")],
        r"has pickled weights alone \(model-00001-of-00003\.bin\)",
    ),
    "no weights": (
        lambda f: [p.unlink() for p in f.glob("*.safetensors")],
        "has no safetensors weights",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_converted_is_refused_and_nothing_written(
    damage: str, copied: Path, tmp_path: Path
) -> None:
    harm, said = DAMAGES[damage]
    harm(copied)
    with pytest.raises(UserError, match=said):
        convert_qwen(str(copied), tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_full_disk_leaves_nothing(cached: Path, mount_disk: Callable[[str], Path]) -> None:
    disk = mount_disk("16m")
    with pytest.raises(UserError, match="No space left on the disk"):
        convert_qwen(str(cached), disk / "target")
    assert [*disk.iterdir()] == []


def test_words_that_do_not_fit(cached: Path, converted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        convert_qwen(str(cached), converted)
    with pytest.raises(UserError, match="--revision main is of a Hub id"):
        convert_qwen(str(cached), tmp_path / "a", "main")
    with pytest.raises(UserError, match="no such folder"):
        convert_qwen("./nowhere", tmp_path / "a")
    with pytest.raises(UserError, match=r"no Qwen/Qwen-14B here: .* `hf download Qwen/Qwen-14B`"):
        convert_qwen("Qwen/Qwen-14B", tmp_path / "a")
    with pytest.raises(UserError, match=r"`mvp-align convert .*FOLDER`, then model\.id=FOLDER"):
        load_model_config(Model("q", str(cached)))
    with pytest.raises(UserError, match=r"`mvp-align convert Qwen/Qwen-14B \./no/Qwen-14B`"):
        load_model_config(Model("q", "./no/Qwen-14B"))


def test_a_run_on_a_converted_model_and_an_evaluation_of_its_adapter(
    converted: Path, compose: Callable[..., Config], tiny: list[str], tmp_path: Path
) -> None:
    words = [*tiny, f"model.id={converted}", "data.max_tokens=256", "data.max_prompt_tokens=200"]
    words += ["evals=in_domain", "data.limit=6"]
    lora_dpo.main(compose(*words, "train.max_steps=2", "train.batch_size=2"))
    run = tmp_path / "run"
    environment = from_json((run / "environment.json").read_text())
    assert environment["converted"]["repo"] == "Qwen/Qwen-7B"
    assert environment["adapter"]["target_modules"] == ["k_proj", "q_proj", "v_proj"]
    adapter = from_json((run / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(converted)
    assert f"Qwen/Qwen-7B at {COMMIT}" in (run / "report.html").read_text("utf-8")
    again = tmp_path / "again"
    wanted = [f"adapter={run / 'adapter'}", f"run.dir={again}"]
    kept = [word for word in words if not word.startswith(("train.", "run.dir"))]
    evaluate.main(compose(*kept, *wanted, name="evaluate"))
    scores = [(folder / "scores" / "tuned-in_domain.jsonl").read_text() for folder in (run, again)]
    assert scores[0] == scores[1]
