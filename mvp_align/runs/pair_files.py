"""Files of a run with a line a pair: whose it is and what it is broken down by, and metrics other
than OPA's.

`groups/<set>.jsonl`: `{"id", "user_id", "groups": {"gender": "Female", ...}}`.
`values/<stage>-<set>.jsonl`: `{"id", "user_id", "values": {"paa/dvb_judge": 1.0, ...}}`; a metric
that is absent or null was not measured for that pair, which is then left out of the metric and
counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvp_align.errors import UserError
from mvp_align.metrics.groups import Tags
from mvp_align.runtime.json_files import from_json, write_json_lines
from mvp_align.schema import is_finite

GroupLine = tuple[str, str, Tags]
"""Id of the pair, id of its user, groups."""


@dataclass(frozen=True, slots=True)
class PairValues:
    """What a pair was measured at, by metric."""

    id: str
    user_id: str
    values: Mapping[str, float]


def write_groups(path: Path, lines: Iterable[GroupLine]) -> None:
    """Raises UserError where the disk is full."""
    _write_lines(
        path, ({"id": id, "user_id": user, "groups": dict(groups)} for id, user, groups in lines)
    )


def write_values(path: Path, lines: Iterable[PairValues]) -> None:
    """Raises UserError where the disk is full."""
    _write_lines(
        path, ({"id": one.id, "user_id": one.user_id, "values": dict(one.values)} for one in lines)
    )


def keep_values(path: Path, metrics: Sequence[str], measured: Iterable[PairValues]) -> None:
    """Put the values of `metrics` in place of earlier ones, beside those of other metrics; pairs
    that are not among `measured` go. Raises UserError where the disk is full, or the file is of
    another shape."""
    others = {
        one.id: {metric: value for metric, value in one.values.items() if metric not in metrics}
        for one in read_values(path)
    }
    write_values(
        path,
        (
            PairValues(one.id, one.user_id, {**others.get(one.id, {}), **one.values})
            for one in measured
        ),
    )


def _write_lines(path: Path, objects: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_lines(path, objects)


def read_groups(path: Path) -> dict[str, GroupLine]:
    """By the pair's id. Raises UserError where the file is missing, or naming the line that is of
    another shape."""
    if not path.is_file():
        raise UserError(
            f"{path}: no such file, so nobody knows who asked what. Runs of this version write it;"
            " evaluate the adapter again (`python evaluate.py adapter=RUN/adapter ...`) to get"
            " one."
        )
    found: dict[str, GroupLine] = {}
    for number, line in _read_lines(path):
        groups = line.get("groups")
        if not isinstance(groups, dict) or not all(
            isinstance(name, str) for name in groups.values()
        ):
            raise UserError(
                f"{path}, line {number}, field 'groups': an object of texts belongs there."
            )
        found[line["id"]] = (line["id"], line["user_id"], groups)
    return found


def read_values(path: Path) -> list[PairValues]:
    """In the file's order; none where there is no such file. Raises UserError naming the line that
    is of another shape."""
    found = []
    for number, line in _read_lines(path) if path.is_file() else ():
        values = line.get("values")
        if not isinstance(values, dict):
            raise UserError(
                f"{path}, line {number}, field 'values': an object of numbers belongs there."
            )
        known = {metric: value for metric, value in values.items() if value is not None}
        for metric, value in known.items():
            if not is_finite(value):
                raise UserError(
                    f"{path}, line {number}, field 'values': {metric} is {value!r} where a number"
                    " belongs."
                )
        found.append(PairValues(line["id"], line["user_id"], known))
    return found


def _read_lines(path: Path) -> Sequence[tuple[int, dict[str, Any]]]:
    """Numbered objects with the texts `id` and `user_id`, each id once."""
    found: list[tuple[int, dict[str, Any]]] = []
    seen: set[str] = set()
    with path.open(encoding="utf-8") as lines:
        for number, text in enumerate(lines, start=1):
            try:
                line = from_json(text)
                id, user = line["id"], line["user_id"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}, line {number}: no line of a pair ({error!r}). Delete the file."
                ) from None
            if not isinstance(id, str) or not isinstance(user, str):
                raise UserError(f"{path}, line {number}: 'id' and 'user_id' must be texts.")
            if id in seen:
                raise UserError(f"{path}, line {number}: pair {id} comes twice.")
            seen.add(id)
            found.append((number, line))
    return found
