"""Tables of every kind give the same rows, and what is wrong with one is told with its place."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from population_rows import conversation, person

from mvp_align.construction.people import read_people
from mvp_align.construction.population import Population, read_population
from mvp_align.construction.tables import scan_table, table_rows
from mvp_align.errors import UserError

COLUMNS = {"who": "user_id", "safety": "stated_prefs.safety", "turns": "turns"}
LISTS = {"turns": ("role", "content", "score")}
ROWS: list[dict[str, Any]] = [
    {"user_id": "a\u2028é", "stated_prefs": {"safety": 95}, "turns": [
        {"role": "user", "content": "Hi, \"you\"\nthere", "score": None},
        {"role": "model", "content": "Yo", "score": 88.5},
    ]},
    {"user_id": "b", "stated_prefs": {"safety": None}, "turns": []},
]  # fmt: skip


def rows(path: Path) -> list[dict[str, Any]]:
    found = [*table_rows(scan_table(path, COLUMNS, LISTS), path)]
    for row in found:
        row["turns"] = [dict(turn) for turn in row["turns"] or []]
    return found


def test_all_kinds_give_the_same_rows(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "t.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    flat = pl.DataFrame(
        {
            "user_id": [row["user_id"] for row in ROWS],
            "stated_prefs.safety": [row["stated_prefs"]["safety"] for row in ROWS],
            "turns": [json.dumps(row["turns"]) for row in ROWS],
        }
    )
    flat.write_csv(tmp_path / "t.csv")
    flat.write_csv(tmp_path / "t.tsv", separator="\t")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress((tmp_path / "t.csv").read_bytes()))
    pl.DataFrame(ROWS).write_parquet(tmp_path / "t.parquet")
    wanted = rows(tmp_path / "t.jsonl")
    assert [row["who"] for row in wanted] == ["a\u2028é", "b"]
    assert [row["safety"] for row in wanted] == ["95", None]
    assert wanted[0]["turns"][0]["content"] == 'Hi, "you"\nthere'
    for name in ("t.jsonl.gz", "t.csv", "t.csv.gz", "t.tsv", "t.parquet"):
        found = rows(tmp_path / name)
        for row in found:  # parquet keeps numbers
            row["turns"] = [
                {key: value and str(value) for key, value in turn.items()} for turn in row["turns"]
            ]
        assert found == wanted, name


def test_the_order_is_the_file_s(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(f'{{"user_id": {number}}}\n' for number in range(20_000)))
    found = [row["who"] for row in table_rows(scan_table(path, {"who": "user_id"}, {}), path)]
    assert found == [str(number) for number in range(20_000)]


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ('{"user_id": "c"', ", line 3"),
        ("[1, 2]", ", line 3"),
        ('{"user_id": NaN, "stated_prefs": {}}{', ", line 3"),
        ('{"user_id": "c", "stated_prefs": "none"}', ""),
        ('{"user_id": "c", "turns": {"role": "user"}}', ""),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, place: str) -> None:
    path = tmp_path / "t.jsonl"
    text = "".join(json.dumps(row) + "\n" for row in ROWS) + line + "\n"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"t.jsonl{place}: cannot be read"):
        rows(path)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS * 500).encode())
    for content in (whole[: len(whole) // 2], b"\x1f\x8bnothing", whole[:20] + b"x" + whole[21:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"t\.jsonl\.gz.*cannot be read"):
            rows(path)


def test_a_column_is_a_text_or_an_object(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": {"b": 1}, "c.d": 2}\n')
    for columns in ({"x": "a", "y": "a.b"}, {"y": "a.b", "x": "a"}):
        with pytest.raises(UserError, match="a cannot be both a text and an object"):
            scan_table(path, columns, {})
    with pytest.raises(UserError, match=r"x: c\.d: there is no such column"):
        scan_table(path, {"x": "c.d"}, {})


def test_a_column_that_is_not_there_is_refused(write_population: Callable[..., Population]) -> None:
    own = write_population(
        [person("a")],
        [conversation("c", "a")],
        person={"gender": "gendr", "birth_country": "location.born", "system_string": None},
    )
    with pytest.raises(UserError) as refused:
        read_people(own)
    said = str(refused.value)
    assert "gender: gendr: there is no such column. Did you mean gender?" in said
    assert "birth_country: location.born: there is no such column." in said
    assert "system_string" not in said


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match=r"t\.xlsx: a table has to be \.jsonl, \.csv"):
        rows(path)


def test_populations_are_found_by_name_and_by_file(
    write_population: Callable[..., Population], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = write_population([person("a")], [conversation("c", "a")], turn={"score": None})
    assert read_population(str(tmp_path / "own.yaml")) == own
    assert read_population("sample").survey == "sample:survey.jsonl"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"survey: \./data/PRISM/survey\.jsonl is no file"):
        read_population("prism")
    with pytest.raises(UserError, match=r"prsm: no such population.*Did you mean prism\?"):
        read_population("prsm")
    (tmp_path / "own.yaml").write_text("survey: a.jsonl\nconversations: b.jsonl\npeople: {}\n")
    with pytest.raises(UserError, match="no setting people"):
        read_population("own.yaml")
