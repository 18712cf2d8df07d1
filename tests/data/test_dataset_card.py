"""The dataset card is one that the Hub reads, and names the files that `datasets` then loads."""

import re
from pathlib import Path

from datasets import load_dataset
from huggingface_hub import DatasetCard

from mvp_align.data.dataset_card import Described, dataset_card
from mvp_align.data.partition import Wishes
from mvp_align.data.parts import find_parts
from mvp_align.data.split_files import write_split
from mvp_align.data.validation import validate_data

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def card_of(folder: Path, sources: dict[str, str], format: str, described: Described) -> str:
    return dataset_card(validate_data(sources, format), sources, described, folder)


def test_the_hub_reads_it_and_datasets_loads_its_splits(tmp_path: Path) -> None:
    folder = tmp_path / "split"
    written = write_split("sample:train.json", "mvpbench", folder, Wishes(SHARES, 12))
    described = Described("People's values", "cc-by-4.0", ["en"])
    text = card_of(folder, find_parts([str(folder)]), "mvpbench", described)
    (folder / "README.md").write_text(text, encoding="utf-8")
    card = DatasetCard(text)
    assert (card.data.license, card.data.language, card.data.pretty_name) == (
        "cc-by-4.0", ["en"], "People's values",
    )  # fmt: skip
    assert card.data.size_categories == ["1K<n<10K"]
    loaded = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    counts = {part: record.pairs for part, record in written.manifest.parts.items()}
    assert {name: len(rows) for name, rows in loaded.items()} == {
        "train": counts["train"], "validation": counts["val"], "test": counts["test"],
    }  # fmt: skip
    assert "By person, seed 12, shares of the people: train 0.8, val 0.1, test 0.1." in text
    assert f"| train | {counts['train']} | 168 |" in text


def test_what_nobody_said_is_not_said(tmp_path: Path) -> None:
    text = card_of(tmp_path, find_parts(["sample:ufp4"]), "auto", Described("x", None, []))
    data = DatasetCard(text).data
    assert data.license is None and data.language is None and "configs" not in data
    assert "In the format `standard` of mvp-align" in text  # recognised, which was not said either
    assert "No licence is stated here" in text and "## How it was split" not in text


def test_a_record_s_words_stay_in_their_cell(tmp_path: Path) -> None:
    rows = "".join(
        f'{{"prompt": "q{n}", "chosen": "yes", "rejected": "no", "user_id": "u{n}", "x|<b>": 1,'
        f' "profile": {{"dimension": "a|b <script>"}}}}\n'
        for n in range(6)
    )
    (tmp_path / "pairs.jsonl").write_text(rows)
    sources = find_parts([str(tmp_path / "pairs.jsonl")])
    text = card_of(tmp_path, sources, "pairs", Described("a\n# b", None, []))
    assert "<script>" not in text and "# a # b" in text
    (row,) = re.findall(r"^\| a\\\|b &lt;script> \|.*$", text, re.MULTILINE)
    assert row.endswith("| 6 | 6 |")
