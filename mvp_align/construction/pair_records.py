"""Records beside the pairs that are read of them: what is looked at, and later written out."""

import hashlib
from dataclasses import dataclass
from typing import Any

from mvp_align.data.formats import FORMATS
from mvp_align.data.readers import ColumnNames, ReadPairs, read_pairs
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


def read_records(
    source: str, format: str, columns: ColumnNames | None = None
) -> tuple[ReadPairs, list[PairRecord]]:
    """Read `source` as `read_pairs` does, and return its records with it, one for each pair.

    Raises UserError as `read_pairs` does, and where a question or answer is not one text of the
    record, or a record is none that JSON can hold.
    """
    read = read_pairs(source, format, columns=columns)
    texts = FORMATS[read.format].texts
    found = []
    for pair, row in zip(read.pairs, read.rows, strict=True):
        shown = (pair.question, pair.chosen, pair.rejected)
        value = row.value
        if not isinstance(value, dict) or tuple(value.get(key) for key in texts) != shown:
            raise UserError(
                f"{source}: {pair.id} cannot be shown as it stands: its question and answers are"
                f" not the texts under {', '.join(texts)} of one record."
            )
        found.append(PairRecord(pair, value, _hash(value, pair.id, source)))
    return read, found


def _hash(value: dict[str, Any], name: str, source: str) -> str:
    try:
        return hashlib.sha256(to_json(value).encode()).hexdigest()
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{source}: the record {name} cannot be written as JSON ({error})."
        ) from None
