"""Under which licence the data of a run is, as far as it is known."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mvp_align.config import Config
from mvp_align.data.public_sources import SHARED, public_sources
from mvp_align.data.sets import SETS, chosen_sets, set_source

OPEN = frozenset(
    {
        "apache-2.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
        "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "mit", "odc-by", "odbl", "pddl",
    }
)  # fmt: skip
"""The Hub's names of licences that allow anybody to pass on the texts."""


@dataclass(frozen=True, slots=True)
class DataTerms:
    """`licence` is the Hub's name of it, or None where none is stated or none is known. `said` is
    what is known, in words."""

    title: str
    licence: str | None
    said: str

    @property
    def allows_texts(self) -> bool:
        """Whether the texts may be passed on."""
        return self.licence in OPEN


def training_terms(config: Config) -> list[DataTerms]:
    """Return the terms of the data that the run trains on and is tested on."""
    data = config.data
    return _terms_of(source for source in (data.train, data.val, data.test) if source)


def shown_terms(config: Config) -> list[DataTerms]:
    """Return the terms of all data whose texts the run's files may hold: evaluation sets too."""
    data = config.data
    outside = [name for name in chosen_sets(config) if SETS[name].out_of_domain]
    sets = [set_source(name, config) for name in outside]
    return _terms_of(source for source in (data.train, data.val, data.test, *sets) if source)


def _terms_of(sources: Iterable[str]) -> list[DataTerms]:
    return list(dict.fromkeys(_terms(source) for source in sources))


def _terms(source: str) -> DataTerms:
    if source.startswith("sample:"):
        return DataTerms("the bundled sample (synthetic users)", "cc-by-4.0", "CC-BY-4.0.")
    path = Path(source)
    for known in public_sources().values():
        places = [pinned.target for pinned in known.pinned]
        if path in places or (known.folder != SHARED and path == known.folder):
            return DataTerms(known.title, None, known.licence)
    name = source if source.startswith("hf:") else path.name  # whose folders these are is private
    return DataTerms(name, None, "Not known here.")
