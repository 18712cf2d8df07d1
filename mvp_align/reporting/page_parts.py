"""What pages of several runs have in common: figures and tables in one file without network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvp_align.errors import UserError
from mvp_align.figures.figure import Figure
from mvp_align.figures.page_figures import (
    content_policy,
    drawing_script,
    figure_html,
    shared_html,
)
from mvp_align.reporting.pages import page_template
from mvp_align.reporting.table import Cell
from mvp_align.reporting.table_formats import shown_cell
from mvp_align.runs.curve_points import CurvePoint, read_curves
from mvp_align.runs.run_folder import RunFolder
from mvp_align.runtime.atomic import write_text

LONGEST = 2000
"""Letters of a text."""

Curves = Mapping[str, Sequence[CurvePoint]]
"""The points of each run that logged any, by its name."""


def read_all_curves(runs: Mapping[str, Path]) -> tuple[Curves, list[str]]:
    """Return the curves of the runs, and the names of those that have none.

    Raises UserError if a file of curves is broken.
    """
    found: dict[str, Sequence[CurvePoint]] = {}
    for name, run in runs.items():
        path = RunFolder(run, resumed=False, writes=False).curves
        if path.is_file() and (points := read_curves(path)):
            found[name] = points
    return found, [name for name in runs if name not in found]


def write_drawn_page(page: Path, template: str, drawn: Sequence[Figure], **content: Any) -> Path:
    """Fill the template and write it. `drawn` are all its figures.

    Raises UserError if the page cannot be written.
    """
    script = drawing_script()
    text = page_template(template, cell=cell_text, cut=cut, drawn=figure_html).render(
        policy=content_policy([script]),
        shared=shared_html(drawn),
        script=script,
        **content,
    )
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_text(page, text)
    except OSError as error:
        raise UserError(
            f"{page} cannot be written: {error.strerror}. --page FILE names another place."
        ) from None
    return page


def cell_text(cell: Cell) -> str:
    """A cell whose line may break before its interval, and not inside."""
    return shown_cell(cell) if isinstance(cell, str) else shown_cell(cell).replace(", ", ",\u00a0")


def cut(text: str) -> str:
    """A text of at most LONGEST letters, which says how many more there were."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]} [… {len(text) - LONGEST} more letters]"
