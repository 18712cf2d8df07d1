"""JSON files and requests never contain NaN or Infinity, and neither is read as a number."""

import ast
import math
from pathlib import Path

import pytest

from mvp_align.errors import UserError
from mvp_align.runtime.json_files import (
    from_json,
    read_json_lines,
    to_json,
    write_json,
    write_json_lines,
)

ROOT = Path(__file__).parents[2]
NO_NUMBERS = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_number_is_not_written(tmp_path: Path, value: float) -> None:
    path = tmp_path / "rows.jsonl"
    write_json_lines(path, [{"value": 1.0}])
    for write in (
        lambda: write_json_lines(path, [{"value": 0.5}, {"value": value}]),
        lambda: write_json(path, {"a": [value]}),
    ):
        with pytest.raises(ValueError, match=r"rows\.jsonl"):
            write()
    assert path.read_text() == '{"value": 1.0}\n'


@pytest.mark.parametrize(
    "text", ["NaN", '{"a": Infinity}', "[-Infinity]", "1e999", '{"a": [0.5, -1e400]}']
)
def test_what_is_no_number_is_not_read(text: str) -> None:
    with pytest.raises(ValueError, match="no JSON number"):
        from_json(text)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"n": 1', r"broken JSON: .*, at character 8"),
        ("", "broken JSON: Expecting value, at character 1"),
        ('{"m": 1}', "field 'n' is missing"),
        ('{"n": "one"}', "invalid literal"),
        ('{"n": NaN}', "NaN is no JSON number"),
        ("[1]", "list indices"),
        ('{"n": "\udcff"}', ".*can't decode byte 0xff"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_what_helps(
    tmp_path: Path, line: str, said: str
) -> None:
    path = tmp_path / "numbers.jsonl"
    path.write_bytes(b'{"n": 3}\n' + line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(UserError, match=rf"numbers\.jsonl, line 2: no count \({said}.*\)\. Count!"):
        read_json_lines(path, lambda one: int(one["n"]), what="count", remedy="Count!")


def test_lines_come_in_order_and_a_missing_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "numbers.jsonl"
    write_json_lines(path, ({"n": n, "text": "a\u2028b"} for n in (3, 1)))
    assert read_json_lines(path, lambda one: one["n"], what="count", remedy="") == [3, 1]
    with pytest.raises(UserError, match=r"other\.jsonl: no such file\. Count!"):
        read_json_lines(tmp_path / "other.jsonl", int, what="count", remedy="Count!")


def test_numbers_and_texts_come_back() -> None:
    value = {"a": [0.1, -0.0, 1e300, 12, None, True], "ä": "NaN", "b": {"Infinity": "-Infinity"}}
    assert from_json(to_json(value)) == value
    assert "ä" in to_json(value)


def test_all_json_is_written_in_one_place_or_as_strictly() -> None:
    """A `json.dumps` that lets NaN pass is the beginning of a file that no other program reads."""
    lenient = []
    # rows of a foreign table, whatever is in their columns
    only_hashed = "mvp_align/data/sources.py"
    for path in (
        p
        for folder in ("mvp_align", "benchmarks", "recipes")
        for p in (ROOT / folder).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if (
                node.func.attr not in ("dump", "dumps")
                or getattr(node.func.value, "id", "") != "json"
            ):
                continue
            strict = any(
                word.arg == "allow_nan" and getattr(word.value, "value", True) is False
                for word in node.keywords
            )
            if not strict:
                lenient.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert [place for place in lenient if not place.startswith(only_hashed)] == []
