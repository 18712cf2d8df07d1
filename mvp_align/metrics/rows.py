"""The tidy rows of a run's `metrics.jsonl`: what metrics end in, and all that a report reads of
them."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mvp_align.metrics.intervals import Estimate
from mvp_align.runtime.json_files import read_json_lines, write_json_lines
from mvp_align.schema import is_finite


@dataclass(frozen=True, slots=True)
class Row:
    """One number about one stage (`base`, `tuned`, `step-N`) on one set, for the whole set or one
    group of it.

    `value` is a share from 0 to 1, or nats a token for `opa/margin` and `opa/chosen_shift`; `low`
    and `high` bound its 95 % interval, clustered by user, and are None where none can be had. `n`
    counts pairs, `users` the clusters. Groups of too few people have no row: `<metric>_suppressed`
    counts them. The other endings: `metrics.names`, docs/statistics.md.
    """

    stage: str
    set: str
    metric: str
    group_by: str
    group: str
    value: float
    low: float | None
    high: float | None
    n: int
    users: int

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        if wrong := [value for value in (self.value, *bounds) if not is_finite(value)]:
            raise ValueError(
                f"{self.metric} of {self.stage} {self.set}: {wrong[0]!r} is no finite number"
            )


KEYS = tuple(field.name for field in fields(Row))


def row(
    stage: str, set_name: str, metric: str, estimate: Estimate, group_by: str = "", group: str = ""
) -> Row:
    return Row(
        stage=stage,
        set=set_name,
        metric=metric,
        group_by=group_by,
        group=group,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        users=estimate.users,
    )


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Replace `path` by these rows, one JSON object a line. Raises UserError where the disk is
    full."""
    write_json_lines(path, map(asdict, rows))


def replace_rows(path: Path, rows: Iterable[Row]) -> None:
    """Put `rows` into the rows of `path`: each in the place of the one about the same thing, the
    others at the end.

    Raises UserError where the file is missing or broken, or the disk is full.
    """
    merged = {_about(row): row for row in read_rows(path)}
    merged |= {_about(row): row for row in rows}
    write_rows(path, merged.values())


def _about(row: Row) -> tuple[str, str, str, str, str]:
    return row.stage, row.set, row.metric, row.group_by, row.group


def read_rows(path: Path) -> list[Row]:
    """The rows of `path` in the file's order. Raises UserError naming the line that is no row, or
    the missing file."""
    return read_json_lines(
        path,
        lambda values: Row(**values),
        what=f"row of {', '.join(KEYS)}",
        remedy="A run writes it when it is evaluated: run its command again.",
    )
