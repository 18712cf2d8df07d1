"""One look for every page and figure: its colours, light and dark, and what Vega-Lite is told.

Figures name colours as CSS does, `var(--base)`, so that a page which turns dark, or is printed,
redraws nothing. Pairs of colours that stand side by side differ in lightness too, so that they stay
apart for readers who see no red or green, and on a printer without colours.
"""

import re
from typing import Any

COLOURS: dict[str, tuple[str, str]] = {
    "paper": ("#fcfbf8", "#14181c"),
    "card": ("#ffffff", "#1b2025"),
    "ink": ("#1d2329", "#e8e6e1"),
    "quiet": ("#5b6670", "#a3adb6"),
    "rule": ("#dfdcd3", "#343b42"),
    "band": ("#f3f1ea", "#21272d"),
    "notice": ("#fdf3dc", "#332a17"),
    "base": ("#77828d", "#9aa6b1"),
    "tuned": ("#0a6c7d", "#4cc3d4"),
    "ceiling": ("#b0480b", "#f0965a"),
    "land": ("#eceae3", "#262c32"),
    "coast": ("#b9b5a9", "#49525b"),
    **{
        f"run-{number}": pair
        for number, pair in enumerate(
            [
                ("#0a6c7d", "#4cc3d4"),
                ("#c4500b", "#f0965a"),
                ("#6a3d9a", "#b99ae0"),
                ("#857000", "#d9c24a"),
                ("#1f5fbf", "#7fb0f5"),
                ("#b0246b", "#f08abf"),
                ("#3c7a2c", "#8fce7c"),
                ("#5b6670", "#a3adb6"),
            ]
        )
    },
    **{
        f"more-{number}": pair
        for number, pair in enumerate(
            [
                ("#cfe6e4", "#30636e"),
                ("#a3d0ce", "#33737f"),
                ("#70b3b5", "#3a8c95"),
                ("#3d939e", "#53a7ae"),
                ("#166c7d", "#86cacd"),
                ("#0a4355", "#cdf0ec"),
            ]
        )
    },
    **{
        f"fell-rose-{number}": pair
        for number, pair in enumerate(
            [
                ("#8c3a06", "#f6a15f"),
                ("#c8722f", "#bd6e30"),
                ("#ecc08f", "#774a28"),
                ("#9fd0cd", "#23606a"),
                ("#3f97a1", "#3f9aa6"),
                ("#0b5668", "#8fdde2"),
            ]
        )
    },
}
"""Name -> its colour on light and on dark."""

RUNS = tuple(f"var(--{name})" for name in COLOURS if name.startswith("run-"))
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
"""Lines of runs beyond the colours, and in print, differ by these."""
MORE = tuple(f"var(--{name})" for name in COLOURS if name.startswith("more-"))
"""From little to much."""
FELL_ROSE = tuple(f"var(--{name})" for name in COLOURS if name.startswith("fell-rose-"))
"""From far below zero to far above it; zero lies in the middle."""
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'


def css() -> str:
    """The colours as CSS variables: light, dark on screens that ask for it, and light in print."""
    light, dark = (
        " ".join(f"--{name}: {pair[at]};" for name, pair in COLOURS.items()) for at in (0, 1)
    )
    return (
        f":root {{ {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    )


def lit(svg: str) -> str:
    """Put the light colours in place of the variables, for an image that stands alone."""
    return re.sub(r"var\(--([a-z0-9-]+)\)", lambda name: COLOURS[name[1]][0], svg)


def vega_config() -> dict[str, Any]:
    """What every figure has in common, as the `config` of Vega-Lite."""
    return {
        "background": "transparent",
        "font": FONT,
        "padding": {"left": 2, "right": 10, "top": 4, "bottom": 4},
        "view": {"stroke": None},
        "text": {"fontSize": 13, "fill": "var(--ink)"},
        "axis": {
            "labelColor": "var(--quiet)",
            "titleColor": "var(--quiet)",
            "gridColor": "var(--rule)",
            "domain": False,
            "ticks": False,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelPadding": 6,
        },
        "legend": {
            "orient": "bottom",
            "direction": "horizontal",
            "labelColor": "var(--ink)",
            "labelFontSize": 12,
            "labelLimit": 320,
            "title": None,
            "symbolStrokeWidth": 2,
        },
    }
