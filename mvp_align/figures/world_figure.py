"""A map of the world: one value a country, with what is held back hatched."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pycountry

from mvp_align.figures.axis import Unit
from mvp_align.figures.classes import value_classes
from mvp_align.figures.figure import Figure, Words, new_figure
from mvp_align.figures.shared import OUTLINES, dots, outlined
from mvp_align.metrics.regions import iso3

HELD = "held back"
ANTARCTICA = "010"


@dataclass(frozen=True, slots=True)
class Place:
    """A country as the records write it. `value` is None where it is held back; `says` is how it
    reads in words."""

    country: str
    value: float | None
    says: str


def world_figure(places: Sequence[Place], words: Words, *, unit: Unit) -> Figure | None:
    """Draw each country in the colour of its value's class. None where no place has a value.

    Countries that are too small for an outline are dots. What cannot be drawn (no country's name,
    several names of one country, no place on the map) is listed in the caption with its value.
    """
    valued = [place for place in places if place.value is not None]
    if not valued:
        return None
    codes = {place.country: numeric_code(place.country) for place in places}
    drawn, listed = _told_apart(places, codes)
    classes, labels = value_classes([place.value or 0.0 for place in valued], unit)
    class_of = {place.country: label for place, label in zip(valued, labels, strict=True)}
    marks = [
        {
            "id": codes[place.country], "says": place.says, "value": place.value,
            "class": class_of.get(place.country, HELD),
        }
        for place in drawn
    ]  # fmt: skip
    if any(place.value is None for place in drawn):
        classes = {**classes, HELD: "url(#hatch)"}
    chart = _layers(marks, classes)
    if listed:
        not_there = f" Not on the map: {'; '.join(place.says for place in listed)}."
        words = replace(words, caption=words.caption + not_there)
    return new_figure(chart, words, OUTLINES)


def numeric_code(country: str) -> str | None:
    """ISO 3166-1's numeric code of a country by its name or code; None where it is no country's."""
    found = pycountry.countries.get(alpha_3=iso3(country) or "")
    return found.numeric if found else None


def _told_apart(
    places: Iterable[Place], codes: Mapping[str, str | None]
) -> tuple[list[Place], list[Place]]:
    """What can be drawn, and what cannot."""
    places = list(places)
    often = Counter(codes[place.country] for place in places)
    on_map = outlined() | dots().keys()
    drawn: list[Place] = []
    listed: list[Place] = []
    for place in places:
        code = codes[place.country]
        fits = code in on_map and code != ANTARCTICA and often[code] == 1
        (drawn if fits else listed).append(place)
    return drawn, listed


def _layers(marks: Sequence[Mapping[str, Any]], classes: Mapping[str, str]) -> Any:
    import altair as alt

    outlines = alt.Chart(
        alt.NamedData(OUTLINES, format=alt.TopoDataFormat(type="topojson", feature="countries"))
    ).transform_filter(f"datum.id !== '{ANTARCTICA}'")
    land = outlines.mark_geoshape(
        aria=False, fill="var(--land)", stroke="var(--coast)", strokeWidth=0.5
    )
    says = {
        "fill": alt.Fill(
            "class:N",
            scale=alt.Scale(domain=list(classes), range=list(classes.values())),
            legend=alt.Legend(columns=3, symbolType="square", symbolStrokeWidth=0),
        ),
        "description": alt.Description("says:N"),
        "tooltip": alt.Tooltip("says:N"),
    }
    shapes = [mark for mark in marks if mark["id"] in outlined()]
    colours = (
        outlines.transform_lookup(
            lookup="id",
            from_=alt.LookupData(
                data=alt.Data(values=shapes), key="id", fields=["value", "says", "class"]
            ),
        )
        .transform_filter("isValid(datum.class)")
        .mark_geoshape(stroke="var(--card)", strokeWidth=0.6, ariaRoleDescription="country")
        .encode(**says)
    )
    small = [
        {**mark, "longitude": at[0], "latitude": at[1]}
        for mark in marks
        if mark["id"] not in outlined() and (at := dots().get(mark["id"]))
    ]
    circles = (
        alt.Chart(alt.Data(values=small))
        .mark_circle(
            size=70, opacity=1, stroke="var(--ink)", strokeWidth=0.8, ariaRoleDescription="country"
        )
        .encode(longitude="longitude:Q", latitude="latitude:Q", **says)
    )
    layers = [land, *[colours] * bool(shapes), *[circles] * bool(small)]
    return alt.layer(*layers).project(type="equalEarth").properties(height="container")
