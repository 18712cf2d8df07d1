"""Invalid records: messages name the file, the row or line, the field, and a remedy."""

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from public_forms import FORMS, SUBJECTS, Ask, PublicForm

from mvp_align.data.formats import FORMATS
from mvp_align.data.readers import read_pairs
from mvp_align.errors import UserError
from mvp_align.schema import DIMENSIONS

SCORES: dict[str, Any] = dict.fromkeys(DIMENSIONS, 50)
TEXTS = (
    "question",
    "answer_w",
    "answer_l",
    "user_id",
    "age",
    "gender",
    "employment_status",
    "education",
)
MVPBENCH = {name: name for name in (*TEXTS, "id", "marital_status", "birth_country")} | {
    "stated_prefs": SCORES
}
PAIR = {"prompt": "Why?", "chosen": "Because.", "rejected": "Dunno."}
TURN = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
ABSENT = object()


def changed(record: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**record, **changes}.items() if value is not ABSENT}


def message(source: Path, format: str, limit: int | None = None) -> str:
    with pytest.raises(UserError) as caught:
        read_pairs(str(source), format, limit)
    return str(caught.value)


RECORDS = [
    ("pairs", changed(PAIR, chosen=ABSENT), "chosen", "missing", "add it"),
    ("pairs", changed(PAIR, prompt=None), "prompt", "missing or null", "add it"),
    ("pairs", changed(PAIR, prompt=" \n"), "prompt", "blank", "write the text"),
    ("pairs", changed(PAIR, rejected=5), "rejected", "5 where a text belongs", "in quotes"),
    (
        "pairs",
        changed(PAIR, chosen=["Because."]),
        "chosen",
        "a list where a text belongs",
        "write one text",
    ),
    (
        "pairs",
        changed(PAIR, user_id=float("nan")),
        "user_id",
        "nan where a text belongs",
        "leave the key out",
    ),
    (
        "pairs",
        changed(PAIR, profile=float("nan")),
        "profile",
        "nan where a text belongs",
        "leave the key out",
    ),
    ("pairs", changed(PAIR, user_id=1e300), "user_id", "1e+300 where a text belongs", "in quotes"),
    (
        "pairs",
        changed(PAIR, profile={"age": float("nan")}),
        "profile",
        "NaN at 'age'",
        "leave the key out",
    ),
    (
        "pairs",
        changed(PAIR, profile={"age,sex": "x"}),
        "profile",
        "the key 'age,sex'",
        "take the comma out",
    ),
    (
        "pairs",
        changed(PAIR, system="Be brief."),
        "system",
        "not shown to the model",
        "put its text into the prompt",
    ),
    (
        "ufp4",
        changed(PAIR, history=[{"a": 1}]),
        "history",
        "not shown to the model",
        "take the key out",
    ),
    ("pairs", changed(PAIR, rejected=" Because.\n"), "rejected", "same as 'chosen'", "correct one"),
    ("pairs", changed(PAIR, user_id=""), "user_id", "blank", "write the text"),
    ("pairs", changed(PAIR, user_id=True), "user_id", "True where a text belongs", "in quotes"),
    ("pairs", changed(PAIR, id=1.5), "id", "1.5 where a text belongs", "in quotes"),
    (
        "pairs",
        changed(PAIR, profile={"jobs": ["nurse"]}),
        "profile",
        "a list at 'jobs'",
        "write a text or a number",
    ),
    (
        "pairs",
        changed(PAIR, profile=["old"]),
        "profile",
        "a list where a text belongs",
        "write one text",
    ),
    ("pairs", changed(PAIR, chosen="\ud800"), "chosen", "surrogate", "write the text again"),
    (
        "ufp4",
        changed(PAIR, profile={"age": "31"}),
        "profile",
        "an object where a text belongs",
        "write one text",
    ),
    (
        "pairs",
        changed(PAIR, profile={"likes": "\udfff"}),
        "profile",
        "surrogate",
        "write the text again",
    ),
    (
        "ufp4",
        changed(PAIR, prompt="a\ud800"),
        "prompt",
        "surrogate pair at character 1",
        "write the text again",
    ),
    ("ufp4", changed(PAIR, rejected=""), "rejected", "blank", "leave the record out"),
    ("mvpbench", changed(MVPBENCH, answer_w=ABSENT), "answer_w", "missing", "add it"),
    (
        "mvpbench",
        changed(MVPBENCH, answer_l="answer_w "),
        "answer_l",
        "same as 'answer_w'",
        "correct one",
    ),
    ("mvpbench", changed(MVPBENCH, id=ABSENT), "id", "missing", "add it"),
    (
        "mvpbench",
        changed(MVPBENCH, birth_country=ABSENT),
        "birth_country/region",
        "missing",
        "add it",
    ),
    ("mvpbench", changed(MVPBENCH, age=""), "age", "blank", "write the text"),
    ("mvpbench", changed(MVPBENCH, age=30), "age", "30 where a text belongs", "in quotes"),
    ("mvpbench", changed(MVPBENCH, stated_prefs=ABSENT), "stated_prefs", "missing", "add it"),
    (
        "mvpbench",
        changed(MVPBENCH, stated_prefs="High safety."),
        "stated_prefs",
        "a text where an object",
        "scores as {",
    ),
    (
        "mvpbench",
        changed(MVPBENCH, dimension="honesty"),
        "dimension",
        "'honesty'",
        "use one of creativity",
    ),
    *[
        (
            "mvpbench",
            changed(MVPBENCH, stated_prefs=changed(SCORES, safety=score)),
            "stated_prefs.safety",
            *words,
        )
        for score, *words in [
            (ABSENT, "missing", "add it"),
            (101, "is 101", "from 0 to 100"),
            (-1, "is -1", "from 0 to 100"),
            (55.5, "is 55.5", "whole number"),
            (float("nan"), "is nan", "whole number"),
            ("80", "is a text", "without quotes"),
            (True, "is True", "whole number"),
            (None, "is null", "whole number"),
            (10**30, "is 1000", "from 0 to 100"),
        ]
    ],
]


