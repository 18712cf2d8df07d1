"""The marks of a figure's SVG, with their labels and places."""

import re
from xml.etree import ElementTree

NAMESPACE = "{http://www.w3.org/2000/svg}"


def drawn_marks(svg: str, role: str = "value") -> dict[str, tuple[float, float]]:
    """Label for screen readers -> x and y in pixels, within the group of marks."""
    found = {}
    for mark in ElementTree.fromstring(svg).iter():
        if mark.get("aria-roledescription") == role:
            place = re.match(r"translate\(([-\d.e]+),([-\d.e]+)\)", mark.get("transform", ""))
            label = mark.get("aria-label", "")
            assert label not in found, f"{label} is drawn twice"
            found[label] = (float(place[1]), float(place[2])) if place else (0.0, 0.0)
    return found
