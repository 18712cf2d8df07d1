"""Decisions, what becomes of them, and the server behind the page; tests of the page itself are in
test_review_page.py."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

import pytest
from review_records import json_lines, pair_record, write_records_to
from typer.testing import CliRunner

from mvp_align.cli import app
from mvp_align.construction.decisions import decision_file, open_log, read_decisions, standing
from mvp_align.construction.pair_records import PairRecord, read_records
from mvp_align.construction.review_results import write_reviewed
from mvp_align.construction.review_server import ReviewServer
from mvp_align.construction.review_session import ReviewSession, person_lines, queue
from mvp_align.data.readers import read_pairs
from mvp_align.errors import UserError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    records = [pair_record(str(number)) for number in range(6)]
    records[1]["provenance"] = {"made": "generated", "conversation_id": "c1"}
    return write_records_to(tmp_path / "records.jsonl", records)


def records_of(source: Path) -> list[PairRecord]:
    return read_records(str(source), "mvpbench")[1]


def decide(source: Path, reviewer: str, said: str) -> None:
    """Decide on the pairs in order: a accept, r reject, e edit, - nothing."""
    with open_log(decision_file(source.parent, reviewer)) as log:
        for record, one in zip(records_of(source), said, strict=True):
            question, fitting, contradicting = record.texts
            if one == "a":
                log.add(record, "accept", None)
            elif one == "r":
                log.add(record, "reject", None)
            elif one == "e":
                log.add(record, "edit", (question, f"{fitting} Mind the knees.", contradicting))


def results(source: Path) -> tuple[list[str], dict[str, Any]]:
    lines = write_reviewed(*read_records(str(source), "mvpbench"), source.parent)
    return lines, json.loads((source.parent / "review.json").read_text("utf-8"))


def test_what_all_agree_on_is_written_with_its_decisions(source: Path) -> None:
    before = source.read_bytes()
    decide(source, "ann", "aaree-")
    decide(source, "bo", "-arra-")
    lines, summary = results(source)
    assert source.read_bytes() == before
    assert {key: summary[key] for key in ("kept as they are", "reviewers differ")} == {
        "kept as they are": 2, "reviewers differ": 2,
    }  # fmt: skip
    assert (summary["rejected"], summary["undecided"]) == (1, 1)
    assert summary["reviewers"]["ann"] == {"accept": 2, "edit": 2, "reject": 1}
    kept = json_lines(source.parent / "reviewed.jsonl")
    first, second = json_lines(source)[:2]
    assert [one["id"] for one in kept] == ["0", "1"]
    review = kept[1]["provenance"].pop("review")
    assert kept[1] == second
    assert [(one["reviewer"], one["decision"]) for one in review["decisions"]] == [
        ("ann", "accept"), ("bo", "accept"),
    ]  # fmt: skip
    assert kept[0].pop("provenance")["review"]["record_sha256"] == records_of(source)[0].sha256
    assert kept[0] == first
    assert "  2 reviewers differ" in lines
    read = read_pairs(str(source.parent / "reviewed.jsonl"), "mvpbench")
    assert (len(read.pairs), read.unread) == (2, {})


def test_an_edit_is_kept_beside_what_was_there(source: Path) -> None:
    decide(source, "ann", "e-----")
    decide(source, "bo", "e-----")  # the same edit: they agree
    _, summary = results(source)
    assert summary["kept as edited"] == 1
    (kept,) = json_lines(source.parent / "reviewed.jsonl")
    first = json_lines(source)[0]
    assert kept["answer_w"] == first["answer_w"] + " Mind the knees."
    assert kept["provenance"]["review"]["before"] == {"answer_w": first["answer_w"]}
    assert {key for key in kept if kept[key] != first.get(key)} == {"answer_w", "provenance"}


def test_agreement_is_that_of_the_labels(source: Path) -> None:
    """By hand: 4 of 5 the same; chance 3/5 x 4/5 + 2/5 x 1/5 = 0.56; kappa (0.8 - 0.56) / 0.44."""
    decide(source, "ann", "aaarr-")
    decide(source, "bo", "aaaar-")
    lines, summary = results(source)
    (two,) = summary["agreement"]["by_two"]
    assert two["items"] == 5 and two["agreement"] == pytest.approx(0.8)
    assert two["kappa"] == pytest.approx(0.24 / 0.44)
    # alpha: observed 2/10; by chance 2 x 7 x 3 / (10 x 9)
    assert summary["agreement"]["alpha"] == pytest.approx(1 - 0.2 / (42 / 90))
    assert "  ann and bo: the same in 0.80 of 5, Cohen's kappa 0.55" in lines


def test_agreement_that_is_not_defined_is_not_a_number(source: Path) -> None:
    decide(source, "ann", "aa----")
    decide(source, "bo", "aa----")
    lines, summary = results(source)
    assert summary["agreement"]["alpha"] is None
    assert any(line.endswith("Krippendorff's alpha -") for line in lines)
    (source.parent / "decisions" / "bo.jsonl").unlink()
    assert results(source)[1]["agreement"] is None


def test_a_decision_is_about_the_record_as_it_was(source: Path) -> None:
    decide(source, "ann", "aar---")
    records = json_lines(source)
    records[0]["question"] = "And how do I stop?"
    write_records_to(source, records[:1] + records[2:])
    lines, summary = results(source)
    assert summary["decisions_about_other_records"] == 2
    assert not (source.parent / "reviewed.jsonl").exists() and summary["rejected"] == 1
    assert "No pair was accepted yet." in lines
    assert any("2 decisions are about records that are not there" in line for line in lines)


def test_the_source_is_never_replaced(source: Path) -> None:
    target = source.with_name("reviewed.jsonl")
    source.rename(target)
    decide(target, "ann", "aaaaaa")
    before = target.read_bytes()
    with pytest.raises(UserError, match="would replace it"):
        results(target)
    assert target.read_bytes() == before


def test_the_last_decision_counts_and_undo_leaves_none(source: Path) -> None:
    decide(source, "ann", "aaaaaa")
    decide(source, "ann", "r-----")
    with open_log(decision_file(source.parent, "ann")) as log:
        log.add(records_of(source)[1], "withdraw", None)
    found, _ = standing(read_decisions(source.parent)["ann"], records_of(source))
    assert found["0"].decision == "reject" and "1" not in found and len(found) == 5


def test_half_a_line_counts_as_nothing_wherever_it_ends(source: Path) -> None:
    decide(source, "ann", "aar---")
    path = decision_file(source.parent, "ann")
    content = path.read_bytes()
    whole = content[: content.rstrip(b"\n").rfind(b"\n") + 1]
    for end in range(len(whole) + 1, len(content)):
        path.write_bytes(content[:end])
        assert len(read_decisions(source.parent)["ann"]) == 2
    decide(source, "ann", "---a--")
    assert path.read_bytes().startswith(whole)
    assert len(read_decisions(source.parent)["ann"]) == 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{}", "validation errors for Decision"),
        (b"\xff", "can't decode"),
        (b'{"id": NaN}', "NaN is no JSON number"),
        (b'{"id": "0", "record_sha256": "", "reviewer": "bo", "decision": "accept", "at": ""}',
         "it is bo's"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_decision_is_named(source: Path, line: bytes, said: str) -> None:
    decide(source, "ann", "a-----")
    path = decision_file(source.parent, "ann")
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(UserError, match=rf"ann\.jsonl, line 2: no decision of ann .*{said}"):
        read_decisions(source.parent)


def test_one_person_reviews_once_at_a_time(source: Path) -> None:
    path = decision_file(source.parent, "ann")
    with open_log(path), pytest.raises(UserError, match="has it open"), open_log(path):
        pass
    with pytest.raises(UserError, match="letters, digits and _"):
        decision_file(source.parent, "../ann")


def test_a_full_disk_leaves_no_part_of_a_decision(source: Path) -> None:
    """A file that may not grow beyond a size behaves as a full disk: a write comes short."""
    decide(source, "ann", "aa----")
    path = decision_file(source.parent, "ann")
    before = path.read_bytes()
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with open_log(path) as log:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 40, was[1]))
            with pytest.raises(UserError, match="No space left"):
                log.add(records_of(source)[2], "accept", None)
            resource.setrlimit(resource.RLIMIT_FSIZE, was)
            assert path.read_bytes() == before
            log.add(records_of(source)[2], "reject", None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, was)
        signal.signal(signal.SIGXFSZ, handler)
    assert [one.decision for one in read_decisions(source.parent)["ann"]] == [
        "accept", "accept", "reject",
    ]  # fmt: skip


def test_a_sample_is_the_same_for_everybody_and_findings_come_first(source: Path) -> None:
    records = records_of(source)
    findings = {"4": ["look"]}
    assert [one.pair.id for one in queue(records, findings, None)] == ["4", "0", "1", "2", "3", "5"]
    one = {record.pair.id for record in queue(records, {}, 3)}
    Random(0).shuffle(records)
    assert {record.pair.id for record in queue(records, findings, 3)} == one and len(one) == 3


@contextmanager
def served(source: Path) -> Iterator[ReviewServer]:
    with (
        open_log(decision_file(source.parent, "ann")) as log,
        ReviewServer(ReviewSession(records_of(source), {}, log)) as server,
    ):
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def asked(url: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, Any]:
    """Return status, headers and the object of the answer."""
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request) as answer:
            content = answer.read()
            kind = answer.headers["Content-Type"]
            value = json.loads(content) if kind == "application/json" else content
            return answer.status, answer.headers, value
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, json.loads(error.read())


def test_the_server_answers_only_those_who_were_told(source: Path) -> None:
    with served(source) as server:
        assert server.server_address[0] == "127.0.0.1"
        token = server.token
        assert len(token) >= 32
        status, headers, page = asked(server.url)
        assert status == 200 and b"Review of pairs" in page
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert (headers["Cache-Control"], headers["Referrer-Policy"]) == ("no-store", "no-referrer")
        base = server.url.removesuffix(f"{token}/")
        sent = json.dumps({"number": 0, "decision": "accept"}).encode()
        for wrong in ("", "overview", "x/overview", token, f"{token[:-1]}/overview", "é/overview"):
            url = base + urllib.request.quote(wrong)
            assert asked(url)[0] == asked(url, sent)[0] == 403
        for host in ("evil.example", "127.0.0.1.evil.example", "0.0.0.0", ""):
            assert asked(server.url + "overview", Host=host)[0] == 403
            assert asked(server.url + "decision", sent, Host=host)[0] == 403
        assert asked(server.url + "overview", Host="localhost:9000")[0] == 200
        for path in ("page.py", "../review_server.py", "pair/6", "pair/-1", "pair/x", "pair/"):
            assert asked(server.url + path)[0] == 404
        assert asked(server.url + "overview")[2]["decisions"] == 6 * [None]


def test_the_server_takes_decisions_and_nothing_else(source: Path) -> None:
    question, fitting, contradicting = records_of(source)[0].texts
    bad: list[object] = [
        None, [], "accept", {"number": 0}, {"number": 9, "decision": "accept"},
        {"number": -1, "decision": "accept"}, {"number": "0", "decision": "accept"},
        {"number": 0, "decision": "like"}, {"number": 0, "decision": "edit"},
        {"number": 0, "decision": "accept", "texts": [question, fitting, contradicting]},
        {"number": 0, "decision": "edit", "texts": [question, " ", contradicting]},
        {"number": 0, "decision": "edit", "texts": [question, fitting, fitting + " "]},
        {"number": 0, "decision": "edit", "texts": [question, fitting]},
        {"number": 0, "decision": "edit", "texts": [question, "\ud800", contradicting]},
        {"number": 0, "decision": "accept", "reviewer": "bo"},
    ]  # fmt: skip
    with served(source) as server:
        for one in bad:
            status, _, answer = asked(server.url + "decision", json.dumps(one).encode())
            assert status == 400 and answer["problem"], one
        assert asked(server.url + "decision", b"{")[0] == 400
        assert asked(server.url + "decision", b"", **{"Content-Length": "1000001"})[0] == 400
        assert asked(server.url + "elsewhere", b"{}")[0] == 400
        assert read_decisions(source.parent)["ann"] == []
        whole = [question, fitting, contradicting]
        sent = {"number": 0, "decision": "edit", "texts": whole}
        _, _, answer = asked(server.url + "decision", json.dumps(sent).encode())
        assert answer["decision"] == "accept", "nothing was changed"
        sent["texts"] = [question, "Walk.", contradicting]
        _, _, answer = asked(server.url + "decision", json.dumps(sent).encode())
        assert (answer["decision"], answer["texts"][1]) == ("edit", "Walk.")


@contextmanager
def reviewing(source: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command as a process of its own; yield it and the address that it prints."""
    command = [sys.executable, "-m", "mvp_align.cli", "data", "review", str(source)]
    command += ["--out", str(source.parent / "review"), "--reviewer", "ann", *words]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            found = re.fullmatch(r"Open (http://127\.0\.0\.1:\d+/[\w-]+/)\n", first)
            assert found, first + process.stdout.read()
            yield process, found.group(1)
        finally:
            process.kill()


