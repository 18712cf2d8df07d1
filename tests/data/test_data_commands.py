"""`mvp-align data validate`, `split` and `card`: exit codes, files, damaged input."""

import html
import json
import subprocess
import sys
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mvp_align.cli import app
from mvp_align.data.readers import read_pairs
from mvp_align.data.sources import sample_root
from mvp_align.errors import UserError

TEST = "sample:test.json"
DAMAGED = {
    "mvpbench": sample_root().joinpath("test.json").read_bytes()[:6000],
    "ufp4": sample_root().joinpath("ufp4").joinpath("honesty.json").read_bytes()[:6000],
    "pairs": b"".join(
        json.dumps(
            {"prompt": f"q{n % 7}", "chosen": "yes", "rejected": "no", "user_id": f"u{n % 9}"}
        ).encode()
        + b"\n"
        for n in range(40)
    ),
}


def run(*words: object) -> tuple[int, str, str]:
    """The exit code, what was printed, and a mistake's message."""
    result = CliRunner().invoke(app, ["data", *map(str, words)])
    if isinstance(result.exception, UserError):
        return 2, result.stdout, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_json_table_and_page_tell_the_same(tmp_path: Path) -> None:
    code, printed, _ = run("validate", TEST, "--json", "--html", tmp_path / "page.html")
    found = json.loads(printed)
    assert code == 0 and found["passed"] and found["parts"][0]["pairs"] == 208
    page = (tmp_path / "page.html").read_text("utf-8")
    code, table, _ = run("validate", TEST)
    for text in (page, table):
        count = len(found["checks"])
        assert f"Passed: 0 of {count} checks failed, 0 are worth a look." in text
        for check in found["checks"]:
            assert check["check"] in text
    assert "<script" not in page and "http" not in page


