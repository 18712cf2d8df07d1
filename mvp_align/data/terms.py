"""Under which licence the data of a run is, as far as it is known, and what its owners say."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mvp_align.config import Config
from mvp_align.data.licences import OWN, lets_pass_on
from mvp_align.data.public_sources import SHARED, public_sources
from mvp_align.data.sets import SETS, chosen_sets, set_source

HUB_NAMES = {"odc-by-1.0": "odc-by", "odbl-1.0": "odbl", "pddl-1.0": "pddl"}
"""What the Hub calls licences otherwise than by their SPDX id in small letters."""
LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclass(frozen=True, slots=True)
class DataTerms:
    """`licence` is an SPDX id, `own`, or None where none is known. `said` is what is known, in
    words. `synthetic` says that its people are made up."""

    title: str
    licence: str | None
    said: str
    synthetic: bool = False

    @property
    def allows_texts(self) -> bool:
        """Whether the texts may be passed on."""
        return lets_pass_on(self.licence)

    @property
    def hub_name(self) -> str | None:
        """The Hub's name of the licence; None where none is known or words say it."""
        name = (self.licence or OWN).lower()
        if name == OWN or not LICENCE_ID.fullmatch(name):
            return None
        return HUB_NAMES.get(name, name)


def training_terms(config: Config) -> list[DataTerms]:
    """Return the terms of the data that the run trains on and is tested on."""
    data = config.data
    sources = (source for source in (data.train, data.val, data.test) if source)
    return _distinct(_terms(source, data.license) for source in sources)


def synthetic_parts(config: Config) -> list[str]:
    """Return which of `training` and `test` data have synthetic people."""
    data = config.data
    sources = {"training": data.train, "test": data.test or data.train}
    return [
        name
        for name, source in sources.items()
        if source and _terms(source, data.license).synthetic
    ]


def shown_terms(config: Config) -> list[DataTerms]:
    """Return the terms of all data whose texts the run's files may hold: evaluation sets too."""
    outside = [name for name in chosen_sets(config) if SETS[name].out_of_domain]
    sets = [
        _terms(source, SETS[name].license)
        for name in outside
        if (source := set_source(name, config))
    ]
    return _distinct([*training_terms(config), *sets])


def _distinct(terms: Iterable[DataTerms]) -> list[DataTerms]:
    return list(dict.fromkeys(terms))


def _terms(source: str, stated: str | None) -> DataTerms:
    if source.startswith("sample:"):
        title = "the bundled sample (synthetic users)"
        return DataTerms(title, "CC-BY-4.0", "CC-BY-4.0.", synthetic=True)
    path = Path(source)
    known = next(
        (
            one
            for one in public_sources().values()
            if path in [pinned.target for pinned in one.pinned]
            or (one.folder != SHARED and path == one.folder)
        ),
        None,
    )
    # whose folders these are is private
    title = known.title if known else source if source.startswith("hf:") else path.name
    if stated:
        words = "its authors' own" if stated == OWN else stated
        return DataTerms(title, stated, f"{words}, as the run states (data.license).")
    return DataTerms(title, None, known.licence if known else "None is stated (data.license).")
