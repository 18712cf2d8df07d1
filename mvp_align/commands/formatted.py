"""Tables printed by commands: rounded for people, in full for files and programs."""

import shutil
import sys
from collections.abc import Sequence

import typer

from mvp_align.reporting.table import ResultTable
from mvp_align.reporting.table_formats import format_tables, notes_of


def print_formatted(form: str, tables: Sequence[ResultTable]) -> None:
    """Print tables as one of FORMATS, in colour and as wide as the terminal where there is one.

    The notes of a CSV, which has no place for them, go to stderr.
    """
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else None
    typer.echo(format_tables(form, tables, width, colour=terminal))
    if form == "csv":
        for note in notes_of(tables):
            typer.echo(note, err=True)
