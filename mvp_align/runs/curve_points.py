"""`curves.jsonl`: what a run logged while it trained, whether a tracker listened or not.

A line a step, `{"step": 40, "eval/in_domain/opa/acc@0": 0.71, "train/loss": 0.52, ...}`: the
optimizer step, and what was logged at it under the names that trackers get (`tracking/curves.py`).
Nothing is in it that a clock decides, so that a run which was resumed leaves the same bytes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvp_align.runtime.atomic import full_disk_explained
from mvp_align.runtime.json_files import read_json_lines, to_json, write_json_lines
from mvp_align.schema import is_finite

STEP = "step"


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """All that was logged at one optimizer step, by name."""

    step: int
    values: Mapping[str, float]


def write_curves(path: Path, points: Iterable[CurvePoint]) -> None:
    """Replace the file. Raises ValueError for a value that is not finite, before anything is
    written, and UserError where the disk is full."""
    write_json_lines(path, map(_line, points))


def add_to_curves(path: Path, points: Iterable[CurvePoint]) -> None:
    """Append to the file, whole lines in one write. A power cut may tear the last of them, which a
    resumed run writes again. Raises the same errors as `write_curves`."""
    lines = "".join(f"{to_json(_line(point))}\n" for point in points)
    with full_disk_explained(path), path.open("ab") as file:
        file.write(lines.encode())


def _line(point: CurvePoint) -> dict[str, float]:
    return {STEP: point.step, **dict(sorted(point.values.items()))}


def read_curves(path: Path) -> list[CurvePoint]:
    """Return the points of `curves.jsonl` by rising step; values that a step did not log are
    absent. Raises UserError where the file is missing, or naming the line that is no point or whose
    step does not come after the one before."""
    before = -1

    def parse(line: Any) -> CurvePoint:
        nonlocal before
        step = line[STEP]
        values = {name: value for name, value in line.items() if name != STEP}
        if not isinstance(step, int) or isinstance(step, bool) or step <= before:
            raise ValueError(f"field '{STEP}': {step!r} is no whole number above {before}")
        for name, value in values.items():
            if not is_finite(value):
                raise ValueError(f"field '{name}': {value!r} where a number belongs")
        before = step
        return CurvePoint(step, values)

    return read_json_lines(
        path,
        parse,
        what="point of a curve",
        remedy="Runs of earlier versions have no such file. The same command, in an unfinished run,"
        " writes it again from its checkpoint.",
    )