def test_text_of_records_is_no_markup(tmp_path: Path) -> None:
    row = {"prompt": "q", "chosen": "yes", "rejected": "no", "<script>alert(1)</script>": "[/b]"}
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row | {"user_id": f"u{n}"}) + "\n" for n in range(6)))
    code, table, _ = run("validate", path, "--format", "pairs", "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert code == 0 and "&lt;script&gt;" in page and "<script" not in page
    assert "<script>" in table.replace("\n", "")


def test_columns_of_other_names_are_named_and_split_under_ours(tmp_path: Path) -> None:
    rows = [
        {"task": f"q{n}", "best": "yes", "worst": "no", "user_id": f"u{n}", "note": n}
        for n in range(9)
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    renamed = [f"--column={pair}" for pair in ("prompt=task", "chosen=best", "rejected=worst")]
    code, table, _ = run("validate", path)
    assert code == 1 and "data.columns" not in table
    assert "--column 'prompt=...' --column 'chosen=best'" in " ".join(table.split())
    code, printed, _ = run("validate", path, *renamed, "--json")
    assert code == 0 and json.loads(printed)["parts"][0]["pairs"] == 9
    assert run("split", path, tmp_path / "split", *renamed)[0] == 0
    written = [
        json.loads(line)
        for part in sorted((tmp_path / "split").glob("*.jsonl"))
        for line in part.read_text().splitlines()
    ]
    expected = [
        {"prompt": row["task"], "chosen": "yes", "rejected": "no"}
        | {"user_id": row["user_id"], "note": row["note"]}
        for row in rows
    ]
    assert sorted(written, key=lambda row: row["note"]) == expected
    code, _, message = run("split", path, tmp_path / "other", *renamed[1:], "--column=prompt=tusk")
    assert code == 2 and "--column takes 'prompt' from 'tusk'" in message
    assert "Did you mean 'task'?" in message
    for wrong, said in [(["prompt"], "must be OURS=THEIRS"), (["a=b", "a=c"], "already")]:
        code, _, message = run("validate", path, *(f"--column={word}" for word in wrong))
        assert code == 2 and said in message


def test_a_split_counts_what_its_source_leaves_out(tmp_path: Path) -> None:
    rows = [
        {"chosen": f"Human: q{n}\n\nAssistant: yes", "rejected": f"Human: q{n}\n\nAssistant: no"}
        for n in range(8)
    ]
    rows[3]["chosen"] = "q3"
    path = tmp_path / "dialogues.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, printed, _ = run("split", path, tmp_path / "split", "--format", "hh_rlhf")
    assert code == 0
    manifest = json.loads((tmp_path / "split" / "split.manifest").read_text())
    assert sum(part["pairs"] for part in manifest["parts"].values()) == len(rows) - 1
    assert manifest["records"] == len(rows) and sum(manifest["left_out"].values()) == 1
    assert f"left out: 1 of {len(rows)} records" in printed


def test_half_a_character_in_the_name_of_a_key_is_shown_escaped(tmp_path: Path) -> None:
    row = '{"prompt": "q%d", "chosen": "yes", "rejected": "no", "user_id": "u%d", "\\ud800": 1}\n'
    path = tmp_path / "train.jsonl"
    path.write_text("".join(row % (n, n) for n in range(9)))
    page = tmp_path / "page.html"
    code, printed, _ = run("validate", path, "--format", "pairs", "--json", "--html", page)
    assert code == 0 and r"'\\ud800' of 9 not read" in printed
    assert r"'\ud800' of 9 not read" in html.unescape(page.read_text("utf-8"))
    code, _, message = run("split", path, tmp_path / "split", "--format", "pairs")
    assert code == 2 and "line 1: cannot be written as JSON" in message
    assert not (tmp_path / "split").exists()


def test_a_failure_exits_with_1_and_a_mistake_with_2(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"prompt": "q"}\n')
    code, table, _ = run("validate", tmp_path / "train.jsonl", "--format", "pairs")
    assert code == 1 and "Failed: 1 of 1" in table
    code, table, _ = run("validate", TEST, "--format", "pairs")
    assert code == 1 and "--format mvpbench" in " ".join(table.split())
    for words, said in [
        (("validate", tmp_path / "no.json"), "no such file"),
        (("validate", TEST, "--format", "mvpbnch"), "Did you mean mvpbench?"),
        (("validate", TEST, "--html", tmp_path), "is a folder"),
        (("validate", TEST, "--accept", "all"), "must be one of"),
        (("split", TEST, tmp_path / "s", "--test", "1.5"), "--test 1.5: must be above 0"),
        (("split", TEST, tmp_path / "s", "--test", "0.6", "--val", "0.4"), "nobody for training"),
        (("split", TEST, tmp_path / "s", "--apart", "city"), "one of country, question"),
        (("split", TEST, tmp_path / "s", "--stratify", "city"), "no record has it"),
        (("card", TEST, "--to", tmp_path / "train.jsonl"), "exists already"),
        (("card", TEST, "--to", tmp_path / "no" / "README.md"), "there is no folder"),
    ]:
        code, _, message = run(*words)
        assert code == 2 and said in message, words
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]


def test_tokens_of_a_tokenizer(tiny_model: Path) -> None:
    code, printed, _ = run("validate", TEST, "--json", "--tokenizer", tiny_model)
    lengths = {
        (row["text"], row["unit"]): row for row in json.loads(printed)["parts"][0]["lengths"]
    }
    assert code == 0 and 40 < lengths["chosen", "tokens"]["percentiles"]["50"] < 80


def test_a_split_and_its_card(tmp_path: Path) -> None:
    folder = tmp_path / "split"
    code, printed, _ = run(
        "split", TEST, folder, "--val", "0", "--test", "0.3", "--stratify", "level"
    )
    assert code == 0 and f"{folder}/train.jsonl: " in printed and "split.manifest" in printed
    assert {path.name for path in folder.iterdir()} == {
        "train.jsonl", "test.jsonl", "split.manifest",
    }  # fmt: skip
    words = ("validate", folder, "--accept", "pairs in two parts")
    assert run(*words)[0] == 0
    code, printed, _ = run("card", folder, "--to", folder / "README.md", "--title", "Mine")
    assert code == 0 and "# Mine" in (folder / "README.md").read_text("utf-8")
    (folder / "other.json").write_text("[]")
    code, _, message = run(*words)  # the card is no part, and the other file is named
    assert code == 0 and f"Not looked at, no part by its name: {folder}/other.json." in message


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from([*DAMAGED]), st.integers(0, 2**32), st.integers(0, 6))
def test_damaged_files_are_told_and_leave_nothing_half_written(
    tmp_path: Path, form: str, seed: int, hits: int
) -> None:
    """Bytes changed, cut out and doubled: no traceback, every record in a part or counted."""
    random, data = Random(seed), bytearray(DAMAGED[form])
    for _ in range(hits):
        at = random.randrange(len(data))
        match random.randrange(4):
            case 0:
                data[at] = random.randrange(256)
            case 1:
                del data[at : at + random.randrange(400)]
            case 2:
                data[at:at] = data[at : at + random.randrange(400)]
            case _:
                data[at:at] = random.choice([b"null", b"NaN", b"\\ud800", b"1e999", b"\n", b'"'])
    path = tmp_path / ("damaged.jsonl" if form == "pairs" else "damaged.json")
    path.write_bytes(data)
    folder = tmp_path / f"split-{form}-{seed}-{hits}"
    code, printed, _ = run("validate", path, "--format", form, "--json")
    found = json.loads(printed)
    (records,) = (check for check in found["checks"] if check["check"] == "records")
    assert code == (0 if found["passed"] else 1)
    try:
        read = read_pairs(str(path), form)
    except UserError:
        assert records["outcome"] == "fail" and not found["passed"]
        assert run("split", path, folder, "--format", form)[0] == 2
        assert not list(tmp_path.glob("split-*")) and not list(tmp_path.glob(".*"))
        return
    assert records["of"] == len(read.pairs) + sum(read.left_out.values())
    code, _, message = run("split", path, folder, "--format", form)
    if code == 0:
        manifest = json.loads((folder / "split.manifest").read_text())
        kept = sum(part["pairs"] for part in manifest["parts"].values())
        assert kept + sum(manifest["left_out"].values()) == read.records
        for entry in folder.iterdir():
            entry.unlink()
        folder.rmdir()
    else:
        assert code == 2 and message and not folder.exists()
    assert not list(tmp_path.glob(".*"))


def test_a_killed_split_leaves_no_folder_that_looks_whole(tmp_path: Path) -> None:
    code = (
        "import os, mvp_align.data.split_files as files;"
        "files.write_manifest = lambda *_: os.kill(os.getpid(), 9);"
        "from mvp_align.cli import app; app()"
    )
    words = [sys.executable, "-c", code, "data", "split", TEST, str(tmp_path / "split")]
    assert subprocess.run(words).returncode == -9
    assert not (tmp_path / "split").exists()
    assert run("split", TEST, tmp_path / "split")[0] == 0
