"""Tables as text: for the terminal, LaTeX and Markdown rounded, as CSV and JSON in full."""

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mvp_align.data.markdown import markdown_table
from mvp_align.errors import UserError
from mvp_align.reporting.table import Bounds, Cell, Column, Number, ResultTable
from mvp_align.runtime.json_files import to_json

FORMATS = ("table", "csv", "latex", "md", "json")
PASTED = ("csv", "latex", "json")
"""A file, a paper or a program takes these as they are: what else is said goes to stderr."""
WIDTH = 100
"""Width in columns if the output is not a terminal (like the log file of a cluster job)."""
LATEX = str.maketrans(
    {char: f"\\{char}" for char in "_%&#${}"}
    | {
        "±": r"$\pm$",
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "|": r"\textbar{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    }
)


def check_format(form: str) -> None:
    """Raise UserError for a `--format` that is none of FORMATS."""
    if form == "markdown":
        raise UserError("--format markdown: its name is md.")
    if form not in FORMATS:
        raise UserError(f"--format {form}: must be one of {', '.join(FORMATS)}.")


def format_tables(
    form: str, tables: Sequence[ResultTable], width: int | None = None, *, colour: bool = False
) -> str:
    """Return the tables as one of FORMATS, without a newline at the end.

    `width` and `colour` are the terminal's. Without a width it is WIDTH, or what the widest table
    needs to show numbers and words in one piece.
    """
    if form == "table":
        return _as_terminal(tables, width, colour=colour)
    made = {"csv": _as_csv, "latex": _as_latex, "md": _as_markdown, "json": _as_json}
    return made[form](tables)


def notes_of(tables: Sequence[ResultTable]) -> list[str]:
    """Return the notes of tables, each once, of which a CSV holds none."""
    kept = (note for table in tables if not table.restated for note in table.notes)
    return list(dict.fromkeys(kept))


def _as_terminal(tables: Sequence[ResultTable], width: int | None, *, colour: bool) -> str:
    fits = width or max([WIDTH, *map(_least_width, tables)])
    console = Console(file=io.StringIO(), width=fits, highlight=False, force_terminal=colour)
    print_tables(tables, console)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().rstrip().splitlines())


def _least_width(table: ResultTable) -> int:
    """Return the columns that a table takes with numbers and words in one piece."""
    made = rich_table(table)
    for column in made.columns:
        if column.no_wrap:
            column.min_width = max(cell_len(str(one)) for one in (column.header, *column.cells))
    console = Console(file=io.StringIO(), width=sys.maxsize)
    return Measurement.get(console, console.options, made).minimum


def print_tables(tables: Sequence[ResultTable], console: Console) -> None:
    """Print tables with their notes below them, dimmed; what several have is said at the end."""
    times = Counter(note for table in tables for note in table.notes)
    for table in tables:
        console.print(rich_table(table))
        own = [note for note in table.notes if times[note] == 1]
        if own and not table.framed:
            console.print()
        for note in own:
            console.print(Text(note, style="dim"))
        if own or not table.framed:
            console.print()
    for note in (note for note, count in times.items() if count > 1):
        console.print(Text(note, style="dim"))


def rich_table(table: ResultTable) -> Table:
    made = bare_table(Text(table.title))
    made.show_edge = table.framed
    places = table.places("people")
    for column in (table.columns[place] for place in places):
        made.add_column(
            Text(column.title),
            justify="left" if column.kind == "text" else "right",
            no_wrap=column.kind != "text",
            overflow="fold",
        )
    for place, row in enumerate(table.rows):
        # cells are no markup: a group's name may contain [brackets]
        cells = [Text(shown_cell(row[column])) for column in places]
        made.add_row(
            *cells,
            style="bold" if place in table.strong else None,
            end_section=place in table.rules,
        )
    return made


def bare_table(title: str | Text) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 0, 0, 1),
    )


def shown_cell(cell: Cell) -> str:
    """Return a cell as people read it, rounded; `-` for what is not known."""
    if isinstance(cell, Number | Bounds):
        return cell.text
    if isinstance(cell, tuple):
        return " ".join(f"{value:g}" for value in cell)
    return "-" if cell is None else str(cell)


def _as_markdown(tables: Sequence[ResultTable]) -> str:
    """Return tables with bold titles, cells rounded and escaped, and notes below."""
    parts: list[str] = []
    for table in tables:
        columns, rows = _for_people(table)
        words = len([*takewhile(lambda column: column.kind == "text", columns)])
        text = markdown_table([column.title for column in columns], rows, words)
        parts += [f"**{markdown_text(table.title)}**", text.rstrip("\n")]
        parts += [markdown_text(note) for note in table.notes]
    return "\n\n".join(parts)


