"""A figure as a value: what it shows in words, and its Vega-Lite specification."""

import json
from dataclasses import dataclass
from typing import Any

from mvp_align.figures.shared import shared_data
from mvp_align.figures.theme import lit, vega_config

HATCH = (
    '<defs><pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse"'
    ' patternTransform="rotate(45)"><rect width="5" height="5" fill="var(--land)"/>'
    '<path d="M0 0V5" stroke="var(--quiet)" stroke-width="1.6"/></pattern></defs>'
)
"""What `url(#hatch)` in a figure is filled with."""


@dataclass(frozen=True, slots=True)
class Words:
    """What is said of a figure. `name` is unique on a page. `text` is for readers who do not see
    it; every mark has a label of its own as well. `caption` says how it is read."""

    name: str
    title: str
    text: str
    caption: str


@dataclass(frozen=True, slots=True)
class Figure:
    """Words, and a Vega-Lite specification."""

    words: Words
    spec: dict[str, Any]
    shared: str = ""
    """The name of data that several figures of a page draw on, and that the page holds once."""

    def svg(self, width: int = 720) -> str:
        """The figure as an image in light colours, `width` pixels wide, drawn without a browser.

        The same figure gives the same bytes. Raises ValueError where Vega-Lite refuses the
        specification.
        """
        import vl_convert

        spec = {**self.spec, "width": width}
        if spec.get("height") == "container":
            spec["height"] = width // 2
        if self.shared:
            spec["datasets"] = spec.get("datasets", {}) | {self.shared: shared_data(self.shared)}
        drawn = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
        if "url(#hatch)" in drawn:
            drawn = drawn.replace("<g ", f"{HATCH}<g ", 1)
        return lit(drawn)

    def json(self) -> str:
        """The specification as it stands in a page's `<script>`."""
        return escaped_json(self.spec)


def escaped_json(value: Any) -> str:
    """JSON for the inside of a `<script>`, which no text in it can end. Raises ValueError for
    numbers that are not finite."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def new_figure(chart: Any, words: Words, shared: str = "") -> Figure:
    """Make a figure of an altair chart: as wide as its column, in the look of all others."""
    spec = chart.to_dict(validate=False)  # its parts were, and tests check the whole
    del spec["$schema"]  # an address, which nobody is to ask for
    spec |= {
        "width": spec.get("width", "container"),
        "autosize": {"type": "fit-x", "contains": "padding"},
        "description": words.text,
        "config": vega_config(),
    }
    if spec.get("height") == "container":
        spec["autosize"]["type"] = "fit"
    return Figure(words, spec, shared)
