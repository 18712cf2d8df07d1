"""A run whose model gives NaN stops without results."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from mvp_align.errors import UserError

Run = Callable[..., Path]
WEIGHTS = "adapter_model.safetensors"


def test_an_adapter_with_nan_is_no_0_percent(finished: Path, run: Run, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(finished / "adapter", adapter)
    tensors = load_file(adapter / WEIGHTS)
    name = next(name for name in tensors if "lora_B" in name)
    tensors[name][:] = float("nan")
    save_file(tensors, adapter / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UserError) as stopped:
        run(tmp_path / "run", f"adapter={adapter}", name="evaluate")
    said = str(stopped.value)
    assert said.startswith("tuned in_domain: 20 of 20 answers have no finite log-prob (pairs ")
    assert "train.learning_rate" in said
    written = {
        str(path.relative_to(tmp_path / "run"))
        for path in (tmp_path / "run").rglob("*")
        if path.is_file()
    }
    assert not {
        name
        for name in written
        if "tuned" in name or name in ("metrics.jsonl", "report.html", "DONE")
    }
    assert "scores/base-in_domain.jsonl" in written


def test_no_file_of_a_run_holds_what_is_no_number(finished: Path) -> None:
    from mvp_align.runtime.json_files import from_json

    for path in finished.rglob("*.json*"):
        for text in (
            path.read_text("utf-8").splitlines()
            if path.suffix == ".jsonl"
            else [path.read_text("utf-8")]
        ):
            from_json(text)
