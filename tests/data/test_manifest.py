"""A split's files hold every record, and training checks them against their manifest."""

import json
import shutil
from pathlib import Path

import pytest

from mvp_align.config import Config
from mvp_align.data.formats import FORMATS
from mvp_align.data.load import load_data
from mvp_align.data.manifest import MANIFEST, read_manifest
from mvp_align.data.partition import Wishes
from mvp_align.data.parts import find_parts
from mvp_align.data.readers import read_pairs
from mvp_align.data.split_files import split_lines, write_split
from mvp_align.data.validation import validate_data
from mvp_align.errors import UserError

WISHES = Wishes({"train": 0.8, "val": 0.1, "test": 0.1}, 12)
SAMPLE = "sample:train.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_split(SAMPLE, "mvpbench", tmp_path / "split", WISHES)
    return tmp_path / "split"


def config_of(train: Path | None, test: Path | None = None) -> Config:
    config = Config(recipe="lora_dpo")
    config.data.train, config.data.test = (str(path) if path else None for path in (train, test))
    return config


def test_every_record_is_in_one_part_as_it_was(folder: Path) -> None:
    rows = [
        json.loads(line)
        for part in WISHES.shares
        for line in (folder / f"{part}.jsonl").read_text("utf-8").splitlines()
    ]
    root = Path(__file__).parents[2] / "mvp_align" / "data" / "sample"
    source = json.loads((root / "train.json").read_text("utf-8"))
    assert sorted(rows, key=lambda row: row["id"]) == sorted(source, key=lambda row: row["id"])
    manifest = read_manifest(folder / MANIFEST)
    assert manifest.source_sha256 == read_pairs(SAMPLE, "mvpbench").sha256
    assert sum(part.pairs for part in manifest.parts.values()) == manifest.records == 1155
    assert sum(len(part.people) for part in manifest.parts.values()) == 210


def test_a_split_is_trained_on_with_a_note(folder: Path) -> None:
    data = load_data(config_of(folder / "train.jsonl", folder / "test.jsonl"))
    assert any("the part 'train' of" in note and "unchanged" in note for note in data.notes)
    assert len(data.train) + len(data.test) < 1155


def test_a_test_person_in_training_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"21 people of the test part of .* are in data.train"):
        load_data(config_of(folder / "test.jsonl"))
    lines = (folder / "train.jsonl").read_text().splitlines(keepends=True)
    lines += (folder / "test.jsonl").read_text().splitlines(keepends=True)[:1]
    (folder / "more.jsonl").write_text("".join(lines))
    with pytest.raises(
        UserError, match=r"1 people of the test part .* are in data.train: synthetic"
    ):
        load_data(config_of(folder / "more.jsonl"))
    with pytest.raises(UserError, match=r"are in data\.train"):
        load_data(config_of(folder / "more.jsonl", folder / "val.jsonl"))


def test_a_changed_part_is_refused(folder: Path) -> None:
    path = folder / "train.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(UserError, match=r"train\.jsonl is not what the split wrote"):
        load_data(config_of(path))
    found = validate_data(find_parts([str(folder)]), "mvpbench", accepted=["pairs in two parts"])
    assert [c.part for c in found.checks if (c.check, c.outcome) == ("manifest", "fail")] == [
        "train"
    ]
    shutil.copy(path, folder.parent / "own.jsonl")
    load_data(config_of(folder.parent / "own.jsonl"))  # no part of a split any more


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"seed": NaN}', '{"parts": 3}'])
def test_a_damaged_manifest_is_told(folder: Path, content: str) -> None:
    (folder / MANIFEST).write_text(content)
    with pytest.raises(UserError, match="no readable manifest"):
        load_data(config_of(folder / "train.jsonl"))


def test_files_named_after_user_types_keep_their_names(tmp_path: Path) -> None:
    write_split("sample:ufp4", "ufp4", tmp_path / "split", WISHES)
    found = read_pairs(str(tmp_path / "split" / "train"), "ufp4").pairs
    assert {pair.groups["user_type"] for pair in found} == set(FORMATS["ufp4"].user_types)
    alone = "sample:ufp4/honesty.json"
    write_split(alone, "ufp4", tmp_path / "one", Wishes({"train": 0.5, "test": 0.5}, 1))
    assert (tmp_path / "one" / "train" / "honesty.jsonl").is_file()


def test_pairs_of_others_in_training_are_told(tmp_path: Path) -> None:
    made = write_split(SAMPLE, "mvpbench", tmp_path / "split", WISHES)
    lines = "\n".join(split_lines(tmp_path / "split", made))
    assert f"test: {made.seen['test']} pairs are in train, too" in lines and made.seen["test"] > 0
    apart = Wishes(WISHES.shares, 12, ("question",))
    made = write_split(SAMPLE, "mvpbench", tmp_path / "apart", apart)
    assert set(made.seen.values()) == {0}
    kept = sum(part.pairs for part in made.manifest.parts.values())
    assert kept + sum(made.manifest.left_out.values()) == made.manifest.records
    assert f"left out: {1155 - kept} of 1,155" in "\n".join(split_lines(tmp_path, made))


def test_repeated_records_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        {"id": f"r{n}", "prompt": f"q{n}", "chosen": "a", "rejected": "b", "user_id": f"u{n}"}
        for n in range(10)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [rows[0], *rows]))
    made = write_split(str(path), "pairs", tmp_path / "split", WISHES)
    assert sum(made.manifest.left_out.values()) == 1
    assert sum(part.pairs for part in made.manifest.parts.values()) == 10


def test_nothing_is_left_of_a_split_that_fails(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"q{n}", "chosen": "a", "rejected": "b", "user_id": f"u{n}", "more": "x"}
        for n in range(10)
    ]
    path = tmp_path / "pairs.jsonl"
    lines = [json.dumps(row) for row in rows]
    lines[4] = lines[4].replace('"x"', "NaN")
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"line 5: cannot be written as JSON"):
        write_split(str(path), "pairs", tmp_path / "split", WISHES)
    assert [entry.name for entry in tmp_path.iterdir()] == ["pairs.jsonl"]
    (tmp_path / "split").mkdir()
    with pytest.raises(UserError, match="exists already"):
        write_split(SAMPLE, "mvpbench", tmp_path / "split", WISHES)
