"""What every tracker gets at the end of a run: tables, numbers, maps and files."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from mvp_align.metrics.metric import LIFT
from mvp_align.metrics.opa import ACC
from mvp_align.metrics.rows import KEYS, Row
from mvp_align.metrics.variables import VARIABLES
from mvp_align.reporting.export import export_tables
from mvp_align.reporting.html import write_report
from mvp_align.reporting.results import Line, Results, unique
from mvp_align.reporting.samples import Sample
from mvp_align.reporting.shared_maps import write_maps
from mvp_align.reporting.table import ResultTable
from mvp_align.reporting.table_formats import full_keys, full_rows
from mvp_align.runs.run_folder import RunFolder
from mvp_align.runtime.json_files import to_json
from mvp_align.tracking.contents import Cell, Table
from mvp_align.tracking.tracker import Tracker

IN_SUMMARY = tuple(one.name for one in VARIABLES if one.in_summary)

GROUP_COLUMNS = ["group", "base", "tuned", "lift", "lift_low", "lift_high", "n", "users"]


def hand_over(
    tracker: Tracker,
    run: RunFolder,
    rows: Sequence[Row],
    samples: Sequence[Sample] = (),
    *,
    texts: bool = False,
) -> None:
    """Send a run whose metrics.jsonl is written to its tracker, and close that. Without a tracker
    nothing is made.

    `texts` decides on the samples' alone; no profile, and no other text, is sent. Raises UserError
    if a file of the run is broken, or the disk is full.
    """
    if not tracker.on:
        return
    write_report(run.path, texts=False)
    write_maps(run, rows)
    found = tables(rows, samples, texts=texts) | report_tables(export_tables(run.path))
    tracker.results(found, summary(rows))
    tracker.artifacts(run)
    tracker.finish()


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


def report_tables(shown: Sequence[ResultTable]) -> dict[str, Table]:
    """Return the tables of `mvp-align export` by name, `report/<name>`, with unrounded numbers."""
    return {
        f"report/{table.name}": (keys, [[_plain(row[key]) for key in keys] for row in rows])
        for table in shown
        if not table.restated
        for keys, rows in [(full_keys(table), full_rows(table))]
    }


def _plain(cell: Any) -> Cell:
    return to_json(cell) if isinstance(cell, tuple) else cell


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
