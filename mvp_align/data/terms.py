"""Under which licence the data of a run is, as far as it is known, and what its owners say."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mvp_align.config import Config
from mvp_align.data.licences import OWN, lets_pass_on
from mvp_align.data.public_sources import SHARED, public_sources
from mvp_align.data.sets import SETS, chosen_sets, set_source


@dataclass(frozen=True, slots=True)
class DataTerms:
    """`licence` is an SPDX id, `own`, or None where none is known. `said` is what is known, in
    words."""

    title: str
    licence: str | None
    said: str

    @property
    def allows_texts(self) -> bool:
        """Whether the texts may be passed on."""
        return lets_pass_on(self.licence)

    @property
    def hub_name(self) -> str | None:
        """The Hub's name of the licence, or None."""
        return None if self.licence in (None, OWN) else str(self.licence).lower()


def training_terms(config: Config) -> list[DataTerms]:
    """Return the terms of the data that the run trains on and is tested on."""
    data = config.data
    sources = (source for source in (data.train, data.val, data.test) if source)
    return _distinct(_terms(source, data.license) for source in sources)


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
        return DataTerms("the bundled sample (synthetic users)", "CC-BY-4.0", "CC-BY-4.0.")
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
