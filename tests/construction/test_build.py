"""`mvp-align data build` against a real server on loopback, from the tables to the records."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from population_rows import conversation, person
from typer.testing import CliRunner
from writer_server import WriterServer, good, writing

from mvp_align.cli import app
from mvp_align.construction.population import Population
from mvp_align.construction.writing import PROMPT
from mvp_align.data.readers import read_pairs
from mvp_align.errors import UserError

COUNT = 40


@pytest.fixture
def built(
    write_population: Callable[..., Population],
    write_writer: Callable[..., Path],
    tmp_path: Path,
) -> Callable[..., Result]:
    """`built(server, "--limit", "3", concurrency=2)`: the command on 40 conversations."""
    people = [person(f"u{number}") for number in range(5)]
    people.append(person("even", stated_prefs=dict.fromkeys(person("x")["stated_prefs"], 70)))
    rows = [conversation(f"c{number}", f"u{number % 5}", later=1) for number in range(COUNT)]
    rows.append(conversation("c-even", "even"))
    rows.append(conversation("c0-again", "u0", later=1) | {"opening_prompt": "What of c0?"})
    rows.append(conversation("c0-other", "u1", later=1) | {"opening_prompt": "What of c0?"})
    write_population(people, rows)

    def run(server: WriterServer, *words: str, **settings: Any) -> Result:
        command = ["data", "build", str(tmp_path / "own.yaml"), "--out", str(tmp_path / "o")]
        command += ["--writer", str(write_writer(server.url, **settings)), "--questions", "2"]
        return CliRunner().invoke(app, [*command, *words])

    return run


def records_of(out: Path) -> list[dict[str, Any]]:
    lines = (out / "records.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def summary_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "build.json").read_text("utf-8"))
    return found


def counted(summary: dict[str, Any], part: str) -> dict[str, int]:
    return {row["reason"]: row["count"] for row in summary["left_out"][part]}


def test_from_tables_to_records(built: Callable[..., Result], tmp_path: Path, query) -> None:
    out = tmp_path / "o"
    with writing() as server:
        result = built(server)
        assert result.exception is None, result.output
        first = (out / "records.jsonl").read_bytes()
        assert server.asked == {f"What of c{number}?": 1 for number in range(COUNT)}
        assert server.bodies[0]["response_format"]["type"] == "json_schema"
    # the server is gone: a second build asks nothing
    result = built(server)
    assert result.exception is None, result.output
    assert f"0 requests ({COUNT} replies are kept already)" in result.output
    assert (out / "records.jsonl").read_bytes() == first

    records = records_of(out)
    # c0's person and another one of the same values said the same; c0's person twice
    names = [*(f"c{number}" for number in range(COUNT)), "c0-other"]
    assert [record["id"] for record in records] == [f"{n}-{k}" for n in names for k in (1, 2)]
    one = records[2]
    provenance = one.pop("provenance")
    assert one == {
        "id": "c1-1",
        "question": "What of c1? Part 1?",
        "answer_w": "It fits, 1: What of c1?",
        "answer_l": "It does not, 1: What of c1?",
        "user_id": "u1",
        "stated_prefs": {"creativity": 20} | dict.fromkeys(
            ("fluency", "factuality", "diversity", "safety", "personalisation", "helpfulness"), 90
        ),
        "age": "25-34 years old",
        "gender": "Female",
        "employment_status": "Student",
        "education": "Vocational",
        "marital_status": "Married",
        "english_proficiency": "Fluent",
        "birth_country/region": "Chile",
        "birth_country_iso3": "CHL",
        "self_description": "I sing.",
        "system_string": "Be brief.",
        "preference": "High fluency, High factuality, High diversity, High safety, High"
        " personalisation, High helpfulness, Low creativity.",
    }  # fmt: skip
    assert provenance == {
        "made": "generated",
        "conversation_id": "c1",
        "model": "writer",
        "prompt_sha256": hashlib.sha256(PROMPT.read_bytes()).hexdigest(),
        "reply": provenance["reply"],
    }
    store = out / "replies.sqlite"
    kept = "SELECT served_by, completion_tokens FROM replies WHERE key = ?"
    assert query(store, kept, provenance["reply"]) == [("writer-1", 90)]

    summary = summary_of(out)
    assert summary["finished"]
    assert summary["records"] == len(records) == 2 * summary["conversations_written_about"]
    assert summary["records_sha256"] == hashlib.sha256(first).hexdigest()
    assert counted(summary, "unwritable") == {
        "no dimension is High or Low for its person, so no answer fits better": 1,
        "its person said the same before": 1,
    }
    assert summary["conversations"]["rows"] == COUNT + 3 == len(names) + 2
    read = read_pairs(str(out / "records.jsonl"), "mvpbench")
    assert (len(read.pairs), read.unread) == (len(records), {})


def poor(opening: str, count: int) -> str | int:
    """Every kind of reply that is no pair, by the conversation's number."""
    number = int("".join(filter(str.isdigit, opening)) or 0)
    whole = json.loads(good(opening, count))
    match number % 8:
        case 1:
            return "Sorry, I would rather not."
        case 2:
            return 500
        case 3:
            whole["pairs"].pop()
        case 4:
            whole["pairs"][1]["answer_l"] = whole["pairs"][1]["answer_w"]
        case 5:
            return good(opening, count)[:-5]
    return json.dumps(whole)