def test_a_killed_review_loses_no_decision_that_the_page_showed(source: Path) -> None:
    for number in range(3):
        with reviewing(source) as (process, url):
            assert asked(url + "overview")[2]["decisions"].count("accept") == number
            sent = json.dumps({"number": number, "decision": "accept"}).encode()
            assert asked(url + "decision", sent)[0] == 200
            process.send_signal(signal.SIGKILL)
            process.wait()
    with reviewing(source) as (process, url):
        assert asked(url + "overview")[2]["decisions"].count("accept") == 3
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "reviewed.jsonl: 3 records" in said and "Traceback" not in said
    assert [one["id"] for one in json_lines(source.parent / "review" / "reviewed.jsonl")] == [
        "0", "1", "2",
    ]  # fmt: skip


def test_without_a_reviewer_only_results_are_written(source: Path) -> None:
    decide(source, "ann", "aaaaar")
    command = ["data", "review", str(source), "--out", str(source.parent)]
    result = CliRunner().invoke(app, command)
    assert result.exception is None, result.output
    assert "reviewed.jsonl: 5 records" in result.output
    refused = CliRunner().invoke(app, [*command, "--sample", "3"])
    assert "name the --reviewer" in str(refused.exception)
    refused = CliRunner().invoke(app, [*command, "--reviewer", "ann", "--sample", "0"])
    assert "must be 1 or above" in str(refused.exception)


