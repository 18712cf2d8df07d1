"""The table of pairs in a run's page, used by mouse and by keyboard in headless Chromium."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser_pages import WIDTHS, inaccessible, opened, wider_than_their_column
from finished_runs import HOSTILE, Measured, drawn_margins, finish_run, made_pairs

from mvp_align.reporting.html import write_report
from mvp_align.schema import PreferencePair

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PAIRS = 60
RTL = "ما الأفضل لي؟ שלום"
EMOJI = "👩🏽‍🚀 🇵🇪 ❤️‍🔥"
LONG = "An answer that goes on. " * 2_200  # above 50 kB
SECTION = "#pairs-section"


def hostile_pairs() -> list[PreferencePair]:
    pairs = made_pairs(PAIRS)
    pairs[0] = replace(
        pairs[0],
        id=f"p0 {HOSTILE}",
        question=HOSTILE,
        chosen=f"{RTL} {EMOJI}",
        rejected=LONG,
        profile=None,
        profile_text=HOSTILE,
        groups={"dimension": HOSTILE, "birth_country": HOSTILE},
    )
    pairs[1] = replace(pairs[1], question=RTL, groups={"dimension": "", "level": "High"})
    pairs[2] = replace(pairs[2], question="word" * 200, groups={})
    return pairs


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with two sets, answers and judges, and everything that may go wrong."""
    answers = {
        stage: [f"{stage} answers {number} {HOSTILE}" for number in range(PAIRS)]
        for stage in ("base", "tuned")
    }
    margins = drawn_margins(PAIRS)
    margins["base"][3:5] = [-12.344, 0.000012344]
    folder = tmp_path_factory.mktemp("hostile") / "run"
    sets = {
        "in_domain": Measured(hostile_pairs(), margins, answers),
        "ufp4": Measured(made_pairs(20), drawn_margins(20, seed=3)),
    }
    return write_report(finish_run(folder, sets, name=HOSTILE).path)


def margins_of(folder: Path) -> dict[tuple[str, str], dict[str, float]]:
    """(stage, set) -> id -> margin, read from `scores/` without our readers."""
    return {
        tuple(path.stem.split("-")): {  # type: ignore[misc]
            one["id"]: one["margin"]
            for one in map(json.loads, path.read_text("utf-8").splitlines())
        }
        for path in (folder / "scores").glob("*.jsonl")
        if "prompt_free" not in path.name
    }


def status(page: Page) -> str:
    return page.inner_text("#pairs-status")


def listed(page: Page) -> list[str]:
    return page.locator("#pairs-table tbody th button").all_text_contents()


def choose(page: Page, name: str, choice: str) -> None:
    page.get_by_label(name, exact=True).select_option(choice)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_and_everybody_can_read_it(
    browser: Browser, hostile: Path, width: int, dark: bool
) -> None:
    with opened(browser, hostile, width=width, dark=dark) as page:
        page.get_by_role("button", name="change").click()
        assert wider_than_their_column(page) == []
        assert inaccessible(page) == []
        page.get_by_role("button", name="pair", exact=True).click()
        page.locator("#pairs-table tbody button").first.click()
        page.get_by_role("button", name=re.compile("Show all")).click()
        assert wider_than_their_column(page, "#pairs-dialog") == []
        assert inaccessible(page, "#pairs-dialog") == []


def test_a_column_sorts_up_and_down_by_what_the_run_scored(browser: Browser, hostile: Path) -> None:
    scored = margins_of(hostile.parent)
    change = {
        (name, id): margin - scored["base", name][id]
        for (stage, name), margins in scored.items()
        if stage == "tuned"
        for id, margin in margins.items()
    }
    up = [id for _, id in sorted(change, key=lambda one: change[one])]
    with opened(browser, hostile) as page:
        head = page.locator("#pairs-table thead th", has_text="change")
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "ascending"
        assert listed(page) == up[:25]
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "descending"
        assert listed(page) == up[::-1][:25]
        page.get_by_role("button", name="Next page →").click()
        assert listed(page) == up[::-1][25:50]
        assert status(page) == "80 of 80 pairs, page 2 of 4"


