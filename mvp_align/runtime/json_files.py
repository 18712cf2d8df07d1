"""Read and write standard JSON (RFC 8259), which has no NaN or Infinity."""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from mvp_align.errors import UserError
from mvp_align.runtime.atomic import write_text

T = TypeVar("T")


def to_json(value: object, *, indent: int | None = None) -> str:
    """Serialise `value`. Raises ValueError if it contains NaN or an infinity."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """Parse JSON. Raises ValueError for NaN, Infinity, and numbers beyond a float, like 1e999."""
    return json.loads(text, parse_constant=_refused, parse_float=_finite)


def write_json(path: Path, value: object) -> None:
    """Replace `path` by `value` as JSON.

    Raises ValueError like `to_json`, before writing anything, and UserError if the disk is full.
    """
    write_text(path, _checked(path, value, indent=2) + "\n")


def write_json_lines(path: Path, objects: Iterable[object]) -> None:
    """Replace `path` by one JSON line per object. Raises the same errors as `write_json`."""
    write_text(path, "".join(_checked(path, one) + "\n" for one in objects))


def read_json_lines(path: Path, parse: Callable[[Any], T], *, what: str, remedy: str) -> list[T]:
    """`parse` of each line's value, in the file's order.

    Raises UserError with the `remedy` where the file is missing, and where a line is not `what` it
    is to be: no JSON, or `parse` raises ValueError, KeyError or TypeError. It names the file, the
    line, and what was wrong.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. {remedy}")
    found = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                found.append(parse(from_json(line.decode().rstrip("\n"))))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}, line {number}: no {what} ({_reason(error)}). {remedy}"
                ) from None
    return found


def _reason(error: Exception) -> str:
    match error:
        case json.JSONDecodeError():
            return f"broken JSON: {error.msg}, at character {error.pos + 1}"
        case KeyError():
            return f"field {error} is missing"
        case _:
            return " ".join(str(error).split())


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