def test_poor_replies_are_counted(built: Callable[..., Result], tmp_path: Path) -> None:
    with writing(poor) as server:
        result = built(server)
        assert result.exception is None, result.output
        asked = sum(server.asked.values())
        again = built(server)  # only those without a reply are asked again
        assert sum(server.asked.values()) - asked == 2 * 5
    out = tmp_path / "o"
    summary = summary_of(out)
    assert counted(summary, "replies") == {
        "no reply: HTTP 500": 5, "no JSON object": 5, "broken JSON": 5,
    }  # fmt: skip
    assert counted(summary, "pairs") == {
        "fewer pairs in the reply than asked for": 5, "both answers are the same": 5,
    }  # fmt: skip
    wanted = 2 * summary["conversations_written_about"]
    assert wanted == summary["records"] + 2 * 15 + 10
    assert len(records_of(out)) == summary["records"] == 2 * 41 - 30 - 10
    for line in ("5 left out: no JSON object", "replies: 41 wanted, 26 with pairs",
                 "pairs: 52 asked of these, 42 kept"):  # fmt: skip
        assert line in result.output and line in again.output


def test_a_writer_that_writes_no_pair_is_no_success(
    built: Callable[..., Result], tmp_path: Path
) -> None:
    with writing(lambda opening, count: "Well ...") as server:
        result = built(server)
    assert isinstance(result.exception, UserError)
    assert "41 left out: no JSON object" in str(result.exception)
    assert "Not one pair came of it" in str(result.exception)
    assert not (tmp_path / "o" / "records.jsonl").exists()


def test_a_server_that_answers_nothing_is_given_up(
    built: Callable[..., Result], tmp_path: Path
) -> None:
    with writing(lambda opening, count: 400) as server:
        result = built(server, concurrency=1)
        assert isinstance(result.exception, UserError)
        assert "tester was not asked any further" in str(result.exception)
        assert sum(server.asked.values()) < 20
    assert not (tmp_path / "o" / "records.jsonl").exists()


def test_what_costs_more_than_the_limit_is_not_asked(built: Callable[..., Result]) -> None:
    with writing() as server:
        result = built(server, "--limit-usd", "0.01", usd_per_million_output=10.0)
        assert isinstance(result.exception, UserError)
        assert "Writing may cost 0.41 USD, above --limit-usd 0.01" in str(result.exception)
        assert not server.asked
        result = built(server, "--limit", "1", "--limit-usd", "0.02", usd_per_million_output=10.0)
        assert result.exception is None, result.output
        assert server.asked == {"What of c0?": 1}


def test_mistakes_are_told_before_anything_is_asked(built: Callable[..., Result]) -> None:
    with writing() as server:
        for words, said in (
            (["--questions", "0"], "--questions 0: must be 1 or above"),
            (["--limit", "0"], "--limit 0: must be 1 or above"),
            (["--writer", "gpt4"], "--writer gpt4: no such writer.*Did you mean gpt4o?"),
            (["--prompt", "none.txt"], "none.txt: no prompt can be made of it"),
        ):
            with pytest.raises(UserError, match=said):
                raise built(server, *words).exception or AssertionError(words)
        assert not server.asked
