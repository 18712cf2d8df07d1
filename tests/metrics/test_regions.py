"""PRISM's country names all have a code and a region on each map; users' maps are validated."""

import json
from collections import Counter
from pathlib import Path

import pycountry
import pytest

from mvp_align.data.sample.published import BIRTH_COUNTRY
from mvp_align.errors import UserError
from mvp_align.metrics.regions import BUILT_IN, OTHER, UNSPECIFIED, iso3, load_regions, region_of

AUTHORS_OTHER = {
    "Norway",
    "Greece",
    "Sweden",
    "Kazakhstan",
    "Tonga",
    "Afghanistan",
    "Bosnia and Herzegovina",
}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("United States", "USA"),
        ("United Kingdom", "GBR"),
        ("Korea, Republic of", "KOR"),
        ("South Korea", "KOR"),
        ("Venezuela (Bolivarian Republic of)", "VEN"),
        ("Venezuela, Bolivarian Republic of", "VEN"),
        ("Venezuela", "VEN"),
        ("Hong Kong", "HKG"),
        ("Hong Kong (S.A.R.)", "HKG"),
        ("Viet Nam", "VNM"),
        ("Vietnam", "VNM"),
        ("Türkiye", "TUR"),
        ("Turkey", "TUR"),
        ("TÜRKIYE ", "TUR"),
        ("Côte d'Ivoire", "CIV"),
        ("Côte d’Ivoire", "CIV"),
        ("Cote d'Ivoire", "CIV"),
        ("Russian Federation", "RUS"),
        ("Russia", "RUS"),
        ("Czechia", "CZE"),
        ("Bosnia and Herzegovina", "BIH"),
        ("Iran (Islamic Republic of)", "IRN"),
        ("Trinidad & Tobago", "TTO"),
        ("The Gambia", "GMB"),
        ("St. Lucia", "LCA"),
        ("NLD", "NLD"),
        ("nz", "NZL"),
        ("Tanzania, United Republic of", "TZA"),
        ("Prefer not to say", None),
        ("", None),
        ("Atlantis", None),
        ("Yugoslavia", None),
    ],
)
def test_countries_have_codes_however_they_are_written(name: str, code: str | None) -> None:
    assert iso3(name) == code


def test_every_iso_country_is_found_by_each_of_its_names() -> None:
    for country in pycountry.countries:
        names = (
            country.name,
            country.alpha_3,
            country.alpha_2,
            *(getattr(country, "common_name", None),),
        )
        assert {iso3(name) for name in names if name} == {country.alpha_3}


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_country_of_prism_has_a_region(name: str) -> None:
    regions = load_regions(name)
    found = {country: region_of(country, regions) for country in BIRTH_COUNTRY}
    assert found.pop("Prefer not to say") == UNSPECIFIED
    other = {country for country, region in found.items() if region == OTHER}
    assert other <= AUTHORS_OTHER if name == "authors" else other == set()


def test_the_authors_map_is_theirs_but_for_a_misspelt_key() -> None:
    regions = load_regions("authors")
    assert len(regions) == 67
    assert Counter(regions.values()) == {
        "Western": 20,
        "Oceania": 1,
        "East Asia": 4,
        "Southeast Asia": 4,
        "South Asia": 5,
        "Africa": 8,
        "Eastern Europe": 11,
        "Middle East": 3,
        "Latin America": 11,
    }
    assert {region_of(country, regions) for country in AUTHORS_OTHER} == {OTHER}
    assert region_of("Viet Nam", regions) == region_of("Vietnam", regions) == "Southeast Asia"
    assert region_of("Latvia", regions) == "Western"
    assert region_of("Estonia", regions) == "Eastern Europe"


def test_the_un_map_has_every_iso_country_but_antarctica() -> None:
    regions = load_regions("un")
    assert {country.alpha_3 for country in pycountry.countries} - set(regions) == {"ATA"}
    assert len(set(regions.values())) == 17
    sample = {
        "GBR": "Northern Europe",
        "IRN": "Southern Asia",
        "CYP": "Western Asia",
        "NRU": "Micronesia",
        "SDN": "Northern Africa",
        "MEX": "Latin America and the Caribbean",
        "KAZ": "Central Asia",
    }
    assert {code: regions[code] for code in sample} == sample


def test_prisms_regions() -> None:
    regions = load_regions("prism")
    sample = {
        "USA": "US",
        "GBR": "UK",
        "CAN": "Northern America",
        "MEX": "Latin America and the Caribbean",
        "NZL": "Australia and New Zealand",
        "ISR": "Middle East",
        "TUR": "Middle East",
        "VNM": "Asia",
        "KAZ": "Asia",
        "ZAF": "Africa",
        "NOR": "Europe",
        "TON": "Oceania",
    }
    assert {code: regions[code] for code in sample} == sample
    assert set(regions.values()) == set(sample.values())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mine.yaml", "Chile: South\nNorway: North\n"),
        ("mine.yml", "South: [Chile]\nNorth: ['NO']\n"),
        ("mine.json", json.dumps({"CHL": "South", "North": ["Norway"]})),
    ],
)
def test_a_map_of_ones_own(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    regions = load_regions(str(tmp_path / name))
    assert regions == {"CHL": "South", "NOR": "North"}
    assert region_of("Peru", regions) == OTHER


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Atlantis: Sea\n", r"Atlantis: no country's name"),
        ("North: [NO]\n", r"Quote NO in YAML"),
        ("Chile: South\nCHL: North\n", r"CHL: in South and in North"),
        ("Chile: 3\n", r"Chile: 3 where a region's name"),
        ("- Chile\n", r"`country: region` lines belong there, and it holds list"),
        ("", r"holds NoneType"),
        ("a: [1", r"no readable YAML or JSON"),
    ],
)
def test_a_broken_map_is_explained(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        load_regions(str(path))
    assert str(path) in str(caught.value)


def test_a_map_that_is_not_there() -> None:
    with pytest.raises(
        UserError, match="regions=unn: neither one of authors, un, prism nor a file"
    ):
        load_regions("unn")
