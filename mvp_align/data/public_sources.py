"""Public data that people fetch themselves: where it is, what its owners say about its use, and
where the presets look for it.

`public_sources.yaml` has the sources. Nothing here uses a network; `mvp_align.data.fetch` does.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path, PurePosixPath

import yaml
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from mvp_align.errors import UserError

FILE = Path(__file__).with_suffix(".yaml")
SHARED = Path("data")
"""The folder of sources whose files have names of their own."""


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """A file of a public repository, known by its content."""

    path: str
    """Within the repository."""
    blob: str
    """Its git blob id (SHA-1, hex)."""
    target: Path
    """Where it goes, from the folder in which commands run."""


@dataclass(frozen=True, slots=True)
class PublicSource:
    title: str
    repository: str
    """owner/name on GitHub."""
    commit: str
    folder: Path
    """Where its files go."""
    files: dict[str, str]
    """Path in the repository -> git blob id there."""
    licence: str
    """What its owners allow, in a sentence or two."""
    citation: str
    use: str
    """How a command names the files, once they are there."""

    @property
    def page(self) -> str:
        return f"https://github.com/{self.repository}/tree/{self.commit}"

    @property
    def base_url(self) -> str:
        """What stands before a file's path in its address."""
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}"

    @property
    def pinned(self) -> Iterator[PinnedFile]:
        for path, blob in self.files.items():
            yield PinnedFile(path, blob, self.folder / PurePosixPath(path).name)

    @property
    def terms(self) -> str:
        """What somebody agrees to who fetches it."""
        return (
            f"{self.title}\n{len(self.files)} files of {self.page}\n\nLicence: {self.licence}\n\n"
            f"Please cite: {self.citation}\n"
        )


@cache
def public_sources() -> dict[str, PublicSource]:
    """All sources, by the name that `mvp-align data fetch` takes."""
    table = yaml.safe_load(FILE.read_text("utf-8"))
    return TypeAdapter(dict[str, PublicSource]).validate_python(table)


def public_source(name: str) -> PublicSource:
    """Raises UserError for an unknown name."""
    known = public_sources()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"{name}: no such source. There are: {', '.join(known)}.{hint}")
    return known[name]


def fetch_command(path: Path) -> str:
    """The command that brings the file or folder `path`, or "" if it is none of a source's."""
    for name, source in public_sources().items():
        places = [pinned.target for pinned in source.pinned]
        if source.folder != SHARED:
            places.append(source.folder)
        if path in places:
            return f"mvp-align data fetch {name}"
    return ""
