"""The page of `mvp-align data review`, used by keyboard in headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from review_records import json_lines, pair_record, write_records_to

from mvp_align.construction.decisions import decision_file, open_log, read_decisions
from mvp_align.construction.pair_records import read_records
from mvp_align.construction.review_results import write_reviewed
from mvp_align.construction.review_server import ReviewServer
from mvp_align.construction.review_session import ReviewSession, queue

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
    "<a href='javascript:window.hacked = 3'>&amp; http://evil.example/x.png</a>"
)
WAIT_MS = 20_000


class Review:
    """A folder of four records, and its page in a browser, opened anew by `opened`."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self.browser, self.folder = browser, folder
        records = [pair_record(str(number)) for number in range(4)]
        records[1] |= {
            "question": f"What does {HOSTILE} do?",
            "answer_w": f"{HOSTILE} It fits.",
            "answer_l": f"{HOSTILE} It does not.",
            "gender": HOSTILE,
        }
        records[2]["answer_w"] = "Walk.\r\nThen jog, \u05e9\u05dc\u05d5\u05dd."
        self.source = write_records_to(folder / "records.jsonl", records)
        self.findings = {"1": [f"the fitting answer says {HOSTILE}"]}
        self.problems: list[str] = []
        self.hosts: set[str | None] = set()

    @contextmanager
    def opened(self) -> Iterator[Page]:
        records = read_records(str(self.source), "mvpbench")[1]
        with open_log(decision_file(self.folder, "ann")) as log:
            session = ReviewSession(queue(records, self.findings, None), self.findings, log)
            with ReviewServer(session) as server:
                thread = Thread(target=server.serve_forever, daemon=True)
                thread.start()
                context = self.browser.new_context(viewport={"width": 1000, "height": 760})
                page = context.new_page()
                page.set_default_timeout(WAIT_MS)
                page.on("console", lambda said: self.problems.append(said.text))
                page.on("pageerror", lambda error: self.problems.append(str(error)))
                page.on("request", lambda sent: self.hosts.add(urlsplit(sent.url).hostname))
                page.goto(server.url)
                page.locator("#number", has_text=" of 4").wait_for()
                yield page
                context.close()
                server.shutdown()
                thread.join()

    def choices(self) -> list[tuple[str, str]]:
        return [(one.id, one.decision) for one in read_decisions(self.folder)["ann"]]


@pytest.fixture
def review(browser: Browser, tmp_path: Path) -> Review:
    return Review(browser, tmp_path)


def shows(page: Page, name: str, text: str) -> None:
    """Wait until an element's text is exactly that, white space apart."""
    from playwright.sync_api import expect

    expect(page.locator(f"#{name}")).to_have_text(text, timeout=WAIT_MS)


def test_pairs_are_decided_by_keyboard_and_found_again(review: Review) -> None:
    with review.opened() as page:
        shows(page, "id", "1")  # it has a finding
        page.keyboard.press("r")
        shows(page, "id", "0")
        shows(page, "progress", "0 accepted, 1 rejected, 0 edited, 3 to go")
        page.keyboard.press("a")
        shows(page, "id", "2")
        page.keyboard.press("e")
        assert page.evaluate("document.activeElement.id") == "e1"
        page.fill("#e2", "Never walk.")
        page.keyboard.type(" a r")  # keys are text here
        page.keyboard.press("Control+Enter")
        shows(page, "id", "3")
        page.keyboard.press("e")
        page.fill("#e1", "To be forgotten.")
        page.keyboard.press("Escape")
        shows(page, "progress", "1 accepted, 1 rejected, 1 edited, 1 to go")
        page.keyboard.press("k")
        shows(page, "t2", "Never walk. a r")
        shows(page, "decision", "edited")
        page.reload()
        shows(page, "id", "3")  # the first that is undecided
        shows(page, "progress", "1 accepted, 1 rejected, 1 edited, 1 to go")
    with review.opened() as page:  # the command was ended and started again
        shows(page, "id", "3")
        page.keyboard.press("a")
        shows(
            page,
            "progress",
            "2 accepted, 1 rejected, 1 edited, all decided: end the command by Ctrl+C",
        )
        page.keyboard.press("u")
        shows(page, "progress", "1 accepted, 1 rejected, 1 edited, 1 to go")
    assert review.choices() == [
        ("1", "reject"), ("0", "accept"), ("2", "edit"), ("3", "accept"), ("3", "withdraw"),
    ]  # fmt: skip
    write_reviewed(*read_records(str(review.source), "mvpbench"), review.folder)
    kept = {one["id"]: one for one in json_lines(review.folder / "reviewed.jsonl")}
    assert sorted(kept) == ["0", "2"]
    given = json_lines(review.source)[2]
    assert kept["2"]["answer_l"] == "Never walk. a r"
    assert kept["2"]["answer_w"] == given["answer_w"], "an unchanged text lost its line break"
    assert review.problems == [] and review.hosts == {"127.0.0.1"}


def test_what_a_record_holds_is_text_and_nothing_else(review: Review) -> None:
    with review.opened() as page:
        shows(page, "t0", f"What does {HOSTILE} do?")
        shows(page, "t1", f"{HOSTILE} It fits.")
        assert HOSTILE in (page.text_content("#person") or "")
        assert HOSTILE in (page.text_content("#findings") or "")
        page.keyboard.press("e")
        assert page.input_value("#e1") == f"{HOSTILE} It fits."
        page.keyboard.press("Escape")
        assert page.evaluate("window.hacked") is None
        assert page.locator("script").count() == 1
        assert page.locator("main img, main a, main script").count() == 0
        assert review.problems == [] and review.hosts == {"127.0.0.1"}
        # the policy holds where a text were set as markup: a script of the page's own fails at it
        assert page.evaluate(
            "(() => { try { document.body.innerHTML = '<b>x</b>'; return 'set' }"
            " catch (error) { return error.name } })()"
        ) == "TypeError"  # fmt: skip


def test_a_key_that_is_held_down_decides_one_pair(review: Review) -> None:
    with review.opened() as page:
        page.keyboard.down("a")
        for _ in range(5):
            page.keyboard.down("a")  # the browser marks these as repeats
        page.keyboard.up("a")
        shows(page, "id", "0")
        shows(page, "progress", "1 accepted, 0 rejected, 0 edited, 3 to go")
    assert review.choices() == [("1", "accept")]


def test_what_was_not_kept_is_not_shown_as_kept(review: Review) -> None:
    with review.opened() as page:
        page.context.set_offline(True)
        page.keyboard.press("a")
        shows(
            page,
            "problem",
            "The command that serves this page does not answer. Nothing was kept.",
        )
        shows(page, "id", "1")
        shows(page, "progress", "0 accepted, 0 rejected, 0 edited, 4 to go")
        page.context.set_offline(False)
        page.keyboard.press("e")
        page.fill("#e1", " ")
        page.click("#save")
        shows(page, "problem", "the question and both answers must say something")
        assert page.is_visible("#e1")
        page.keyboard.press("Escape")
    assert review.choices() == []
