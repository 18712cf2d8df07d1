"""The pages of several runs, in headless Chromium: what they show is what was computed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser_pages import WIDTHS, inaccessible, opened, wider_than_their_column
from compared_runs import Compose, compared_run, drawn_margins, files_of

from mvp_align.errors import UserError
from mvp_align.metrics.opa import ACC
from mvp_align.reporting.aggregate import aggregate
from mvp_align.reporting.aggregate_page import write_aggregate
from mvp_align.reporting.compare_page import default_page, headline, write_comparison
from mvp_align.reporting.comparison import Comparison, compare_set
from mvp_align.runs.curve_points import CurvePoint
from mvp_align.runs.pair_files import read_scores

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

IDS = [f"p{number}" for number in range(120)]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
CURVES = [
    CurvePoint(step, {"train/loss": 0.7 - step / 100, "eval/in_domain/opa/acc@0": step / 50})
    for step in range(1, 11)
]


def page_of(runs: list[Path], page: Path) -> tuple[Path, Comparison]:
    found = compare_set(runs, "in_domain")
    return write_comparison(runs, found, page), found


@pytest.fixture(scope="module")
def hostile(
    compose: Compose, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Comparison, list[Path]]:
    """Three runs: one of a hostile name, one with a long name, on fewer pairs and without a base.

    All have hostile groups and texts.
    """
    folder, base = tmp_path_factory.mktemp("runs"), drawn_margins(0, IDS)
    tags, texts = {}, {}
    for number, id in enumerate(IDS):
        tags[id] = {"gender": HOSTILE if number % 2 else "ذكر", "dimension": "safety"}
        texts[id] = f"{HOSTILE} שלום 🎉 {id}" + " and so on" * (600 if number % 3 else 1)

    def made(name: str, margins: dict[str, float], *settings: str, **more: Any) -> Path:
        known = {id: tags[id] for id in margins}
        return compared_run(
            compose, folder / name, margins, *settings, tags=known, questions=texts, **more
        )

    runs = [
        made("one", drawn_margins(1, IDS), base=base, curves=CURVES),
        made(
            HOSTILE.replace("/", "_"),
            drawn_margins(2, IDS, 1.5),
            "train.beta=0.3",
            base=base,
            curves=CURVES[:5],
        ),
        made("a_long_name-" * 9 + "12", drawn_margins(3, IDS[20:]), "seed=13"),
    ]
    return *page_of(runs, folder / "page.html"), runs


def table_rows(page: Page, selector: str) -> list[list[str]]:
    """The texts of each row of a table, as they are seen."""
    return [
        [" ".join(cell.inner_text().split()) for cell in row.locator("th, td").all()]
        for row in page.locator(f"{selector} tbody tr").all()
    ]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_its_column_and_nothing_is_asked_for(
    browser: Browser, hostile: tuple[Path, Comparison, list[Path]], width: int, dark: bool
) -> None:
    with opened(browser, hostile[0], width=width, dark=dark) as page:
        page.locator("figure.drawn svg").last.wait_for()
        assert wider_than_their_column(page) == []
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert wider_than_their_column(page) == []
        assert inaccessible(page) == []


def test_the_page_shows_what_was_computed(
    browser: Browser, hostile: tuple[Path, Comparison, list[Path]]
) -> None:
    path, found, runs = hostile
    (acc,) = [one for one in found.metrics if one.metric == ACC]
    with opened(browser, path) as page:
        page.locator("figure#difference-0 svg").wait_for()
        assert page.locator("h1").inner_text() == headline(found)
        rows = table_rows(page, "[aria-label^='in_domain: tuned models']")
        assert [row[0] for row in rows] == [run.name for run in runs]
        for row, line in zip(rows, acc.lines, strict=True):
            assert row[1].startswith(f"{100 * line.value.value:.1f} [")
            e = line.difference
            text = "-"
            if e and e.low is not None and e.high is not None:
                text = f"{100 * e.value:+.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]"
            assert row[2] == text
            label = page.locator(f"figure#accuracy-0 svg [aria-label*='{row[1]}']")
            assert label.count() >= 1
            if e:
                assert page.locator(f"figure#difference-0 svg [aria-label*='{text}']").count() >= 1
        flips = table_rows(page, "[aria-label^='in_domain: pairs that flipped']")
        assert [row[1:] for row in flips] == [
            [str(len(one.gained)), str(len(one.lost)), "100"] for one in found.flips
        ]
        notices = page.locator(".notice").all_inner_texts()
        assert notices[0] == (
            "in_domain: compared on the 100 pairs that all runs share, of up to 120 in a run."
        )
        assert [line for line in notices if line.startswith("one: 20 of its 120 pairs")]
        settings = table_rows(page, "[aria-label='Settings that differ']")
        assert {row[0] for row in settings} == {"seed", "train.beta"}
        assert ["train.beta", "0.3", runs[1].name] in settings
        without = page.locator("section[aria-labelledby='curves'] p.quiet").inner_text()
        assert without.endswith(f": {runs[2].name}.")


def test_a_pairs_texts_are_shown_as_texts(
    browser: Browser, hostile: tuple[Path, Comparison, list[Path]]
) -> None:
    path, found, _ = hostile
    with opened(browser, path) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        flip = found.flips[0].largest[0]
        assert flip.texts is not None
        shown = page.locator("dl.pair dd").first.inner_text()
        assert shown.startswith(flip.texts.question[:200])
        assert page.locator("script:not([type])").count() == 0
        assert page.locator("img").count() == 0
        long = next(text for text in page.locator("dl.pair dd").all_inner_texts() if "[…" in text)
        assert re.search(r"\[… \d+ more letters\]$", long) and len(long) < 2100


def test_curves_hold_the_points_of_the_runs(
    browser: Browser, hostile: tuple[Path, Comparison, list[Path]]
) -> None:
    with opened(browser, hostile[0]) as page:
        curve = page.locator("figure.drawn", has_text="eval/in_domain/opa/acc@0 over")
        curve.locator("svg").wait_for()
        labels = [
            mark.get_attribute("aria-label") or ""
            for mark in curve.locator("svg [aria-roledescription='value']").all()
        ]
        assert len([label for label in labels if label.startswith("one, step ")]) == 10
        assert len(labels) == 15
        assert "one, step 10: 0.2" in labels


def test_two_runs_one_user_no_base_no_groups(
    browser: Browser, compose: Compose, tmp_path: Path
) -> None:
    ids, who = IDS[:6], dict.fromkeys(IDS[:6], "user1")
    runs = [
        compared_run(
            compose,
            tmp_path / n,
            drawn_margins(s, ids),
            users=who,
            texts=False,
            tags={id: {} for id in ids},
        )
        for n, s in (("a", 1), ("b", 2))
    ]
    path, _ = page_of(runs, tmp_path / "page.html")
    with opened(browser, path, width=390) as page:
        page.locator("figure.drawn svg").last.wait_for()
        assert (
            page.locator("h1").inner_text()
            == "b against a: one user alone, so there is no interval."
        )
        assert page.get_by_text("No group is shown to have moved.").count() == 1
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.get_by_text("The run folders hold no texts of these pairs.").count() == 1
        assert wider_than_their_column(page) == []


def test_thirty_runs_on_one_page(browser: Browser, compose: Compose, tmp_path: Path) -> None:
    runs = [
        compared_run(
            compose,
            tmp_path / f"lora_dpo-smollm2-sample-{seed}",
            drawn_margins(seed, IDS, seed / 20),
            f"seed={seed}",
            curves=CURVES,
        )
        for seed in range(30)
    ]
    path, found = page_of(runs, default_page(runs))
    assert path.parent == tmp_path and path.stat().st_size < 6e6
    (acc,) = [one for one in found.metrics if one.metric == ACC]
    higher = [line for line in acc.lines[1:] if line.p_holm is not None and line.p_holm < 0.05]
    assert f"Of 29 runs, {len(higher)} have a higher acc@0 than" in headline(found)
    with opened(browser, path, width=390) as page:
        page.locator("figure.drawn svg").last.wait_for()
        assert wider_than_their_column(page) == []
        assert len(table_rows(page, "[aria-label^='in_domain: tuned models']")) == 30


def test_a_set_that_cannot_be_compared_is_named(compose: Compose, tmp_path: Path) -> None:
    runs = []
    for name, ids in (("a", IDS[:10]), ("b", IDS[10:20])):
        run = compared_run(compose, tmp_path / name, drawn_margins(1, IDS))
        compared_run(compose, tmp_path / f"{name}2", drawn_margins(1, ids), set_name="ufp4")
        for part in ("scores", "groups"):
            for file in (tmp_path / f"{name}2" / part).iterdir():
                file.rename(run / part / file.name)
        runs.append(run)
    path, _ = page_of(runs, tmp_path / "page.html")
    text = path.read_text(encoding="utf-8")
    assert "ufp4 is not compared. These runs share no pair of ufp4 (a has 10, b has 10;" in text


def test_runs_of_one_name_are_told_apart(compose: Compose, tmp_path: Path) -> None:
    runs = [
        compared_run(compose, tmp_path / n / "r", drawn_margins(1, IDS[:8])) for n in ("x", "y")
    ]
    text = page_of(runs, tmp_path / "page.html")[0].read_text(encoding="utf-8")
    listed = text.partition('<h2 id="runs">')[2].partition("Settings that differ")[0]
    assert ">x/r<" in listed and ">y/r<" in listed


def test_a_page_that_cannot_be_written(compose: Compose, tmp_path: Path) -> None:
    runs = [compared_run(compose, tmp_path / n, drawn_margins(1, IDS[:8])) for n in "ab"]
    with pytest.raises(UserError, match=r"page\.html cannot be written"):
        page_of(runs, runs[0] / "config.yaml" / "page.html")


def test_seeds_on_a_page(browser: Browser, compose: Compose, tmp_path: Path) -> None:
    base = drawn_margins(0, IDS)
    for seed in (12, 13, 14):
        compared_run(
            compose,
            tmp_path / "runs" / f"{HOSTILE[:8]}{seed}",
            drawn_margins(seed, IDS, 0.5),
            f"seed={seed}",
            base=base,
            curves=CURVES,
        )
    groups, broken = aggregate([str(tmp_path / "runs")])
    path = write_aggregate(groups, broken, tmp_path / "page.html")
    (lift,) = [
        row.estimate for row in groups[0].summaries if (row.metric, row.stage) == (ACC, "lift")
    ]
    assert lift.both is not None
    words = f"{100 * lift.mean:+.1f} [{100 * lift.both[0]:.1f}, {100 * lift.both[1]:.1f}]"
    for width in WIDTHS:
        with opened(browser, path, width=width) as page:
            page.locator("figure.drawn svg").last.wait_for()
            assert words in page.locator("h1").inner_text()
            assert wider_than_their_column(page) == []
            assert inaccessible(page) == []
            for folder, seed in zip(groups[0].folders, groups[0].seeds, strict=True):
                scores = read_scores(files_of(folder))
                mean = sum(score.margin > 0 for score in scores) / len(scores)
                row = page.locator(f"figure.drawn svg [aria-label*='tuned {100 * mean:.1f}']")
                assert row.count() >= 1, seed
