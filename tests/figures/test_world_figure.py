"""The map: no country with a value vanishes, and what is held back has no value."""

import re
from math import floor

import pycountry
import pytest
from drawn_marks import drawn_marks
from hypothesis import given
from hypothesis import strategies as st

from mvp_align.figures.axis import Unit
from mvp_align.figures.classes import value_classes
from mvp_align.figures.figure import Figure, Words
from mvp_align.figures.world_figure import Place, world_figure

WORDS = Words("map", "acc@0 by country", "A map.", "acc@0.")


def drawn(places: list[Place], unit: Unit = "share") -> Figure:
    figure = world_figure(places, WORDS, unit=unit)
    assert figure is not None
    return figure


def test_every_country_of_the_world_is_drawn_or_listed() -> None:
    countries = [country.name for country in pycountry.countries]
    places = [Place(name, at / 300, f"{name}={at}") for at, name in enumerate(countries)]
    figure = drawn(places)
    marks = set(drawn_marks(figure.svg(), "country"))
    listed = set(figure.words.caption.split("Not on the map: ")[1].removesuffix(".").split("; "))
    assert marks | listed == {place.says for place in places}
    assert not marks & listed
    assert len(marks) > 230
    assert {"Singapore", "Malta", "Hong Kong"} <= {mark.split("=")[0] for mark in marks}
    assert {"Guadeloupe", "Antarctica"} <= {name.split("=")[0] for name in listed}


def test_names_that_are_no_country_or_the_same_one_are_listed() -> None:
    places = [
        Place("India", 0.5, "India 50 %"), Place("England", 0.6, "England 60 %"),
        Place("Scotland", 0.7, "Scotland 70 %"), Place("Atlantis", None, "Atlantis: held back"),
    ]  # fmt: skip
    figure = drawn(places)
    assert list(drawn_marks(figure.svg(), "country")) == ["India 50 %"]
    assert figure.words.caption == (
        "acc@0. Not on the map: England 60 %; Scotland 70 %; Atlantis: held back."
    )


def test_what_is_held_back_is_hatched() -> None:
    places = [Place("India", 0.0, "India 0 %"), Place("Brazil", None, "Brazil: too few people")]
    svg = drawn(places).svg()
    fill = dict(re.findall(r'<path aria-label="([^"]+)"[^>]*fill="([^"]+)"', svg))
    assert fill["Brazil: too few people"] == "url(#hatch)" != fill["India 0 %"]
    assert 'id="hatch"' in svg
    assert world_figure([Place("Brazil", None, "x")], WORDS, unit="share") is None


@pytest.mark.parametrize("unit", ["share", "points", "number"])
@given(data=st.data())
def test_a_value_lies_in_its_class(unit: Unit, data: st.DataObject) -> None:
    bounds = {"share": (0, 1), "points": (-1, 1), "number": (-50, 50)}[unit]
    values = data.draw(st.lists(st.floats(*bounds), min_size=1, max_size=30))
    classes, labels = value_classes(values, unit)
    assert len(classes) <= 6
    assert len(set(classes.values())) == len(classes), "two classes look alike"
    ends = [tuple(map(float, re.findall(r"[-+]?[\d.]+(?:e[-+]?\d+)?", label))) for label in classes]
    assert ends == sorted(ends)
    widths = {round(high - low, 6) for low, high in ends}
    assert len(widths) == 1
    scale = 1 if unit == "number" else 100
    assert unit == "number" or widths.pop() >= 1, "a class of fractions of points"
    for value, label in zip(values, labels, strict=True):
        low, high = ends[list(classes).index(label)]
        assert low - 1e-6 <= value * scale <= high + 1e-6
    if unit == "points":
        assert [floor(low) < 0 for low, _ in ends] == [True] * 3 + [False] * 3


def test_a_class_holds_its_lower_end_whatever_floats_say() -> None:
    classes, labels = value_classes([0.3, 0.6, 1.0], "number")
    assert labels[1] == "0.6 to 0.8" and "0.4 to 0.6" in classes
