"""The HTML report: right numbers and words, well formed, self-contained, and no injected code."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mvp_align.config import Config, Data, Evals, Model, Prompt
from mvp_align.errors import UserError
from mvp_align.metrics.rows import Row, write_rows
from mvp_align.reporting.html import write_report
from mvp_align.runs.run_folder import RunFolder, open_run

SCRIPT = "<script>alert('x')</script> & [red]"

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Collects elements, and fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.words.setdefault(self.open[-1], []).append(" ".join(data.split()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


def finished_run(
    path: Path,
    rows: list[Row],
    data_name: str = "sample",
    data_format: str = "mvpbench",
    ufp4: str | None = None,
) -> RunFolder:
    config = Config(
        recipe="lora_dpo",
        model=Model("tiny", "somewhere/tiny"),
        data=Data(name=data_name, format=data_format),
        prompt=Prompt("paper", "{question}"),
        evals=Evals(ufp4=ufp4),
    )
    folder = open_run(path / "run", config)
    write_rows(folder.metrics, rows)
    environment = {
        "versions": {"torch": "2.13.0", "mvp-align": "0.1.0"},
        "git": {"commit": "c0ffee" * 6, "dirty": True},
    }
    folder.write_json(folder.environment_json, environment)
    return folder


def page_of(folder: RunFolder) -> tuple[str, Page]:
    text = write_report(folder.path).read_text(encoding="utf-8")
    return text, Page(text)


def test_headline_says_who_how_many_and_from_where_to_where(
    tmp_path: Path, rows: list[Row]
) -> None:
    _, page = page_of(finished_run(tmp_path, rows))
    assert page.words["h1"] == [
        "On 48 unseen people’s 250 pairs, acc@0 went from 58.8 % to 77.6 %, +18.8 [13.8, 23.8]"
        " points; a model that ignores who is asking cannot pass 79.2 %."
    ]
    result = (
        "On 60 pairs over 45 unseen prompts, no change of acc@0 is shown: 49.2 % before and 53.3 %"
        " after training, +4.2 [-0.8, 9.2] points."
    )
    # A run without UF-P-4's files that has a set of its name is one of 0.1.0, and was scored on the
    # bundled stand-in.
    assert f"Out of domain: a synthetic sample in UF-P-4’s schema: {result}" in page.words["p"]
    assert (
        f"Out of domain: UF-P-4: {result}"
        in page_of(finished_run(tmp_path / "real", rows, ufp4="f"))[1].words["p"]
    )


def test_who_gains_and_who_is_held_back(tmp_path: Path, rows: list[Row]) -> None:
    def of(metric: str, value: float, by: str = "region", group: str = "", users: int = 6) -> Row:
        return Row(
            "tuned", "in_domain", f"opa/acc@0{metric}", by, group, value, None, None, 30, users
        )

    text, page = page_of(finished_run(tmp_path, rows))
    assert "The group with the lowest" not in text
    who = [
        of("", 0.4, group=SCRIPT), of("", 0.6, group="Western"), of("_worst", 0.4, group=SCRIPT),
        of("_gap", 0.2),
        of("_suppressed", 2, users=3), of("_suppressed", 1, by="age", users=1),
        of("_better_off", 0.5, by=""), of("_worse_off", 0.25, by=""), of("_deff", 3.21, by=""),
    ]  # fmt: skip
    (tmp_path / "with").mkdir()
    text, page = page_of(finished_run(tmp_path / "with", [*rows, *who]))
    assert "Who gained and who lost" in page.words["h3"]
    assert (
        "Of the people, 50.0 % have more of their pairs right than with the base model, 25.0 % have"
        " fewer. Design effect of acc@0: 3.21 (variance over that of as many unrelated answers)."
        in page.words["p"]
    )
    assert (
        "By region of birth: 2 groups have too few people to be shown: 3 people, 30 pairs."
        in page.words["li"]
    )
    assert "By age: 1 group has too few people to be shown: 1 person, 30 pairs." in page.words["li"]
    assert "By region of birth: acc@0, with 95 % intervals" in page.words["caption"]
    line = next(part for part in text.split("<tr ") if "<bdi>region of birth</bdi>" in part)
    assert "&lt;script&gt;" in line and re.findall(">([^<>]+)</td>", line) == [
        "40.0 %",
        "+20.0",
        "30",
        "6",
    ]
    assert len(page.all("caption")) == len(page.all("table"))


def test_headline_when_ignoring_values_costs_nothing(tmp_path: Path, rows: list[Row]) -> None:
    certain = [replace(row, value=1.0) if row.metric.endswith("ceiling") else row for row in rows]
    _, page = page_of(finished_run(tmp_path, certain))
    assert "can reach 100 % here: no proof of heeding anybody" in page.words["h1"][0]


def test_records_without_people_are_counted_as_prompts(tmp_path: Path, rows: list[Row]) -> None:
    _, page = page_of(finished_run(tmp_path, rows, data_name="files", data_format="ufp4"))
    assert page.words["h1"][0].startswith("On 250 pairs over 48 unseen prompts, acc@0 went from")


def test_what_a_run_noted_says_which_sets_count_prompts(tmp_path: Path, rows: list[Row]) -> None:
    folder = finished_run(tmp_path, rows, data_name="files", data_format="pairs")
    folder.write_json(folder.notes, {"notes": [], "prompt_sets": ["in_domain"]})
    assert (
        page_of(folder)[1]
        .words["h1"][0]
        .startswith("On 250 pairs over 48 unseen prompts, acc@0 went from")
    )


def test_nothing_is_loaded_or_executed(tmp_path: Path, rows: list[Row]) -> None:
    folder = finished_run(tmp_path, rows)
    folder.write_json(folder.notes, {"notes": ["<script>n</script><img src=x onerror=alert(1)>"]})
    text, page = page_of(folder)
    names = {tag for tag, _ in page.seen}
    assert not names & {"img", "link", "iframe", "object", "embed"}
    policy = page.all("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    allowed = re.findall("'sha256-([^']+)'", str(policy["content"]))
    scripts = re.findall(r"<script(?: type=\"module\")?>(.*?)</script>", text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts]
    assert {*hashes} <= {*allowed} and len(scripts) == 1 + ("pairs-data" in text)
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; [red]" in text
    assert "&lt;script&gt;n&lt;/script&gt;&lt;img src=x" in text
    attributes = [name for _, values in page.seen for name in values]
    assert not [
        name for name in attributes if name in {"src", "href", "srcset"} or name.startswith("on")
    ]
    own = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"url\((?!#)|@import|https?://", own)


def test_every_row_is_in_the_page(tmp_path: Path, rows: list[Row]) -> None:
    text, _ = page_of(finished_run(tmp_path, rows))
    full = text[text.index(f"All {len(rows)} rows") :]
    assert full.count("<tr><td>") == len(rows)
    assert (
        "<td>tuned</td><td>ufp4/honesty</td><td>opa/acc@0_lift</td><td></td><td></td><td>+3.0"
        " [-2.0, 8.0]</td>" in full
    )


def test_accessible(tmp_path: Path, rows: list[Row]) -> None:
    text, page = page_of(finished_run(tmp_path, rows))
    assert page.all("html") == [{"lang": "en"}]
    assert page.words["title"][0] == "lora_dpo-tiny-sample-paper-12: results"
    assert len(page.all("h1")) == 1
    assert len(page.all("caption")) == len(page.all("table")) > 3
    assert all(attributes.get("scope") in {"col", "row"} for attributes in page.all("th"))
    ids = [attributes["id"] for _, attributes in page.seen if "id" in attributes]
    assert len(ids) == len(set(ids))
    labels = [attributes.get("aria-labelledby") for attributes in page.all("section")]
    assert set(labels) <= set(ids)
    assert "safety: base 61.0 % [56.0, 66.0], 36 pairs, 30 people" in text


@pytest.mark.parametrize(("name", "said"), [("sample", True), ("divervalue", False)])
def test_says_when_data_is_synthetic(
    tmp_path: Path, rows: list[Row], name: str, said: bool
) -> None:
    text, _ = page_of(finished_run(tmp_path, rows, data_name=name))
    assert ("Synthetic data." in text) == said


def test_left_out_notes_config_and_environment(tmp_path: Path, rows: list[Row]) -> None:
    folder = finished_run(tmp_path, rows)
    assert "Nothing is recorded as left out." in page_of(folder)[0]
    folder.write_json(folder.notes, {"notes": ["4 merged tokens."]})
    text, page = page_of(folder)
    assert page.words["li"] == ["4 merged tokens."]
    assert "Nothing is recorded" not in text
    assert any("learning_rate: 5.0e-05" in words for words in page.words["pre"])
    assert any('"torch": "2.13.0"' in words for words in page.words["pre"])
    assert "c0ffeec0ff with changes" in page.words["dd"]


def test_same_files_give_the_same_page(tmp_path: Path, rows: list[Row]) -> None:
    folder = finished_run(tmp_path, rows)
    assert write_report(folder.path).read_bytes() == write_report(folder.path).read_bytes()


def test_base_alone(tmp_path: Path, rows: list[Row]) -> None:
    _, page = page_of(finished_run(tmp_path, [row for row in rows if row.stage == "base"]))
    assert "acc@0 is 58.8 % [53.8, 63.8] (base model)" in page.words["h1"][0]


def test_run_without_environment_and_notes_or_rows(tmp_path: Path, rows: list[Row]) -> None:
    folder = finished_run(tmp_path, rows)
    folder.environment_json.unlink()
    page_of(folder)
    write_rows(folder.metrics, [])
    assert page_of(folder)[1].words["h1"] == ["This run has no results."]


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.yaml"])
def test_missing_file_is_named(tmp_path: Path, rows: list[Row], name: str) -> None:
    folder = finished_run(tmp_path, rows)
    (folder.path / name).unlink()
    with pytest.raises(UserError, match=f"{name}: no such file"):
        write_report(folder.path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("environment.json", '{"a": 1,\n"b"', r"environment\.json, line 2: broken JSON"),
        ("notes.json", "[]", r"notes\.json: an object belongs there, not a list"),
        ("metrics.jsonl", "{}\n", r"metrics\.jsonl, line 1: no row of"),
        ("config.yaml", "a: [1", r"config\.yaml: broken YAML"),
    ],
)
def test_damaged_file_is_named(
    tmp_path: Path, rows: list[Row], name: str, content: str, says: str
) -> None:
    folder = finished_run(tmp_path, rows)
    (folder.path / name).write_text(content)
    with pytest.raises(UserError, match=says):
        write_report(folder.path)
