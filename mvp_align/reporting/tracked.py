"""Tables and numbers that every tracker shows at the end of a run."""

from collections.abc import Sequence
from dataclasses import asdict, fields

from mvp_align.metrics.metric import LIFT
from mvp_align.metrics.opa import ACC
from mvp_align.metrics.rows import KEYS, Row
from mvp_align.metrics.variables import VARIABLES
from mvp_align.reporting.results import Line, Results, unique
from mvp_align.reporting.samples import Sample
from mvp_align.tracking.contents import Cell, Table

IN_SUMMARY = tuple(one.name for one in VARIABLES if one.in_summary)

GROUP_COLUMNS = ["group", "base", "tuned", "lift", "lift_low", "lift_high", "n", "users"]


SAMPLE_NUMBERS = ("set", "id", "base_margin", "tuned_margin")
SAMPLE_COLUMNS = tuple(field.name for field in fields(Sample))


def tables(
    rows: Sequence[Row], samples: Sequence[Sample], *, texts: bool = False
) -> dict[str, Table]:
    """Return tables by name.

    `results` holds every row, `groups/<set>_by_<breakdown>` acc@0 of each group (or what leads
    without it), and `samples`, if any, the sample pairs: their ids and margins, and with `texts`
    what they are about.
    """
    found: dict[str, Table] = {
        "results": (list(KEYS), [list(asdict(row).values()) for row in rows])
    }
    results = Results(rows)
    for set_name in results.sets():
        lead = results.lead(set_name)
        shown = (row for row in rows if row.set == set_name and row.group_by and row.metric == lead)
        for group_by in unique(row.group_by for row in shown):
            lines = results.groups(set_name, group_by)
            if lines:  # other metrics have groups of their own
                name = f"groups/{set_name}_by_{group_by.replace(',', '_')}"
                found[name] = (GROUP_COLUMNS, [_group_cells(line) for line in lines])
    if samples:
        columns = SAMPLE_COLUMNS if texts else SAMPLE_NUMBERS
        found["samples"] = (
            list(columns),
            [[getattr(one, column) for column in columns] for one in samples],
        )
    return found


def _group_cells(line: Line) -> list[Cell]:
    lift, counts = line.lift, line.counts
    values = [part.value if part else None for part in (line.base, line.tuned, lift)]
    bounds = [lift.low, lift.high] if lift else [None, None]
    return [
        line.label,
        *values,
        *bounds,
        counts.n if counts else None,
        counts.users if counts else None,
    ]


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Return named numbers for a tracker's summary.

    `tuned/in_domain/opa/acc@0` for whole sets, `tuned/in_domain/opa/acc@0/dimension/safety` for
    groups. The lift of a whole set comes with its interval, `..._lift_low` and `..._lift_high`.
    """
    found: dict[str, float] = {}
    for row in rows:
        if row.group_by and (row.group_by not in IN_SUMMARY or row.metric != ACC):
            continue
        name = "/".join(filter(None, (row.stage, row.set, row.metric, row.group_by, row.group)))
        found[name] = row.value
        if row.metric.endswith(LIFT) and row.low is not None and row.high is not None:
            found |= {f"{name}_low": row.low, f"{name}_high": row.high}
    return found
