"""Countries as people write them -> ISO 3166-1 alpha-3 -> a region, under one of three maps or the
user's own.

`authors`: the map of MVPBench's published charts. `un`: the sub-regions of the UN geoscheme (M49).
`prism`: the regions that PRISM reports (Kirk et al. 2024, arXiv 2404.16019): the US and the UK
apart, Western Asia as the Middle East, Latin America with the Caribbean, Australia with New
Zealand, Northern America, else the continent.
"""

import json
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pycountry
import yaml

from mvp_align.errors import UserError, combined_error

UNSPECIFIED = "Unspecified"
"""The region of people who did not say where they were born."""
OTHER = "Other"
"""The region of countries that a map leaves out, and of names that are no country's."""
BUILT_IN = ("authors", "un", "prism")

NOT_SAID = ("", "prefer not to say", "unspecified", "unknown", "not specified")
ALSO_WRITTEN = {
    "turkey": "TUR",
    "russia": "RUS",
    "uk": "GBR",
    "great britain": "GBR",
    "england": "GBR",
    "scotland": "GBR",
    "wales": "GBR",
    "northern ireland": "GBR",
    "macedonia": "MKD",
    "cape verde": "CPV",
    "swaziland": "SWZ",
    "hong kong s a r": "HKG",
    "hong kong sar": "HKG",
    "hong kong sar china": "HKG",
    "macau": "MAC",
    "palestine": "PSE",
    "burma": "MMR",
    "brunei": "BRN",
    "ivory coast": "CIV",
    "republic of korea": "KOR",
    "south korea": "KOR",
    "north korea": "PRK",
    "korea": "KOR",
    "vatican": "VAT",
    "vatican city": "VAT",
    "micronesia": "FSM",
    "czech republic": "CZE",
    "vietnam": "VNM",
    "dr congo": "COD",
    "democratic republic of congo": "COD",
    "east timor": "TLS",
    "kingdom of netherlands": "NLD",
    "netherlands kingdom of": "NLD",
    "saint martin": "MAF",
    "laos": "LAO",
    "syria": "SYR",
    "iran": "IRN",
    "tanzania": "TZA",
    "moldova": "MDA",
    "bolivia": "BOL",
    "venezuela": "VEN",
    "taiwan": "TWN",
    "usa": "USA",
}
"""What ISO's own lists lack, in `_plain` spelling."""

PRISM_NAMES = {"Western Asia": "Middle East"} | {
    name: name
    for name in ("Latin America and the Caribbean", "Northern America", "Australia and New Zealand")
}
PRISM_COUNTRIES = {"USA": "US", "GBR": "UK"}
CONTINENTS = {"Africa": "Africa", "Asia": "Asia", "Europe": "Europe"}
"""The last word of an M49 sub-region; the islands that are left are Oceania's."""


def iso3(country: str) -> str | None:
    """The alpha-3 code of a country by its name (ISO's, official, common, or another that is in
    use) or code.

    Case, accents, punctuation and brackets do not matter: `Venezuela (Bolivarian Republic of)` is
    VEN. None where the name is no country's.
    """
    return _known_names().get(_plain(country))


def _plain(name: str) -> str:
    """`Côte d’Ivoire` as `cote d ivoire`; `&` and `St.` written out, `the` left out."""
    letters = unicodedata.normalize("NFKD", name.replace("&", " and ")).casefold()
    # before the rest turns into spaces
    letters = "".join(c for c in letters if not unicodedata.combining(c))
    words = "".join(c if c.isalnum() else " " for c in letters).split()
    return " ".join("saint" if word == "st" else word for word in words if word != "the")


@cache
def _known_names() -> Mapping[str, str]:
    names: dict[str, str] = {}
    for country in pycountry.countries:
        written = (
            country.alpha_2,
            country.alpha_3,
            country.name,
            *(
                getattr(country, key)
                for key in ("official_name", "common_name")
                if hasattr(country, key)
            ),
        )
        names |= {_plain(name): country.alpha_3 for name in written}
    return names | ALSO_WRITTEN


def region_of(country: str, regions: Mapping[str, str]) -> str:
    """The region of `country` under a map of `load_regions`; `Unspecified` for who did not say,
    `Other` where the map has no such country."""
    if country.strip().casefold() in NOT_SAID:
        return UNSPECIFIED
    return regions.get(iso3(country) or "", OTHER)


def load_regions(name: str) -> Mapping[str, str]:
    """ISO-3 -> region: `authors`, `un`, `prism`, or a user's own file.

    A file (.yaml, .yml or .json) holds `country: region` or `region: [countries]`, countries by
    name or code. Raises UserError where there is no such map or file, and where it is of another
    shape, names no country, or gives one country two regions.
    """
    if name == "prism":
        return _prism(load_regions("un"))
    path = Path(__file__).with_name("regions.yaml") if name in BUILT_IN else Path(name)
    if not path.is_file():
        raise UserError(
            f"regions={name}: neither one of {', '.join(BUILT_IN)} nor a file. A file of your own"
            " holds `country: region` lines, as YAML or JSON."
        )
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{path}: no readable YAML or JSON ({str(error).splitlines()[0]})."
        ) from None
    return _by_iso3(content[name] if name in BUILT_IN else content, path)


def _prism(un: Mapping[str, str]) -> Mapping[str, str]:
    def of(code: str, subregion: str) -> str:
        continent = CONTINENTS.get(subregion.split()[-1], "Oceania")
        return PRISM_COUNTRIES.get(code) or PRISM_NAMES.get(subregion, continent)

    return {code: of(code, subregion) for code, subregion in un.items()}


def _by_iso3(content: Any, path: Path) -> Mapping[str, str]:
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"{path}: `country: region` lines belong there, and it holds {type(content).__name__}."
        )
    found: dict[str, str] = {}
    problems = []
    for key, value in content.items():
        if not isinstance(value, str | list):
            problems.append(
                f"{key}: {value!r} where a region's name, or a list of countries, belongs."
            )
            continue
        members = (
            [(key, value)] if isinstance(value, str) else [(country, key) for country in value]
        )
        for country, region in members:
            code = iso3(str(country))  # YAML reads Norway's NO as false: write it in quotes
            if code is None:
                problems.append(f"{country}: no country's name or code. (Quote NO in YAML.)")
            elif found.setdefault(code, str(region)) != str(region):
                problems.append(f"{country}: in {found[code]} and in {region}.")
    if problems:
        raise combined_error(problems, f"{path}:")
    return found