def test_filters_count_what_a_plain_count_finds(browser: Browser, hostile: Path) -> None:
    scored = margins_of(hostile.parent)
    pairs = hostile_pairs()
    flipped = [
        id
        for id, margin in scored["tuned", "in_domain"].items()
        if margin > 0 >= scored["base", "in_domain"][id]
    ]
    safe = {pair.id for pair in pairs if pair.groups.get("dimension") == "safety"}
    with opened(browser, hostile) as page:
        choose(page, "set", "In domain")
        choose(page, "flipped", "to right")
        assert status(page).startswith(f"{len(flipped)} of 80 pairs")
        assert listed(page) == flipped[:25]
        choose(page, "value dimension", "safety")
        assert listed(page) == [id for id in flipped if id in safe]
        choose(page, "tuned model", "wrong")
        assert status(page) == "0 of 80 pairs, page 1 of 1"
        choose(page, "flipped", "all")
        wrong = [id for id in safe if scored["tuned", "in_domain"][id] <= 0]
        assert sorted(listed(page)) == sorted(wrong)
        for name in ("value dimension", "tuned model"):
            choose(page, name, "all")
        choose(page, "tuned answer, paa/dvb_judge", "no label")
        assert status(page) == "20 of 80 pairs, page 1 of 1"  # every third has no verdict


def test_search_finds_all_words_in_texts_people_and_ids(browser: Browser, hostile: Path) -> None:
    with opened(browser, hostile) as page:
        search = page.get_by_role("searchbox")
        search.fill("FITTING 17")
        assert listed(page) == ["p17", "p17"]  # one of each set
        search.fill("u3 France")
        assert status(page).startswith("0 of 80")  # u3 is of Japan
        search.fill("u3 japan")
        assert listed(page) == [
            "p3",
            "p11",
            "p19",
            "p27",
            "p35",
            "p43",
            "p51",
            "p59",
            "p3",
            "p11",
            "p19",
        ]
        search.fill("tuned answers 41")
        assert listed(page) == ["p41"]
        search.fill("🇵🇪")
        assert listed(page) == [f"p0 {HOSTILE}"]
        search.fill("(.*")
        assert listed(page) == []


def test_a_pair_is_opened_read_and_closed_by_keyboard_alone(
    browser: Browser, hostile: Path
) -> None:
    with opened(browser, hostile) as page:
        page.get_by_role("searchbox").focus()
        page.keyboard.type("kenya")
        assert listed(page)[:2] == ["p2", "p10"]
        page.locator("#pairs-table thead button").first.focus()
        for _ in range(4):
            page.keyboard.press("Tab")  # over the other heads to the first pair
        page.keyboard.press("Enter")
        title = page.locator("#pairs-open")
        assert title.text_content() == "p2"
        assert page.evaluate("document.activeElement.id") == "pairs-open"
        page.keyboard.press("ArrowRight")
        assert title.text_content() == "p10"
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")  # there is none before it
        assert title.text_content() == "p2"
        assert page.is_disabled("#pairs-before") and not page.is_disabled("#pairs-after")
        page.keyboard.press("Escape")
        assert not page.is_visible("#pairs-dialog")
        assert page.evaluate("document.activeElement.textContent") == "p2"


def test_an_open_pair_shows_everything_that_the_run_keeps_of_it(
    browser: Browser, hostile: Path
) -> None:
    scored = margins_of(hostile.parent)
    with opened(browser, hostile) as page:
        page.get_by_role("button", name="p5", exact=True).first.click()
        found = page.inner_text("#pairs-pair")
        for stage in ("base", "tuned"):
            margin = scored[stage, "in_domain"]["p5"]
            sign, mark = ("+", "✓") if margin > 0 else ("−", "✗")
            shown = f"{stage} margin, nats a token\n{sign}{float(f'{abs(margin):.5g}')} {mark}"
            assert shown in found
        for text in (
            "Question 5: which of these is the better one?",
            "The fitting answer to 5.",
            "The contradicting answer to 5.",
            "High safety, Low fluency.",
            f"tuned answers 5 {HOSTILE}",
            "judge-1: no verdict: refused",
            "dvb_judge: no label",
        ):
            assert text in found
        page.get_by_role("button", name="Close").click()
        page.get_by_role("button", name="p4", exact=True).first.click()
        assert (
            "judge-1: 25 of 100; the fitting answer 80, the contradicting one 20. tuned answers 4"
            in page.inner_text("#pairs-pair")
        )


def test_what_the_data_says_is_text_and_nothing_else(browser: Browser, hostile: Path) -> None:
    with opened(browser, hostile) as page:
        page.get_by_role("button", name=f"p0 {HOSTILE}").click()
        dialog = page.locator("#pairs-dialog")
        assert dialog.locator("#pairs-open").text_content() == f"p0 {HOSTILE}"
        assert dialog.locator(".pairs-text").first.text_content() == HOSTILE
        assert dialog.locator(".pairs-text").nth(1).text_content() == f"{RTL} {EMOJI}"
        assert dialog.locator("script, img").count() == 0
        right = (
            "getComputedStyle(document.querySelectorAll('#pairs-pair .pairs-text')[1]).direction"
        )
        assert page.evaluate(right) == "rtl"
        long = dialog.locator(".pairs-text").nth(2)
        assert len(long.text_content() or "") < 2_000
        dialog.get_by_role("button", name=f"Show all {len(LONG):,} characters").click()
        assert long.text_content() == LONG
        assert page.locator("img").count() == 0
        assert page.locator("script:not([type])").count() == 1


