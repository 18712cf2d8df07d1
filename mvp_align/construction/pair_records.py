"""Records beside the pairs that are read of them: what is looked at, and later written out."""

import hashlib
from dataclasses import dataclass
from typing import Any

from mvp_align.data.formats import FORMATS
from mvp_align.data.formats.record import number_as_text
from mvp_align.data.readers import ReadPairs, read_pairs
from mvp_align.data.sources import open_source
from mvp_align.errors import UserError
from mvp_align.runtime.json_files import to_json
from mvp_align.schema import PreferencePair

Texts = tuple[str, str, str]
"""A question, the fitting and the contradicting answer."""


@dataclass(frozen=True, slots=True)
class PairRecord:
    """A record, the pair that it is read as, and the SHA-256 (hex) of the record as JSON."""

    pair: PreferencePair
    value: dict[str, Any]
    sha256: str

    @property
    def texts(self) -> Texts:
        return self.pair.question, self.pair.chosen, self.pair.rejected


def read_records(source: str, format: str) -> tuple[ReadPairs, list[PairRecord]]:
    """Read `source` as `read_pairs` does, and return its records with it, one for each pair.

    Raises UserError as `read_pairs` does, and where a question or answer is not one text of the
    record, or a record is none that JSON can hold.
    """
    read = read_pairs(source, format)
    known = FORMATS[read.format]
    waiting = iter(read.pairs)
    pair, found = next(waiting, None), []
    for value in (row for file in open_source(source).files for _, row in file.rows):
        if pair is None:
            break
        if isinstance(value, dict) and _is_read_as(value, pair, known.texts, given=known.has_ids):
            found.append(PairRecord(pair, value, _hash(value, pair.id, source)))
            pair = next(waiting, None)
    if pair is not None:
        raise UserError(
            f"{source}: {pair.id} cannot be shown as it stands: its question and answers are not"
            f" the texts under {', '.join(known.texts)} of one record."
        )
    return read, found


def _is_read_as(
    value: dict[str, Any], pair: PreferencePair, texts: tuple[str, ...], *, given: bool
) -> bool:
    """Return whether `pair` is read of this record. A repeated one is no second pair."""
    name = number_as_text(value.get("id")) if given else None
    shown = (pair.question, pair.chosen, pair.rejected)
    return name in (None, pair.id) and tuple(value.get(key) for key in texts) == shown


def _hash(value: dict[str, Any], name: str, source: str) -> str:
    try:
        return hashlib.sha256(to_json(value).encode()).hexdigest()
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{source}: the record {name} cannot be written as JSON ({error})."
        ) from None
