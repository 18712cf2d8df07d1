"""Data that figures share: a page holds them once."""

import json
from functools import cache
from pathlib import Path
from typing import Any

OUTLINES = "outlines"
FILES = {OUTLINES: "countries-110m.json"}


@cache
def shared_data(name: str) -> Any:
    """The data of that name. Raises KeyError for an unknown one."""
    return json.loads(_folder().joinpath(FILES[name]).read_text(encoding="utf-8"))


@cache
def dots() -> dict[str, tuple[float, float]]:
    """ISO numeric code -> longitude and latitude, of countries too small for an outline."""
    found = json.loads(_folder().joinpath("dots.json").read_text(encoding="utf-8"))
    return {code: (longitude, latitude) for code, (longitude, latitude) in found.items()}


def outlined() -> frozenset[str]:
    """ISO numeric codes of the countries that have an outline."""
    countries = shared_data(OUTLINES)["objects"]["countries"]["geometries"]
    return frozenset(country["id"] for country in countries if "id" in country)


def _folder() -> Path:
    return Path(__file__).with_name("outlines")
