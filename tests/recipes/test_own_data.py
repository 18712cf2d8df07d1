"""Evaluations of users' own records: scores, notes, and the same numbers on another day."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., Path]

HOSTILE = "What of </script><script>alert(1)</script> & <img src=x onerror=alert(2)> {{ 7*7 }}"
NOW = '{{- "<|im_start|>system\\nToday: " + strftime_now("%d %b %Y %H:%M:%S") + "<|im_end|>\\n" }}'
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n'"
    " }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "own.jsonl"
    records = [
        {
            "prompt": f"{HOSTILE} {n}?",
            "chosen": f" yes\0\u2028 <b>bold</b> {n}",
            "rejected": " no ]]> \U0001f600",
            "score": n,
        }
        for n in range(4)
    ]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


@pytest.fixture(scope="module")
def evaluated(run: Run, own: Path) -> Run:
    def ran(folder: Path, *overrides: str) -> Path:
        data = ("data=files", f"data.test={own}", "data.format=pairs", "evals.ufp4=null")
        return run(folder, *data, *overrides, name="evaluate")

    return ran


def test_own_records_alone_are_scored_and_what_they_lack_is_said(
    evaluated: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = evaluated(tmp_path / "run")
    assert {path.stem for path in (folder / "scores").iterdir()} == {
        "base-in_domain",
        "base-in_domain-prompt_free",
    }
    notes = json.loads((folder / "notes.json").read_text("utf-8"))
    said = [
        "test: no record names a person (user_id): each prompt counts as one.",
        "test: keys that are not read, of 4 records: 'score' in 4.",
    ]
    assert notes == {"notes": said, "prompt_sets": ["in_domain"]}
    printed = capsys.readouterr().out
    assert all(line in " ".join(printed.split()) for line in said)
    assert "* in_domain: the records name no person; users counts prompts." in printed
    page = (folder / "report.html").read_text("utf-8")
    assert "On 4 pairs over 4 prompts" in page and "people’s 4 questions" not in page
    assert "<script>alert" not in page and "<img" not in page and "UF-P-4" not in page
    data = page.partition('id="pairs-data">')[2].partition("</script>")[0]
    texts = json.loads(data)["texts"]
    assert [(one["question"], one["chosen"]) for one in texts.values()] == [
        (f"{HOSTILE} {n}?", f" yes\0\u2028 <b>bold</b> {n}") for n in range(4)
    ]


def test_the_stand_in_goes_by_its_own_name(evaluated: Run, tmp_path: Path) -> None:
    folder = evaluated(tmp_path / "run", "evals.sets=[ufp4_sample]", "evals.batch_size=32")
    assert {path.stem for path in (folder / "scores").iterdir()} == {
        "base-ufp4_sample",
        "base-ufp4_sample-prompt_free",
    }
    sets = {
        json.loads(line)["set"]
        for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    }
    assert {name.partition("/")[0] for name in sets} == {"ufp4_sample"}
    assert set(json.loads((folder / "environment.json").read_text("utf-8"))["hashes"]) == {
        "data/test", "data/ufp4_sample", "base_model", "prompts/ufp4_sample",
    }  # fmt: skip
    page = (folder / "report.html").read_text("utf-8")
    assert (
        "Out of domain: a synthetic sample in UF-P-4’s schema" in page
        and "Out of domain: UF-P-4<" not in page
    )


def test_a_dated_chat_template_gives_the_same_numbers_at_another_time(
    evaluated: Run, sharp_model: Path, tmp_path: Path
) -> None:
    dated = Path(shutil.copytree(sharp_model, tmp_path / "dated"))
    (dated / "chat_template.jinja").write_text(NOW + CHATML)
    chat = ("prompt=chat", f"model.id={dated}", "run.logp_cache=false")

    def result(name: str, *overrides: str) -> tuple[str, str]:
        folder = evaluated(tmp_path / name, *chat, *overrides)
        hashes = json.loads((folder / "environment.json").read_text("utf-8"))["hashes"]
        return (folder / "scores" / "base-in_domain.jsonl").read_text("utf-8"), hashes[
            "prompts/in_domain"
        ]

    first = result("first")
    time.sleep(1.1)
    assert result("again") == first
    scores, shown = result("other", "prompt.date=2031-02-03")
    assert scores != first[0] and shown != first[1]
    assert "date: '2031-02-03'" in (tmp_path / "other" / "config.yaml").read_text()