def markdown_text(text: str) -> str:
    escaped = re.sub(r"([\\*\[\]`|]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))
    return escaped.replace("<", "&lt;")


def _as_latex(tables: Sequence[ResultTable]) -> str:
    """Return a `table` environment each, for a document with `\\usepackage{booktabs}`.

    Cells are rounded and escaped. Characters of other scripts need LuaLaTeX or XeLaTeX.
    """
    return "\n\n".join(_latex_table(table) for table in tables)


def _latex_table(table: ResultTable) -> str:
    columns, rows = _for_people(table)
    sides = "".join("l" if column.kind == "text" else "r" for column in columns)
    lines = [
        "\\begin{table}",
        f"\\caption{{{_latex_text(table.title)}}}",
        f"\\begin{{tabular}}{{{sides}}}",
        "\\toprule",
        f"{' & '.join(_latex_text(column.title) for column in columns)} \\\\",
        "\\midrule",
    ]
    for place, row in enumerate(rows):
        # braces, because a row that begins with a bracket would be an option of \\
        lines.append(f"{' & '.join(f'{{{_latex_text(cell)}}}' for cell in row)} \\\\")
        if place in table.rules and place + 1 < len(rows):
            lines.append("\\midrule")
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"\\par{{\\footnotesize {_latex_text(note)}}}" for note in table.notes]
    return "\n".join([*lines, "\\end{table}"])


def _latex_text(text: str) -> str:
    escaped = " ".join(text.split()).translate(LATEX)
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", escaped)


def _for_people(table: ResultTable) -> tuple[list[Column], list[list[str]]]:
    places = table.places("people")
    rows = [[shown_cell(row[place]) for place in places] for row in table.rows]
    return [table.columns[place] for place in places], rows


def _as_csv(tables: Sequence[ResultTable]) -> str:
    """Return one CSV with unrounded numbers and their bounds (`KEY_low`, `KEY_high`), without
    notes (`notes_of`).

    Several tables stand below each other under the columns of all, with `table` as the first one.
    What is not known, or no column of that table, is empty. `KEY_unit` is the unit of KEY and of
    the numbers after it, up to the next one.
    """
    tables = [table for table in tables if not table.restated]
    named = len(tables) > 1
    keys = ["table"] * named + [key for table in tables for key in full_keys(table)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(keys)), lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for row in full_rows(table):
            flat = {
                key: " ".join(map(repr, value)) if isinstance(value, tuple) else value
                for key, value in row.items()
            }
            writer.writerow(({"table": table.name} if named else {}) | flat)
    return text.getvalue().rstrip("\n")


def _as_json(tables: Sequence[ResultTable]) -> str:
    """Return `{"tables": [{name, title, columns, rows, notes}]}` with unrounded numbers.

    Rows are objects with the keys of the CSV; null is what is not known.
    """
    found = [
        {
            "name": table.name,
            "title": table.title,
            "columns": full_keys(table),
            "rows": full_rows(table),
            "notes": list(table.notes),
        }
        for table in tables
        if not table.restated
    ]
    return to_json({"tables": found}, indent=2)


def full_keys(table: ResultTable) -> list[str]:
    """Return the keys of a table's unrounded rows: beside a number its bounds and its unit."""
    keys: list[str] = []
    units: list[str | None] = [""] * len(table.rows)
    for place in table.places("programs"):
        key, kind = table.columns[place].key, table.columns[place].kind
        cells = [row[place] for row in table.rows]
        if kind != "interval":
            keys.append(key)
        if kind in ("estimate", "interval"):
            keys += [f"{key}_low", f"{key}_high"]
        own = [cell.style.unit if isinstance(cell, Number | Bounds) else None for cell in cells]
        if not all(unit in (None, before) for unit, before in zip(own, units, strict=True)):
            keys.append(f"{key}_unit")
            units = own
    if len({*keys}) < len(keys):
        raise ValueError(f"{table.name}: two columns of one key among {keys}")
    return keys


def full_rows(table: ResultTable) -> list[dict[str, Any]]:
    """Return a table's unrounded rows by `full_keys`; None is what is not known."""
    keys = full_keys(table)
    rows = []
    for row in table.rows:
        found: dict[str, Any] = dict.fromkeys(keys)
        for place in table.places("programs"):
            column, cell = table.columns[place], row[place]
            if cell is None or (cell == "" and column.kind != "text"):
                continue
            key = column.key
            parts: dict[str, Any] = {key: cell}
            if isinstance(cell, Number | Bounds):
                parts = {f"{key}_low": cell.low, f"{key}_high": cell.high}
                parts[f"{key}_unit"] = cell.style.unit or None
                parts |= {key: cell.value} if isinstance(cell, Number) else {}
            found |= {name: part for name, part in parts.items() if name in keys}
        rows.append(found)
    return rows
