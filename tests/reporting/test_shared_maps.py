"""The map that trackers get shows each country's row, and names nobody that has none."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from mvp_align.metrics.rows import Row
from mvp_align.reporting.results import shown
from mvp_align.reporting.shared_maps import write_maps
from mvp_align.runs.run_folder import RunFolder

COUNTRY = "birth_country"
ACC = "opa/acc@0"


def row(stage: str, group: str, value: float, users: int, metric: str = ACC) -> Row:
    by = COUNTRY if group or metric != ACC else ""
    return Row(stage, "in_domain", metric, by, group, value, value, value, 3 * users, users)


ROWS = [
    *(row(stage, "", 0.6, 60) for stage in ("base", "tuned")),
    row("base", "Germany", 0.4, 20),
    row("tuned", "Germany", 0.75, 20),
    row("tuned", "Malta", 0.0, 6),
    row("tuned", "Fiji", 0.5, 7),
    row("tuned", "Prefer not to say", 0.25, 8),
    row("tuned", "", 2, 5, metric=f"{ACC}_suppressed"),
]


def marks(path: Path) -> dict[str, str]:
    """Country -> what its mark says, of a page that asks nobody for anything."""
    text = path.read_text("utf-8")
    assert not re.search(r"<script|<image|<link|href=\"http|url\(http", text)
    (svg,) = re.findall(r"<svg.*</svg>", text, flags=re.DOTALL)
    root = ElementTree.fromstring(svg)
    said = [
        mark.attrib["aria-label"]
        for mark in root.iter()
        if mark.attrib.get("aria-roledescription") == "country"
    ]
    return dict(one.split(": ", 1) for one in said)


def test_each_country_is_drawn_with_its_own_row(tmp_path: Path) -> None:
    (path,) = write_maps(RunFolder(tmp_path, resumed=False), ROWS)
    assert path == tmp_path / "shared" / "map-in_domain.html"
    drawn = marks(path)
    expected = {r.group: r for r in ROWS if r.stage == "tuned" and r.group}
    del expected["Prefer not to say"]  # no place on the map: in the words below it
    assert drawn == {
        name: f"{shown(found)}, {found.n} pairs of {found.users} people"
        for name, found in expected.items()
    }
    page = path.read_text("utf-8")
    assert "In domain: acc@0 of the tuned model by country of birth" in page
    assert "Not on the map: Prefer not to say: 25.0 % [25.0, 25.0], 24 pairs of 8 people." in page
    assert "2 groups have too few people to be shown: 5 people, 15 pairs." in page
    before = path.read_bytes()
    write_maps(RunFolder(tmp_path, resumed=False), ROWS)
    assert path.read_bytes() == before


def test_without_a_country_there_is_no_map(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, resumed=False)
    assert write_maps(run, [one for one in ROWS if one.group_by != COUNTRY]) == []
    assert write_maps(run, [replace(one, group="") for one in ROWS if one.group == ""]) == []
    assert not (tmp_path / "shared").exists()
