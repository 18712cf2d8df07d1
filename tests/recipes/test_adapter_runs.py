"""Runs that start from an adapter or evaluate one: what they save, record and refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from run_files import WEIGHTS, adapter_bytes, cut_off, lines, score_bytes
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mvp_align.errors import AlreadyDone, UserError
from mvp_align.launch import check_command, check_run_folder

Run = Callable[..., Path]
QUICK = ["evals=in_domain", "data.limit=6", "train.max_steps=2"]


@pytest.fixture
def theirs(sharp_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """`theirs(r=4, ...)`: an adapter made by PEFT, with trained-looking tensors."""

    def made(**settings: Any) -> Path:
        base = AutoModelForCausalLM.from_pretrained(sharp_model)
        settings = {
            "target_modules": ["q_proj", "v_proj"],
            "r": 4,
            "lora_alpha": 6,
            "task_type": "CAUSAL_LM",
        } | settings
        torch.manual_seed(1)
        model = get_peft_model(base, LoraConfig(**settings))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * (0.2 if "lora_" in name else 0.02))
        model.save_pretrained(str(tmp_path / "theirs"))
        return tmp_path / "theirs"

    return made


KINDS: dict[str, dict[str, Any]] = {
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "whole modules": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "some tokens": {"trainable_token_indices": [30, 28, 1000]},
    "DoRA": {"use_dora": True, "rank_pattern": {"v_proj": 2}, "use_rslora": True},
}


def goes_on(run: Run, adapter: Path, folder: Path, *words: str) -> None:
    """A run from `adapter` saves all its tensors, changed, and scores with what it saved."""
    words = (*QUICK, *words, f"adapter={adapter}", "train.save_steps=1")
    run(folder, *words)
    before, after = load_file(adapter / WEIGHTS), load_file(folder / "adapter" / WEIGHTS)
    assert after.keys() == {name for name in before if ".base_layer." not in name}
    unmoved = [name for name in after if torch.equal(after[name], before[name])]
    assert unmoved == []
    evaluated = run(
        folder.with_name("again"), *QUICK, f"adapter={folder / 'adapter'}", name="evaluate"
    )
    for stage in ("base", "tuned"):
        one, other = (
            lines(path / "scores" / f"{stage}-in_domain.jsonl") for path in (folder, evaluated)
        )
        assert [score["margin"] for score in one] == pytest.approx(
            [score["margin"] for score in other], abs=1e-5
        )


@pytest.mark.parametrize("kind", ["whole modules", "DoRA"])
def test_going_on_by_dpo_saves_all_of_an_adapter(
    run: Run, theirs: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    goes_on(run, theirs(**KINDS[kind]), tmp_path / "run")


@pytest.mark.parametrize("kind", ["embeddings", "some tokens"])
def test_an_adapter_of_any_kind_comes_back_from_a_checkpoint(
    run: Run, theirs: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    adapter, folder = theirs(**KINDS[kind]), tmp_path / "run"
    goes_on(run, adapter, folder)
    resumed = cut_off(folder, tmp_path / "cut", after=1)
    run(resumed, *QUICK, f"adapter={adapter}", "train.save_steps=1")
    assert adapter_bytes(resumed) == adapter_bytes(folder)
    assert score_bytes(resumed) == score_bytes(folder)


def test_going_on_by_sft_saves_all_of_an_adapter(
    run: Run, theirs: Callable[..., Path], tmp_path: Path
) -> None:
    goes_on(run, theirs(**KINDS["embeddings"]), tmp_path / "run", "recipe=lora_sft")


def test_what_is_recorded_is_the_adapters(
    run: Run, theirs: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = theirs(use_rslora=True, lora_dropout=0.25, alpha_pattern={"v_proj": 9})
    for name, folder in (("train", tmp_path / "run"), ("evaluate", tmp_path / "eval")):
        run(folder, *QUICK, f"adapter={adapter}", name=name)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["lora"] == {
            "r": 4,
            "alpha": 6,
            "dropout": 0.25,
            "target_modules": ["q_proj", "v_proj"],
            "rank_pattern": {},
            "alpha_pattern": {"v_proj": 9},
            "use_rslora": True,
            "use_dora": False,
            "init": "default",
        }
        known = json.loads((folder / "environment.json").read_text())
        assert known["adapter"]["use_rslora"] is True
        assert (known["adapter"]["r"], known["adapter"]["lora_alpha"]) == (4, 6)
        assert known["loaded"]["adapter"] != "none"


def test_the_same_command_finds_its_run_and_another_rank_is_refused(
    run: Run, theirs: Callable[..., Path], settings: list[str], tmp_path: Path
) -> None:
    adapter = theirs()
    words = [*QUICK, f"adapter={adapter}", f"run.dir={tmp_path / 'run'}"]
    words.append("evals.ufp4=null")  # which QUICK does not score
    run(tmp_path / "run", *words)
    with pytest.raises(AlreadyDone):
        check_run_folder(check_command("train", [*settings, *words]).configs[0])
    with pytest.raises(
        UserError, match=r"lora\.r would change nothing: adapter=PATH brings its own"
    ):
        check_command("train", [*settings, *words, "lora.r=64"])


def test_a_learning_rate_of_zero_is_no_lift(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Training changed nothing"):
        run(
            tmp_path / "run",
            *QUICK,
            "train.max_steps=1",
            "train.warmup_share=0.9",
            "train.weight_decay=0.1",
        )
    assert not (tmp_path / "run" / "DONE").exists()
    assert not list((tmp_path / "run" / "scores").glob("tuned-*"))


def test_weight_decay_alone_is_no_lift(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no gradient reaches the adapter, its A still shrinks while B stays zero."""
    from mvp_align.training.pair_trainer import PairTrainer

    loss = PairTrainer.compute_loss
    monkeypatch.setattr(
        PairTrainer, "compute_loss", lambda *args, **kwargs: loss(*args, **kwargs) * 0
    )
    with pytest.raises(UserError, match="Training changed nothing"):
        run(tmp_path / "run", *QUICK, "train.loss_type=ipo", "train.weight_decay=0.1")