def test_own_formats_are_reviewed_under_their_own_keys(tmp_path: Path) -> None:
    own = {"prompt": "Why?", "chosen": "So.", "rejected": "No.", "user_id": "u"}
    rows = [own, own | {"chosen": "Thus."}, own]
    source = write_records_to(tmp_path / "own.jsonl", rows)
    read, found = read_records(str(source), "pairs")
    assert len(found) == len(read.pairs)
    assert [one.value["chosen"] for one in found] == [one.chosen for one in read.pairs]
    with open_log(decision_file(tmp_path, "ann")) as log:
        log.add(found[1], "edit", ("Why?", "Hence.", "No."))
    write_reviewed(read, found, tmp_path)
    (kept,) = json_lines(tmp_path / "reviewed.jsonl")
    review = kept.pop("provenance")["review"]
    assert kept == own | {"chosen": "Hence."} and review["before"] == {"chosen": "Thus."}
    again = read_pairs(str(tmp_path / "reviewed.jsonl"), "pairs")
    assert again.unread == {}


def test_what_was_said_before_is_shown_and_other_shapes_are_refused(tmp_path: Path) -> None:
    orca = {"system": "Be kind.", "question": "Why?", "chosen": "So.", "rejected": "No."}
    source = write_records_to(tmp_path / "orca.jsonl", [orca, orca | {"question": "How?"}])
    read, found = read_records(str(source), "auto")
    assert person_lines(found[0].pair) == [("system before", "Be kind.")]
    with open_log(decision_file(tmp_path, "ann")) as log:
        log.add(found[0], "accept", None)
    write_reviewed(read, found, tmp_path)
    (kept,) = json_lines(tmp_path / "reviewed.jsonl")
    assert {key: kept[key] for key in orca} == orca
    turn = {"role": "user", "content": "Why?"}
    said = [{"role": "assistant", "content": text} for text in ("So.", "No.")]
    chat = {"prompt": [turn], "chosen": said[:1], "rejected": said[1:]}
    source = write_records_to(tmp_path / "chat.jsonl", [chat])
    with pytest.raises(UserError, match="cannot be shown as it stands"):
        read_records(str(source), "auto")
