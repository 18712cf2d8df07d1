"""Whole runs with options of TRL and PEFT: resumed to the same bytes, evaluated, and merged."""

from collections.abc import Callable
from pathlib import Path

import pytest
from run_files import adapter_bytes, cut_off, logged, score_bytes

from mvp_align.config import Model
from mvp_align.scoring.merge import TOLERANCE, merge_adapter

Run = Callable[..., Path]

RUNS = {
    "DoRA, LoRA+, LD-DPO": [
        "lora.use_dora=true",
        "train.loraplus_lr_ratio=4",
        "train.ld_alpha=0.4",
        "+lora.rank_pattern.v_proj=4",
    ],
    "PiSSA, rsLoRA, WPO": [
        "lora.init=pissa_niter_2",
        "lora.use_rslora=true",
        "train.use_weighting=true",
        "train.learning_rate=1e-3",
    ],
}


@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS)
def test_a_run_with_options_is_whole(
    run: Run, finished: Path, sharp_model: Path, tmp_path: Path, words: list[str]
) -> None:
    words = [*words, "run.logp_cache=false"]
    whole = run(tmp_path / "whole", *words)
    cut = cut_off(whole, tmp_path / "cut", 2)
    run(cut, *words)
    assert adapter_bytes(cut) == adapter_bytes(whole)
    assert score_bytes(cut) == score_bytes(whole)
    assert logged(whole)[0]["loss"] != logged(whole)[-2]["loss"]

    # the base is the base, whatever the adapter starts as
    plain, scores = score_bytes(finished), score_bytes(whole)
    for name in plain:
        assert (scores[name] == plain[name]) == name.startswith("base-"), name

    again = run(tmp_path / "again", f"adapter={whole}/adapter", name="evaluate")
    assert score_bytes(again) == scores

    model = Model("sharp", str(sharp_model))
    merged = merge_adapter(model, whole / "adapter", tmp_path / "merged", "fp32")
    assert merged < TOLERANCE["fp32"]