@pytest.mark.parametrize("extension", [".json", ".jsonl"])
@pytest.mark.parametrize(("format", "record", "field", "wrong", "remedy"), RECORDS)
def test_a_wrong_field(
    tmp_path: Path,
    extension: str,
    format: str,
    record: dict[str, Any],
    field: str,
    wrong: str,
    remedy: str,
) -> None:
    good = changed(MVPBENCH, id="first") if format == "mvpbench" else PAIR
    path = tmp_path / f"bad{extension}"
    text = (
        json.dumps([good, record])
        if extension == ".json"
        else f"{json.dumps(good)}\n\n{json.dumps(record)}\n"
    )
    path.write_text(text)
    said = message(path, format)
    place = "row 1" if extension == ".json" else "line 3"
    assert f"{path} {place}, field '{field}': " in said
    assert wrong in said and remedy in said
    assert "1 problem " in said and said.count("field '") == 1


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        (
            "a.json",
            '[{"prompt": "x",\n oops}]',
            ("a.json line 2, column 2: broken JSON", "mend it there"),
        ),
        (
            "a.json",
            '{"prompt": "x"}\n{"prompt": "y"}',
            ("a.json line 2, column 1", "one object a line is named .jsonl"),
        ),
        ("a.json", '{"a": 1}', ("a.json: the top level is an object, not a list", "use .jsonl")),
        ("a.json", '"text"', ("a.json: the top level is a text, not a list", "between [ and ]")),
        ("a.json", "[]", ("a.json: holds no records", "give a file with records")),
        ("a.json", " \n", ("a.json: the file is empty", "leave it out")),
        (
            "a.json",
            '[["x"]]',
            ("a.json row 0: is a list where an object belongs", "write the record as {"),
        ),
        (
            "a.json",
            '["x"]',
            ("a.json row 0: is a text where an object belongs", "write the record as {"),
        ),
        (
            "a.json",
            "[null]",
            ("a.json row 0: is null where an object belongs", "write the record as {"),
        ),
        ("a.json", "[" * 100_000, ("a.json line 1: JSON that cannot be read", "give a list")),
        ("a.json", f"[{'9' * 5000}]", ("a.json line 1: JSON that cannot be read", "give a list")),
        (
            "a.jsonl",
            '\n{"prompt": oops}',
            ("a.jsonl line 2, column 12: broken JSON", "one whole object on each line"),
        ),
        (
            "a.jsonl",
            "[1]",
            ("a.jsonl line 1: is a list where an object belongs", "write the record as {"),
        ),
        (
            "a.jsonl",
            b"ab\n\xe9",
            ("a.jsonl line 2: byte 0xe9 is not UTF-8", "save the file as UTF-8"),
        ),
        (
            "a.json",
            '["é"]'.encode("latin-1"),
            ("a.json line 1: byte 0xe9", "Windows-1252, much like Latin-1, it is 'é'"),
        ),
        (
            "a.json",
            '["é"]'.encode("utf-16"),
            ("a.json: is UTF-16 text, not UTF-8", "save the file as UTF-8"),
        ),
        (
            "a.jsonl",
            '["é"]'.encode("utf-16-le"),
            ("a.jsonl: is UTF-16 text, not UTF-8", "save the file as UTF-8"),
        ),
        (
            "a.csv",
            "é,b".encode("utf-32"),
            ("a.csv: is UTF-32 text, not UTF-8", "save the file as UTF-8"),
        ),
        ("a.json", gzip.compress(b"[]", mtime=0), ("a.json: is gzipped", "name it .gz")),
        ("a.csv", b"PK\x03\x04\xff\xfe", ("a.csv: is a ZIP archive", "unpack it")),
        (
            "a.json.gz",
            gzip.compress(b"[1]", mtime=0)[:-9],
            ("a.json.gz: cannot be unpacked", "compress it again"),
        ),
        (
            "a.json.gz",
            gzip.compress(b" ", mtime=0),
            ("a.json.gz: the file is empty", "leave it out"),
        ),
        (
            "a.json",
            '{"train": [], "test": []}',
            ("a.json: the top level is an object", "'train' or 'test' alone"),
        ),
        (
            "a.jsonl",
            '[\n {"prompt": 1}\n]',
            ("a.jsonl line 1: holds one list", "name the file .json"),
        ),
        (
            "a.jsonl",
            '[{"prompt": 1},\n{"prompt": 2}]',
            ("a.jsonl line 1: holds one list", "name the file .json"),
        ),
        (
            "a.jsonl",
            '{\n "prompt": 1\n}',
            ("a.jsonl line 1: holds records that go over several", "on one line"),
        ),
        (
            "a.jsonl",
            '{"id": 1, "id": 2}',
            ("a.jsonl line 1: an object has the key 'id' twice", "leave one"),
        ),
        (
            "a.csv",
            "prompt,chosen,prompt\n",
            ("a.csv line 1: names 'prompt' more than once", "a name of its own"),
        ),
        (
            "a.csv",
            "prompt;chosen;rejected\n",
            ("a.csv line 1: names one column", "separate columns by commas"),
        ),
        (
            "a.tsv",
            "prompt,chosen,rejected\n",
            ("a.tsv line 1: names one column", "separate columns by tabs"),
        ),
        (
            "a.csv",
            'a,b\n"x\ny",z\nx,y,z\n',
            ("a.csv line 4: has 3 cells where line 1 names 2", "in double quotes"),
        ),
        ("a.csv", 'a,b\n"x\n', ("a.csv: is no readable table", "mend the quotes")),
        ("a.csv", "prompt,chosen,rejected\n", ("a.csv: holds no records", "leave it out")),
        ("a.parquet", "PAR1", ("a.parquet: is not a readable Parquet file", "write it again")),
        (
            "a.xlsx",
            "x",
            (
                "a.xlsx: cannot read the extension '.xlsx'",
                "a .json, .jsonl, .csv, .tsv or .parquet file",
            ),
        ),
        (
            "folder/a.txt",
            "{}",
            ("folder: this folder holds no file that can be read", "name a .json"),
        ),
        ("folder/a.json", "[]", ("folder/a.json: holds no records", "give a file with records")),
    ],
)
def test_a_wrong_file(
    tmp_path: Path, name: str, content: str | bytes, parts: tuple[str, str]
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    said = message(path.parent if name.startswith("folder") else path, "pairs")
    assert f"{tmp_path}/{parts[0]}" in said and parts[1] in said


def test_no_such_file_names_a_near_one(tmp_path: Path) -> None:
    (tmp_path / "DVB-test.json").write_text("[]")
    said = message(tmp_path / "DVB-tset.json", "mvpbench")
    assert "DVB-tset.json: no such file or folder" in said and "correct the path" in said
    assert f"Did you mean {tmp_path / 'DVB-test.json'}?" in said


def test_unknown_format_lists_the_known_and_names_the_nearest(tmp_path: Path) -> None:
    said = message(tmp_path, "mvpbnch")
    known = ", ".join(("auto", *FORMATS))
    assert said == f"data.format=mvpbnch: must be one of {known}. Did you mean mvpbench?"


def test_a_limit_of_none_at_all_is_refused(tmp_path: Path) -> None:
    assert message(tmp_path, "pairs", limit=0) == "data.limit=0: must be above 0."


def test_records_of_another_format_are_recognised(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([PAIR] * 50))
    said = message(path, "mvpbench")
    assert (
        "a.json row 0, field 'question'" in said
        and "set data.format=standard or data.format=pairs or data.format=ufp4." in said
    )
    path.write_text(json.dumps([MVPBENCH]))
    assert "set data.format=mvpbench." in message(path, "ufp4")


def test_one_id_for_two_contents_names_both_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps([MVPBENCH, changed(MVPBENCH, id="b"), changed(MVPBENCH, question="another")])
    )
    said = message(path, "mvpbench")
    assert f"{path} row 2, field 'id': 'id' is also the id of {path} row 0" in said
    assert "give each record its own id" in said


