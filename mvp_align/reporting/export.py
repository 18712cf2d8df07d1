"""`mvp-align export`: all tables and figures of a finished run, the paper's among them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mvp_align.data.sets import SETS
from mvp_align.errors import UserError
from mvp_align.figures.figure import Figure
from mvp_align.metrics.opa import ACCS, MEAN
from mvp_align.metrics.rows import read_rows
from mvp_align.reporting.breakdowns import group_tables
from mvp_align.reporting.curve_panels import curve_panels
from mvp_align.reporting.leading import spoken
from mvp_align.reporting.report_files import read_report_files
from mvp_align.reporting.result_figures import drawn
from mvp_align.reporting.results import (
    PROMPT_SETS,
    Results,
    counted,
    prompt_sets,
    unique,
)
from mvp_align.reporting.run_tables import lines_table, run_result_tables
from mvp_align.reporting.set_parts import set_parts, sets_figure
from mvp_align.reporting.table import Column, Number, ResultTable, measured
from mvp_align.reporting.table_formats import format_tables
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
    lead, found = spoken(results.lead(name)), group_tables(results, name)
    known = [table.by for table in found]
    return [
        lines_table(
            f"{name}_by_{table.by.replace(',', '_and_')}",
            f"{name}: {lead} by {table.label}, in %",
            "group",
            {"people": "users"}.get(unit, unit),
            [table.lines],
            [*[table.held] * bool(table.held), *_missing_crossings(name, table.by, known)],
            blind=any(line.ceiling for line in table.lines),
        )
        for table in found
    ]


def _missing_crossings(name: str, by: str, known: Sequence[str]) -> list[str]:
    """Say by which command the paper's crossings of the region can be had."""
    missing = [
        f"{REGION},{other}"
        for other in BESIDE_REGION
        if by == REGION and other in known and f"{REGION},{other}" not in known
    ]
    if not missing:
        return []
    crosses = " ".join(f"--cross {cross}" for cross in missing)
    return [
        f"Crossed with {', '.join(cross.partition(',')[2] for cross in missing)}: not measured;"
        f" `mvp-align stats RUN --set {name} {crosses}` does it."
    ]


def export_figures(run: Path) -> dict[str, Figure]:
    """Return the figures of the run's page by name. Raises UserError if a file of the run is
    missing or broken."""
    files = read_report_files(run)
    parts = set_parts(Results(files.rows), files, people_named=True)
    found = {
        figure.words.name: figure
        for figure in (*drawn([sets_figure(parts)]), *curve_panels(files.curves or []))
    }
    for number, part in enumerate(parts, 1):
        for figure in part.figures():
            name = figure.words.name.removeprefix(f"set{number}-")
            found[f"{part.name}-{name}"] = figure
    return found


def write_figures(figures: Mapping[str, Figure], target: Path) -> list[Path]:
    """Write an SVG a figure to the folder `target`, and return them. Raises UserError if it cannot
    be written."""
    return _write(target, {f"{name}.svg": figure.svg() for name, figure in figures.items()})


def write_tables(tables: Sequence[ResultTable], form: str, target: Path) -> list[Path]:
    """Write a file a table to the folder `target`, with its notes in `NAME.notes.txt` where the
    file is a CSV, and return all. Raises UserError if it cannot be written."""
    texts = {
        f"{table.name}.{SUFFIXES[form]}": f"{format_tables(form, [table])}\n" for table in tables
    }
    if form == "csv":
        texts |= {
            f"{table.name}.notes.txt": "".join(f"{note}\n" for note in table.notes)
            for table in tables
            if table.notes
        }
    return _write(target, texts)


def _write(target: Path, texts: Mapping[str, str]) -> list[Path]:
    paths = [target / re.sub(r"[^A-Za-z0-9_.@-]+", "-", name) for name in texts]
    if len({*paths}) < len(paths):
        raise ValueError(f"two of {sorted(texts)} are one file")
    try:
        target.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, texts.values(), strict=True):
            with full_disk_explained(path):
                write_text(path, text)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}.") from None
    return paths