def test_without_javascript_the_worst_pairs_are_read(browser: Browser, hostile: Path) -> None:
    scored = margins_of(hostile.parent)
    worst = sorted(
        (margin, id)
        for (stage, _), margins in scored.items()
        if stage == "tuned"
        for id, margin in margins.items()
    )[:10]
    for width in WIDTHS:
        with opened(browser, hostile, width=width, javascript=False) as page:
            assert not page.is_visible("#pairs-explorer")
            rows = page.locator("#pairs-printed tbody tr")
            assert rows.locator("bdi").all_text_contents() == [id for _, id in worst]
            shown = rows.locator("td:last-child").all_text_contents()
            assert shown == [f"{margin:+.2f}" for margin, _ in worst]
    with opened(browser, hostile) as page:
        assert not page.is_visible("#pairs-printed")
        page.emulate_media(media="print")
        assert page.is_visible("#pairs-printed") and not page.is_visible("#pairs-explorer")


def test_a_page_to_send_elsewhere_has_no_text_and_no_profile(
    browser: Browser, hostile: Path
) -> None:
    page_path = write_report(hostile.parent, texts=False)
    assert page_path == hostile.parent / "shared" / "report.html"
    with opened(browser, page_path) as page:
        page.get_by_role("button", name="p5", exact=True).first.click()
        assert "The texts of this pair are not in this page." in page.inner_text("#pairs-pair")
        found = page.locator(SECTION).text_content() or ""
        assert "Ids and numbers of 80 pairs." in found
        for text in ("which of these", "The fitting", "tuned answers", "Student", "Japan", "High"):
            assert text not in found


@pytest.mark.parametrize("stages", [("base",), ("tuned",)])
def test_one_person_and_one_stage(browser: Browser, tmp_path: Path, stages: tuple[str]) -> None:
    margins = {stage: drawn_margins(3)[stage] for stage in stages}
    run = finish_run(tmp_path / "run", {"in_domain": Measured(made_pairs(3, people=1), margins)})
    with opened(browser, write_report(run.path), width=390) as page:
        heads = page.locator("#pairs-table thead button").all_text_contents()
        assert heads == ["pair", *stages]
        assert status(page) == "3 of 3 pairs, page 1 of 1"
        page.locator("#pairs-table tbody button").first.click()
        assert wider_than_their_column(page, "#pairs-dialog") == []


def test_answers_without_scores_have_labels_and_no_margin(browser: Browser, tmp_path: Path) -> None:
    answered = Measured(made_pairs(6), answers={"base": [f"It says {n}." for n in range(6)]})
    run = finish_run(tmp_path / "run", {"in_domain": answered})
    with opened(browser, write_report(run.path)) as page:
        assert page.locator("#pairs-table thead button").all_text_contents() == ["pair"]
        choose(page, "base answer, paa/dvb_judge", "won")
        assert listed(page) == ["p0", "p3"]
        page.locator("#pairs-table tbody button").first.click()
        assert "It says 0." in page.inner_text("#pairs-pair")
    with opened(browser, run.report, javascript=False) as page:
        assert "Nothing was scored here" in page.inner_text("#pairs-printed")


@pytest.mark.slow
def test_a_run_of_24_000_pairs_and_75_countries(browser: Browser, tmp_path: Path) -> None:
    """Built within a minute, below 6 MB, and usable within 3 s."""
    countries = [f"Country {number}" for number in range(75)]
    pairs = [
        replace(pair, chosen=pair.chosen + " And so on." * 80, rejected=" Not so." * 120)
        for pair in made_pairs(24_000, people=1_500, countries=countries)
    ]
    run = finish_run(tmp_path / "run", {"in_domain": Measured(pairs, drawn_margins(24_000))})
    began = time.perf_counter()
    report = write_report(run.path)
    assert time.perf_counter() - began < 60
    assert report.stat().st_size < 6e6
    assert min(seconds_to_sort(browser, report) for _ in range(3)) < 3
    with opened(browser, report) as page:
        assert "texts of 1,000: " in page.inner_text(SECTION)
        choose(page, "country of birth", "Country 74")
        assert status(page).startswith("320 of 24,000 pairs")
        page.get_by_role("searchbox").fill("u74")
        assert status(page).startswith("32 of 24,000 pairs")  # of u74 and u749


def seconds_to_sort(browser: Browser, report: Path) -> float:
    """From asking for the page until its table is sorted by a column."""
    began = time.perf_counter()
    with opened(browser, report) as page:
        page.locator("#pairs-table").get_by_role("button", name="tuned").click()
        return time.perf_counter() - began