def test_all_problems_of_all_files_come_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        json.dumps([changed(PAIR, prompt="", chosen=3), PAIR, changed(PAIR, rejected=None)])
    )
    (tmp_path / "b.json").write_text("[oops")
    (tmp_path / "c.json").write_text(json.dumps([{}] * 30))
    said = message(tmp_path, "pairs")
    assert "has 94 problems (read as data.format=pairs)" in said
    for place in (
        "b.json line 1, column 2",
        "a.json row 0, field 'prompt'",
        "a.json row 0, field 'chosen'",
        "a.json row 2",
    ):
        assert place in said
    assert len(said.splitlines()) == 22 and "and 74 more" in said


def test_a_broken_line_does_not_hide_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'oops\n{json.dumps(PAIR)}\n{{"prompt": "x", "chosen": "y"}}\n')
    said = message(path, "pairs")
    assert "line 1, column 1" in said and "line 3, field 'rejected'" in said


def test_all_problems_of_one_record_come_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([changed(PAIR, rejected="Because.", prompt="", user_id=[])]))
    said = message(path, "pairs")
    assert [said.count(f"row 0, field '{name}'") for name in ("prompt", "rejected", "user_id")] == [
        1,
        1,
        1,
    ]


def test_parquet_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame([PAIR, changed(PAIR, chosen=None)]).to_parquet(path)
    assert f"{path} row 1, field 'chosen': is missing or null; add it" in message(path, "pairs")


