"""Edge cases of users' own records: what is read, and what only leads to a note."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from mvp_align.data.readers import read_pairs
from mvp_align.schema import PreferencePair

PAIR = {"prompt": "Q?", "chosen": " yes", "rejected": " no"}


def written(path: Path, *changes: dict[str, Any]) -> str:
    path.write_text(
        "".join(f"{json.dumps({**PAIR, 'prompt': f'Q{n}?', **c})}\n" for n, c in enumerate(changes))
    )
    return str(path)


def read(path: Path, *changes: dict[str, Any]) -> list[PreferencePair]:
    return read_pairs(written(path, *changes), "pairs").pairs


@pytest.mark.parametrize(
    ("name", "delimiter"), [("x.csv", ","), ("x.tsv", "\t"), ("X.CSV.GZ", ",")]
)
def test_tables_are_read_cell_by_cell_as_text(tmp_path: Path, name: str, delimiter: str) -> None:
    rows = [
        ["prompt", "chosen", "rejected", "user_id", "profile"],
        ['"Q, or\r\nnot?"', " yes", "no\u2028", "007", ""],
        [],
        ["P?", "4", "5", "", "Retired."],
    ]
    data = "\ufeff".encode() + "\r\n".join(delimiter.join(row) for row in rows).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("GZ") else data)
    first, second = read_pairs(str(tmp_path / name), "pairs").pairs
    assert (first.question, first.chosen, first.rejected) == ("Q, or\r\nnot?", " yes", "no\u2028")
    assert (first.id, first.user_id, first.profile_text) == (f"{name[0]}-0", "007", "")
    assert (second.question, second.chosen, second.rejected) == ("P?", "4", "5")
    assert second.user_id.startswith("prompt-") and second.profile_text == "Retired."


@pytest.mark.parametrize("extension", [".json.gz", ".jsonl.gz"])
def test_gzipped_files_read_as_the_files_in_them(tmp_path: Path, extension: str) -> None:
    plain = tmp_path / f"own{extension.removesuffix('.gz')}"
    records = [{**PAIR, "user_id": "a"}, {**PAIR, "prompt": "P?"}]
    plain.write_text(
        json.dumps(records) if ".json." in extension else "\n".join(map(json.dumps, records))
    )
    (tmp_path / f"own{extension}").write_bytes(gzip.compress(plain.read_bytes()))
    zipped = read_pairs(str(tmp_path / f"own{extension}"), "pairs")
    assert zipped.pairs == read_pairs(str(plain), "pairs").pairs and len(zipped.pairs) == 2


def test_a_folder_is_read_whole(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", {"user_id": "u"})
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\nP?,yes,no\n")
    (tmp_path / "README.md").write_text("no record")
    pairs = read_pairs(str(tmp_path), "pairs").pairs
    assert [(pair.id, pair.question) for pair in pairs] == [("a-0", "P?"), ("a-0+", "Q0?")]


def test_odd_ids_are_read_exactly(tmp_path: Path) -> None:
    ids = [1.0, 2**64, -5, "a ", "a", "A", "a\0b", 2.0**53 - 1]
    pairs = read(
        tmp_path / "own.jsonl", *({"user_id": name, "id": n} for n, name in enumerate(ids))
    )
    assert [pair.user_id for pair in pairs] == [
        "1", "18446744073709551616", "-5", "a ", "a", "A", "a\0b", "9007199254740991",
    ]  # fmt: skip


def test_a_made_up_id_is_never_one_that_a_record_has(tmp_path: Path) -> None:
    pairs = read(tmp_path / "own.jsonl", {}, {"id": "own-0"}, {"id": "own-0+"}, {})
    assert [pair.id for pair in pairs] == ["own-0++", "own-0", "own-0+", "own-3"]


def test_a_profile_of_texts_and_numbers_is_shown_and_grouped_by(tmp_path: Path) -> None:
    profile = {
        "age": 34,
        "retired": True,
        "income": 12.5,
        "kids": 2.0,
        "job": None,
        "town": " ",
        "birth_country": "Chile",
    }
    (pair,) = read(tmp_path / "own.jsonl", {"profile": profile})
    assert (
        pair.profile_text == "Age: 34, Retired: yes, Income: 12.5, Kids: 2, Birth country: Chile."
    )
    assert pair.groups == {
        "age": "34",
        "retired": "yes",
        "income": "12.5",
        "kids": "2",
        "birth_country": "Chile",
    }
    assert read(tmp_path / "own.jsonl", {"profile": "Old."})[0].groups == {}


def test_keys_that_are_not_read_are_counted_with_what_they_are_like(tmp_path: Path) -> None:
    path = written(
        tmp_path / "own.jsonl",
        {"user_profile": "x", "score": 3},
        {"user_profile": "y", "system": ""},
        {"score": None, "prompt_id": 7},
    )
    found = read_pairs(path, "pairs")
    assert found.unread == {
        "'user_profile' (did you mean 'profile'?)": 2,
        "'score'": 1,
        "'prompt_id'": 1,
    }


def test_the_benchmarks_own_keys_are_known() -> None:
    assert read_pairs("sample:train.json", "mvpbench").unread == {}
    assert read_pairs("sample:ufp4", "ufp4").unread == {}
