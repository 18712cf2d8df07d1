"""Figures in a page: one script for all, a specification each, and no request to any network."""

import hashlib
from base64 import b64encode
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from markupsafe import Markup

from mvp_align.figures.figure import HATCH, Figure, escaped_json
from mvp_align.figures.shared import shared_data
from mvp_align.figures.theme import css


@cache
def drawing_script() -> str:
    """Vega, Vega-Lite and `draw.js` as the text of one `<script type="module">`.

    The same versions give the same bytes. It takes seconds the first time in a process.
    """
    import vl_convert

    snippet = Path(__file__).with_name("draw.js").read_text(encoding="utf-8")
    return vl_convert.javascript_bundle(snippet).replace("</script", "<\\/script")


@cache
def figure_style() -> str:
    """The CSS of a page with figures: its colours as variables, and how figures stand in it."""
    return css() + "\n" + Path(__file__).with_name("figures.css").read_text(encoding="utf-8")


def content_policy(scripts: Iterable[str]) -> str:
    """The Content-Security-Policy of a page that runs these scripts' texts and nothing else, and
    that asks nobody for anything."""
    hashes = " ".join(
        f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts
    )
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline';"
        f" script-src {hashes or repr('none')}"
    )


def figure_html(figure: Figure, *, hidden: bool = False) -> Markup:
    """The figure as HTML, to be drawn by `drawing_script`; `hidden`, until a choice shows it."""
    return Markup(
        '<figure class="drawn {kind}" id="{name}"{hidden}>\n'
        '<div class="plot"></div>\n'
        '<p class="readout" role="status"></p>\n'
        "<figcaption>{caption}</figcaption>\n"
        '<script type="application/json" data-shared="{shared}">{spec}</script>\n'
        "</figure>"
    ).format(
        kind="map" if figure.spec.get("height") == "container" else "rows",
        name=figure.words.name,
        hidden=Markup(" hidden") if hidden else "",
        caption=figure.words.caption,
        shared=figure.shared,
        spec=Markup(figure.json()),
    )


def shared_html(figures: Iterable[Figure]) -> Markup:
    """What the figures of a page share, once each; below them, before the script."""
    names = sorted({figure.shared for figure in figures if figure.shared})
    pattern = Markup(f'<svg class="patterns" aria-hidden="true">{HATCH}</svg>\n')
    return pattern + Markup("\n").join(
        Markup('<script type="application/json" id="shared-{}">{}</script>').format(
            name, Markup(escaped_json(shared_data(name)))
        )
        for name in names
    )