@pytest.mark.parametrize("form", FORMS, ids=[form.name for form in FORMS])
def test_another_tools_form_is_said_once(tmp_path: Path, form: PublicForm) -> None:
    source, _ = form.write_rows(tmp_path, list(map(Ask, SUBJECTS)))
    said = message(Path(source), "mvpbench")
    assert len(said.splitlines()) == 1 and "in quotes" not in said
    if form.columns:
        assert "They hold query, best, worst." in said
        assert "'data.columns={prompt: query, chosen: best, rejected: worst}'" in said
    else:
        assert "data.format=mvpbench reads question, answer_w, answer_l" in said
        assert f"set data.format={form.format}" in said


@pytest.mark.parametrize("format", ["pairs", "auto", "mvpbench"])
def test_unpaired_data_are_said_once(tmp_path: Path, format: str) -> None:
    path = tmp_path / "a.jsonl"
    record = {"prompt": "Why?", "completion": "So.", "label": True}
    path.write_text(f"{json.dumps(record)}\n" * 30)
    said = message(path, format)
    assert "unpaired" in said and "one record with 'prompt'" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("format", ["pairs", "auto", "standard"])
def test_a_renamed_column_is_refused_by_name(tmp_path: Path, format: str) -> None:
    path = tmp_path / "a.jsonl"
    records = [{"prompt": f"{n}?", "chosen": "So.", "worst": "No."} for n in range(30)]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    said = message(path, format)
    assert "They hold prompt, chosen, worst." in said and len(said.splitlines()) == 1
    assert "'data.columns={rejected: worst}'" in said
    read = read_pairs(str(path), format, columns={"rejected": "worst"})
    assert [pair.rejected for pair in read.pairs] == ["No."] * 30


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"chosen": "wrst"}, "takes 'chosen' from 'wrst', which no record has. They hold prompt,"),
        ({"choosen": "worst"}, "fills 'choosen', which data.format=pairs does not read"),
    ],
)
def test_columns_that_are_not_there_are_refused(
    tmp_path: Path, columns: dict[str, str], told: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{**PAIR, "worst": "No."}]))
    with pytest.raises(UserError) as caught:
        read_pairs(str(path), "pairs", columns=columns)
    assert told in str(caught.value) and "Did you mean" in str(caught.value)


