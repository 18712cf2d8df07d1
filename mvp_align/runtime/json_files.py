"""JSON as its standard has it (RFC 8259), the one way in and out: NaN and Infinity are no numbers
of it."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from mvp_align.runtime.atomic import write_text


def to_json(value: object, *, indent: int | None = None) -> str:
    """`value` as text. Raises ValueError where it holds NaN or an infinity."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """The value of `text`. Raises ValueError where it is no JSON: NaN, Infinity, and numbers beyond
    a float, as 1e999."""
    return json.loads(text, parse_constant=_refused, parse_float=_finite)


def write_json(path: Path, value: object) -> None:
    """Replace `path` by `value`. Raises ValueError as `to_json`, nothing written, and UserError
    where the disk is full."""
    write_text(path, _checked(path, value, indent=2) + "\n")


def write_json_lines(path: Path, objects: Iterable[object]) -> None:
    """Replace `path` by a line an object. Raises as `write_json`."""
    write_text(path, "".join(_checked(path, one) + "\n" for one in objects))


def _checked(path: Path, value: object, indent: int | None = None) -> str:
    try:
        return to_json(value, indent=indent)
    except ValueError as error:
        raise ValueError(f"{path}: {error}: {value!r}"[:500]) from None


def _refused(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _finite(word: str) -> float:
    value = float(word)
    return value if math.isfinite(value) else _refused(word)