def test_an_adapter_of_another_base_is_told_in_the_records(
    run: Run, theirs: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = theirs()
    file = adapter / "adapter_config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "some/base"})
    )
    words = [*QUICK, f"adapter={adapter}", "train.dry_run=true"]
    with pytest.raises(UserError, match=r"was trained on some/base.*adapter_base=any"):
        run(tmp_path / "run", *words, name="evaluate")
    with pytest.raises(UserError, match=r"train\.reference=.* was trained on some/base"):
        run(tmp_path / "run", *QUICK, f"train.reference={adapter}", "train.dry_run=true")
    folder = run(tmp_path / "run", *words[:-1], "adapter_base=any", name="evaluate")
    notes = json.loads((folder / "notes.json").read_text())["notes"]
    (note,) = (note for note in notes if "was trained on some/base and is put on" in note)
    assert "(adapter_base=any)" in note
    assert note in (folder / "report.html").read_text("utf-8").replace("&#x27;", "'")


def test_the_adapters_chat_template_is_what_the_pairs_are_shown_in(
    run: Run, theirs: Callable[..., Path], sharp_model: Path, tmp_path: Path
) -> None:
    adapter = theirs()
    words = [*QUICK, f"adapter={adapter}", "prompt=chat"]
    plain = run(tmp_path / "plain", *words, name="evaluate")
    tokenizer = AutoTokenizer.from_pretrained(sharp_model)
    tokenizer.chat_template = "{% for m in messages %}USER {{ m['content'] }} ANSWER {% endfor %}"
    tokenizer.save_pretrained(adapter)
    other = run(tmp_path / "other", *words, name="evaluate")
    for stage in ("base", "tuned"):
        one, two = (lines(path / "scores" / f"{stage}-in_domain.jsonl") for path in (plain, other))
        assert [score["margin"] for score in one] != [score["margin"] for score in two]
    notes = json.loads((other / "notes.json").read_text())["notes"]
    assert f"tokenizer: the adapter's, not {sharp_model}'s; chat template" in " ".join(notes)
