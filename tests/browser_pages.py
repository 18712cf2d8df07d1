"""Open a page of ours in a browser, and say what is wrong with it.

    with opened(browser, path, width=390, dark=True) as page:
        assert wider_than_their_column(page) == []
        assert inaccessible(page) == []

`browser` is a fixture. A page that says something in the console, raises, opens a dialog or asks
for anything but its own file fails when it is closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Request

WIDTHS = (390, 1280)
"""CSS pixels of a phone and of a desktop."""
WAIT_MS = 20_000

_WIDER = """(within) => {
  const box = (element) => element.getBoundingClientRect();
  const described = (element) =>
    `${element.tagName.toLowerCase()}${element.id ? "#" + element.id : ""}`
    + ` "${(element.textContent ?? "").trim().slice(0, 60)}"`;
  const forReadersAloud = (element) => element !== null && (
    (getComputedStyle(element).position === "absolute" && box(element).width <= 1)
    || forReadersAloud(element.parentElement));
  const found = [];
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) {
    found.push(`the page is ${root.scrollWidth} px wide in a window of ${root.clientWidth}`);
  }
  for (const element of document.querySelector(within).querySelectorAll("*")) {
    const style = getComputedStyle(element);
    if (!element.checkVisibility() || element.closest("svg, pre")) continue;
    if (forReadersAloud(element)) continue;
    if (style.position === "absolute" || style.display.startsWith("inline")) continue;
    if (box(element).right > box(element.parentElement).right + 1) {
      found.push(`${described(element)} ends ${Math.round(box(element).right
        - box(element.parentElement).right)} px right of its column`);
    }
    if ((style.overflowX !== "visible" || element.matches("td, th"))
        && element.scrollWidth > element.clientWidth + 1
        && !element.matches("input, select, textarea")) {
      found.push(`${described(element)} shows ${element.clientWidth} of ${element.scrollWidth} px`);
    }
  }
  return found;
}"""


@contextmanager
def opened(
    browser: Browser,
    path: Path,
    *,
    width: int = 1280,
    dark: bool = False,
    javascript: bool = True,
) -> Iterator[Page]:
    """Open the page at `path`. AssertionError at the end where it did what no page of ours may."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        java_script_enabled=javascript,
    )
    page, problems = context.new_page(), list[str]()
    page.set_default_timeout(WAIT_MS)

    def said(message: ConsoleMessage) -> None:
        problems.append(f"console: {message.text}")

    def asked(request: Request) -> None:
        if request.url != path.as_uri() and not request.url.startswith("data:"):
            problems.append(f"request: {request.url}")

    def asks(dialog: Dialog) -> None:
        problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page.on("console", said)
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("request", asked)
    page.on("dialog", asks)
    try:
        page.goto(path.as_uri())
        yield page
        assert problems == []
    finally:
        context.close()


def wider_than_their_column(page: Page, within: str = "body") -> list[str]:
    """Return the visible elements below `within` (a selector) that stick out of their parent, or
    whose content is cut off or scrolls sideways. Code in `pre` may."""
    return page.evaluate(_WIDER, within)


def inaccessible(page: Page, within: str = "body") -> list[str]:
    """Return axe-core's serious and critical findings below `within` (a selector)."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page, context=within).response["violations"]
    return [
        f"{one['id']} ({one['impact']}): {node['target']} {node['failureSummary']}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
