"""`mvp-align export`: all tables of a finished run, the paper's among them, as text or files."""

import re
from collections.abc import Sequence
from pathlib import Path

from mvp_align.data.sets import SETS
from mvp_align.errors import UserError
from mvp_align.metrics.metric import SUPPRESSED
from mvp_align.metrics.opa import ACCS, MEAN
from mvp_align.metrics.rows import read_rows
from mvp_align.metrics.variables import VARIABLES
from mvp_align.reporting.leading import spoken
from mvp_align.reporting.results import (
    PROMPT_SETS,
    Results,
    counted,
    prompt_sets,
    suppressed_text,
    unique,
)
from mvp_align.reporting.run_tables import lines_table, run_result_tables
from mvp_align.reporting.table import Column, Number, ResultTable, measured
from mvp_align.reporting.table_formats import WIDTH, format_tables
from mvp_align.runs.run_folder import RunFolder, read_environment
from mvp_align.runs.stored_config import read_config
from mvp_align.runtime.atomic import full_disk_explained, write_text

SUFFIXES = {"table": "txt", "csv": "csv", "latex": "tex", "md": "md", "json": "json"}
"""Of files, by format."""
REGION = "region"
BESIDE_REGION = ("age", "gender", "education", "marital_status")
"""What the paper crosses the region with."""


def export_tables(run: Path) -> list[ResultTable]:
    """Return the run's tables: the paper's, those of its end, then every breakdown.

    Raises UserError if a file of the run is missing or broken.
    """
    config, folder = read_config(run), RunFolder(run, resumed=False, writes=False)
    rows = read_rows(folder.metrics)
    noted = read_environment(folder.notes).get(PROMPT_SETS)
    results = Results(rows)
    prompts = prompt_sets(results.sets(), config.data.format, noted)
    at_end = run_result_tables(
        rows,
        data_format=config.data.format,
        noted=noted,
        worst_by=config.evals.worst_by or "",
    )
    return [
        *_paper_tables(results, config.model.name),
        *at_end,
        *(
            table
            for name in results.sets()
            for table in _breakdown_tables(results, name, counted(name, prompts))
        ),
    ]


def _paper_tables(results: Results, model: str) -> list[ResultTable]:
    """Return OPA per model in and out of domain, and acc@d; none where nothing was scored."""

    def number(name: str, metric: str, stage: str) -> Number | None:
        return measured(results.index.get((stage, name, metric, "", "")))

    columns = [
        (name, stage)
        for name in results.sets()
        for stage in ("base", "tuned")
        if number(name, MEAN.name, stage)
    ]
    if not columns:
        return []
    sets, stages = unique(name for name, _ in columns), unique(stage for _, stage in columns)
    made_up = [name for name in sets if name in SETS and SETS[name].synthetic]
    notes = [f"{name}: synthetic, so no figure of a benchmark." for name in made_up]
    opa = ResultTable(
        "paper_opa",
        f"{MEAN.label} in %, [95 % intervals]",
        [Column("model"), Column("stage"), *(Column(name, kind="estimate") for name in sets)],
        [[model, stage, *(number(name, MEAN.name, stage) for name in sets)] for stage in stages],
        notes,
    )
    thresholds = ResultTable(
        "paper_acc_at_d",
        "acc@d in %, [95 % intervals]",
        [
            Column("metric"),
            *(Column(f"{name} {stage}", kind="estimate") for name, stage in columns),
        ],
        [[acc.label, *(number(name, acc.name, stage) for name, stage in columns)] for acc in ACCS],
        notes,
    )
    return [opa, thresholds]


def _breakdown_tables(results: Results, name: str, unit: str) -> list[ResultTable]:
    """Return a table of what leads in the set for each group variable that was measured."""
    lead = results.lead(name)
    known = unique(
        row.group_by
        for row in results.rows
        if row.set == name and row.group_by and row.metric in (lead, lead + SUPPRESSED)
    )
    tables = []
    for group_by in known:
        lines = results.groups(name, group_by)
        title = f"{name}: {spoken(lead)} by {_spoken_variable(group_by)}, in %"
        tables.append(
            lines_table(
                f"{name}_by_{group_by.replace(',', '_and_')}",
                title,
                "group",
                {"people": "users"}.get(unit, unit),
                [lines],
                _notes(results, name, group_by, known),
                blind=any(line.ceiling for line in lines),
            )
        )
    return tables


def _notes(results: Results, name: str, group_by: str, known: Sequence[str]) -> list[str]:
    """Say what is held back, and by which command the paper's crossings can be had."""
    suppressed = {"base": "", "tuned": ""} | {
        row.stage: suppressed_text(row)
        for row in results.rows
        if (row.set, row.group_by, row.metric) == (name, group_by, results.lead(name) + SUPPRESSED)
    }
    notes = [text for text in [suppressed["tuned"] or suppressed["base"]] if text]
    missing = [
        f"{REGION},{other}"
        for other in BESIDE_REGION
        if group_by == REGION and other in known and f"{REGION},{other}" not in known
    ]
    if missing:
        crosses = " ".join(f"--cross {cross}" for cross in missing)
        notes.append(
            f"Crossed with {', '.join(cross.partition(',')[2] for cross in missing)}: not measured;"
            f" `mvp-align stats RUN --set {name} {crosses}` does it."
        )
    return notes


def _spoken_variable(group_by: str) -> str:
    labels = {one.name: one.label for one in VARIABLES}
    return labels.get(group_by) or " and ".join(
        labels.get(name, name.replace("_", " ")) for name in group_by.split(",")
    )


def write_tables(tables: Sequence[ResultTable], form: str, target: Path) -> list[Path]:
    """Write a file a table to the folder `target`, and return them. Raises UserError if it cannot
    be written."""
    paths: dict[Path, ResultTable] = {}
    for table in tables:
        path = target / f"{re.sub(r'[^A-Za-z0-9_.@-]+', '-', table.name)}.{SUFFIXES[form]}"
        if path in paths:
            raise ValueError(f"{table.name} and {paths[path].name} are both {path}")
        paths[path] = table
    try:
        target.mkdir(parents=True, exist_ok=True)
        for path, table in paths.items():
            with full_disk_explained(path):
                write_text(path, f"{format_tables(form, [table], WIDTH)}\n")
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}.") from None
    return list(paths)
