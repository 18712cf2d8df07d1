"""Tables printed at the end of a run."""

import sys
from collections.abc import Sequence

from rich.console import Console

from mvp_align.metrics.rows import Row
from mvp_align.reporting.run_tables import run_result_tables
from mvp_align.reporting.table_formats import WIDTH, print_tables


def print_results(
    rows: Sequence[Row],
    console: Console | None = None,
    *,
    data_format: str = "",
    noted: Sequence[str] | None = None,
    worst_by: str = "",
) -> None:
    """Print `run_result_tables`, shares in percent, with 95 % intervals."""
    console = console or Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    if not rows:
        console.print("No results to show.")
        return
    tables = run_result_tables(rows, data_format=data_format, noted=noted, worst_by=worst_by)
    print_tables(tables, console)
