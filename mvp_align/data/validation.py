"""Validate a data set: every check of every part and of each two parts, and their figures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mvp_align.data.checks import DataCheck, part_checks
from mvp_align.data.manifest import check_manifests
from mvp_align.data.overlaps import overlap_checks
from mvp_align.data.part_figures import PartFigures, TokenCounts, part_figures
from mvp_align.data.parts import DataPart, read_part
from mvp_align.data.readers import ColumnNames
from mvp_align.errors import UserError

ACCEPTABLE = ("equal answers", "pairs in two parts")
"""Checks whose failure somebody may have meant. Records that cannot be read, and people who are
both trained on and tested, no run takes."""


@dataclass(frozen=True, slots=True)
class Validation:
    """What was found. `figures` lacks parts that could not be read."""

    checks: list[DataCheck]
    figures: list[PartFigures]

    @property
    def passed(self) -> bool:
        return not any(check.outcome == "fail" for check in self.checks)

    def as_object(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "parts": [asdict(figures) for figures in self.figures],
        }


def validate_data(
    sources: Mapping[str, str],
    format: str,
    columns: ColumnNames | None = None,
    *,
    accepted: Sequence[str] = (),
    count_tokens: TokenCounts | None = None,
) -> Validation:
    """Read and check the parts in `sources` (`data.parts.find_parts`).

    Failures of checks in `accepted` (some of ACCEPTABLE) become warnings.

    Raises:
        UserError: if a source does not exist or cannot be opened, or a name in `accepted` or the
            format is unknown.
    """
    for name in accepted:
        if name not in ACCEPTABLE:
            raise UserError(f"--accept '{name}': must be one of {', '.join(ACCEPTABLE)}.")
    parts = [read_part(name, source, format, columns) for name, source in sources.items()]
    checks = [check for part in parts for check in part_checks(part)]
    checks += overlap_checks(parts)
    checks += _manifest_checks(parts)
    checks = [_as_shown(check, accepted) for check in checks]
    figures = [found for part in parts if (found := part_figures(part, count_tokens))]
    return Validation(checks, figures)


def _as_shown(check: DataCheck, accepted: Sequence[str]) -> DataCheck:
    """Make an accepted failure a warning, and half surrogates in names of keys `\\ud800`."""
    if check.outcome == "fail" and check.check in accepted:
        check = replace(check, outcome="warn", remedy="Accepted.")
    return replace(
        check, found=_encodable(check.found), examples=tuple(map(_encodable, check.examples))
    )


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _manifest_checks(parts: Sequence[DataPart]) -> Iterator[DataCheck]:
    """Say of each part beside the manifest of a split what training would say of it."""
    for part in parts:
        if part.read is None:
            continue
        try:
            notes = check_manifests({part.name: part.source}, {part.name: part.read})
        except UserError as error:
            yield DataCheck("manifest", part.name, "fail", 1, 1, str(error))
        else:
            for note in notes:
                yield DataCheck("manifest", part.name, "ok", 0, 1, note)