def test_two_columns_can_be_exchanged(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([PAIR]))
    exchanged = {"chosen": "rejected", "rejected": "chosen"}
    (pair,) = read_pairs(str(path), "pairs", columns=exchanged).pairs
    assert (pair.chosen, pair.rejected) == ("Dunno.", "Because.")


LEFT_OUT = [
    ({"rejected": [TURN[0], {"role": "assistant", "content": " "}]}, "an answer is blank"),
    ({"rejected": TURN}, "both answers say the same"),
    (
        {"rejected": [{"role": "user", "content": "What?"}, TURN[1]]},
        "the two conversations part before the last reply",
    ),
    (
        {"rejected": [TURN[0], {"role": "tool", "content": "7"}]},
        "a message is of role 'tool', which is not read",
    ),
    ({"prompt": "How?"}, "its prompt is not what its conversations begin with"),
    (
        {"rejected": [TURN[0], {**TURN[1], "content": [{"type": "image"}]}]},
        "a message holds a part of type 'image', which is not read",
    ),
]


@pytest.mark.parametrize(("changes", "reason"), LEFT_OUT, ids=[reason for _, reason in LEFT_OUT])
def test_a_record_of_a_public_file_that_is_no_pair_is_counted(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    good = {"chosen": TURN, "rejected": [TURN[0], {"role": "assistant", "content": "No."}]}
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in (good, {**good, **changes})))
    read = read_pairs(str(path), "auto")
    assert (len(read.pairs), read.records, read.left_out) == (1, 2, {reason: 1})
    path.write_text(f"{json.dumps({**good, **changes})}\n" * 3)
    assert f"none of 3 records makes a pair (read as data.format=conversational): {reason}" in (
        message(path, "auto")
    )


def test_a_folder_of_saved_splits_names_them(tmp_path: Path) -> None:
    rows = Dataset.from_list([PAIR])
    DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "saved")
    assert "holds the splits test, train; name one's folder" in message(tmp_path / "saved", "auto")
    assert len(read_pairs(str(tmp_path / "saved" / "train"), "auto").pairs) == 1
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "data").mkdir()
    rows.to_parquet(tmp_path / "outer" / "data" / "x.parquet")
    assert "name one of its folders that does: data." in message(tmp_path / "outer", "auto")


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("userid", "user_id"),
        ("userId", "user_id"),
        ("user", "user_id"),
        ("uid", "user_id"),
        ("profiles", "profile"),
        ("ID", "id"),
    ],
)
def test_a_misspelt_key_is_refused_once_with_the_known_one(
    tmp_path: Path, key: str, near: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f"{json.dumps({**PAIR, key: str(n)})}\n" for n in range(12)))
    said = message(path, "pairs")
    assert (
        f"{path} line 1, field '{key}': is not read; did you mean '{near}'? Rename it, or take"
        " it out" in said
    )
    assert "1 problem " in said and "(so in 12 records)" in said


def test_a_misspelt_key_of_a_benchmark_record_is_named_beside_the_missing_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([changed(MVPBENCH, user_id=ABSENT, UserID="u")]))
    said = message(path, "mvpbench")
    assert (
        "field 'user_id': is missing" in said
        and "field 'UserID': is not read; did you mean 'user_id'?" in said
    )
