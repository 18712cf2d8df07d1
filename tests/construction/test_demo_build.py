"""`make demo-build`: the whole way through `transformers serve`."""

import json
from pathlib import Path

import pytest

from mvp_align.construction.demo import build_demo, smollm2
from mvp_align.data.readers import read_pairs

pytest.importorskip("fastapi", reason="transformers serve needs fastapi and openai")
pytest.importorskip("openai")


def check_demo(out: Path, lines: list[str], conversations: int) -> None:
    summary = json.loads((out / "written" / "build.json").read_text("utf-8"))
    assert summary["finished"]
    replies = sum(row["count"] for row in summary["left_out"]["replies"])
    pairs = sum(row["count"] for row in summary["left_out"]["pairs"])
    assert summary["conversations_written_about"] == conversations
    extra = "beyond the number that was asked for"
    pairs -= sum(r["count"] for r in summary["left_out"]["pairs"] if r["reason"] == extra)
    assert 2 * conversations == summary["records"] + 2 * replies + pairs
    assert replies + pairs > 0, "so small a model wrote nothing but good pairs"
    text = "\n".join(lines)
    for part in ("replies", "pairs"):
        for row in summary["left_out"][part]:
            assert f"{row['count']:,} left out: {row['reason']}" in text
    scored = read_pairs(str(out / "scores" / "records.jsonl"), "mvpbench").pairs
    assert len(scored) == 41


def test_a_random_model_writes_no_pair(tiny_model: Path, tmp_path: Path) -> None:
    lines = build_demo(tiny_model, tmp_path, conversations=2)
    check_demo(tmp_path, lines, 2)
    assert "Not one pair came of it, for the reasons above." in lines


@pytest.mark.slow
@pytest.mark.real_model
def test_smollm2_writes_poor_pairs(tmp_path: Path) -> None:
    lines = build_demo(smollm2(), tmp_path, conversations=3)
    print("\n".join(lines))
    check_demo(tmp_path, lines, 3)
