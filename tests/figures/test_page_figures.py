"""Figures in a page, in headless Chromium: drawn without a request, read by keyboard."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import altair
import pytest
from jsonschema.exceptions import ValidationError

from mvp_align.figures.curve_figure import CurveLine, curve_figure
from mvp_align.figures.figure import Figure, Words
from mvp_align.figures.interval_figures import IntervalRow, Whisker, dot_figure
from mvp_align.figures.page_figures import (
    content_policy,
    drawing_script,
    figure_html,
    figure_style,
    shared_html,
)
from mvp_align.figures.world_figure import Place, world_figure

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "</script><script>window.hacked = 1</script><img src=http://evil.example/x onerror=a>"
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


def figures() -> list[Figure]:
    rows = [
        IntervalRow(name, (Whisker("base", value, value - 0.1, value + 0.1, f"{name}: {value}"),))
        for name, value in ((HOSTILE, 0.25), ("safety", 0.5))
    ]
    india = [Place("India", 0.5, f"India {HOSTILE}")]
    made = [
        dot_figure([(HOSTILE, rows)], Words("dots", HOSTILE, HOSTILE, HOSTILE)),
        world_figure(india, Words("map", HOSTILE, HOSTILE, HOSTILE), unit="share"),
    ]
    return [figure for figure in made if figure is not None]


def page_of(made: list[Figure]) -> str:
    script = drawing_script()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>figures</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{content_policy([script])}">'
        f"<style>{figure_style()}</style></head><body>"
        f"{''.join(map(str, map(figure_html, made)))}{shared_html(made)}"
        f'<script type="module">{script}</script></body></html>'
    )


@pytest.mark.parametrize("width", [390, 1280])
def test_figures_are_drawn_alone_and_read_by_keyboard(
    browser: Browser, tmp_path: Path, width: int
) -> None:
    path = tmp_path / "page.html"
    path.write_text(page_of(figures()), encoding="utf-8")
    problems: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.set_default_timeout(WAIT_MS)
    page.on("console", lambda said: problems.append(said.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda sent: problems.append(sent.url) if sent.url != path.as_uri() else None
    )
    page.goto(path.as_uri())
    page.wait_for_selector("#map [aria-roledescription=country]", state="attached")
    labels = page.locator("#dots [aria-roledescription=value]")
    assert [one.get_attribute("aria-label") for one in labels.all()] == [
        f"{HOSTILE}: 0.25", "safety: 0.5",
    ]  # fmt: skip
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.focus("#dots svg")
    page.keyboard.press("ArrowDown")
    assert page.text_content("#dots .readout") == f"{HOSTILE}: 0.25"
    page.keyboard.press("ArrowDown")
    assert page.text_content("#dots .readout") == "safety: 0.5"
    labels.nth(0).hover()
    page.wait_for_function("document.querySelector('#dots .readout').textContent.includes('0.25')")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    # the policy holds: code made of text does not run
    page.evaluate("document.body.append(Object.assign(document.createElement('script'),"
                  " {textContent: 'window.hacked = 2'}))")  # fmt: skip
    assert page.evaluate("window.hacked") is None
    assert [text for text in problems if "Content Security Policy" not in text] == []
    page.close()


def test_a_page_has_the_same_bytes_each_time_and_names_its_scripts() -> None:
    assert page_of(figures()) == page_of(figures())
    assert "</script" not in drawing_script()
    assert re.fullmatch(
        r"default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline';"
        r" script-src 'sha256-[\w+/]+='",
        content_policy(["a"]),
    )
    assert content_policy([]).endswith("script-src 'none'")


def test_whole_specifications_are_vega_lites() -> None:
    """altair validates parts as they are made, and here what was made of them."""
    line = curve_figure([CurveLine("a", [1, 2], [0.5, 0.7], dots=True)], Words("c", "", "", ""))
    for figure in [*figures(), line]:
        assert figure is not None
        altair.LayerChart.from_dict(figure.spec)
        with pytest.raises(ValidationError):
            altair.LayerChart.from_dict({**figure.spec, "layer": [{"mark": "no such mark"}]})
