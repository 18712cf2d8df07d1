"""The page of runs that were compared: one file, no network, from the runs' files alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from mvp_align.data.sets import SETS
from mvp_align.errors import UserError
from mvp_align.figures.figure import Figure
from mvp_align.metrics.metric import LIFT
from mvp_align.metrics.opa import ACC, MARGIN
from mvp_align.reporting.compare import published_references, verdicts
from mvp_align.reporting.compare_figures import (
    accuracy_figure,
    curve_figures,
    difference_figure,
    moved_figure,
)
from mvp_align.reporting.comparison import Comparison, Flip, Flips, compare_set
from mvp_align.reporting.comparison_tables import (
    flip_counts,
    flips_table,
    groups_table,
    metrics_table,
    settings_table,
    side_by_side,
)
from mvp_align.reporting.listing import listed_run, runs_table
from mvp_align.reporting.page_parts import read_all_curves, write_drawn_page
from mvp_align.reporting.shared_pairs import run_names, scored_sets
from mvp_align.reporting.table import ResultTable

MOST_FLIPS, MOST_TEXTS = 1000, 120
"""Flipped pairs on a page, with their numbers and with their texts; over all runs of a set."""


@dataclass(frozen=True, slots=True)
class SetCompared:
    """One set on the page."""

    title: str
    verdicts: list[str]
    left_out: list[str]
    figures: list[Figure]
    beside: ResultTable
    metrics: ResultTable
    published: list[str]
    moved: ResultTable
    moved_figure: Figure | None
    groups: list[ResultTable]
    """All groups of each run; empty where nobody knows of groups."""
    flips: ResultTable
    flipped: list["FlippedPairs"]


@dataclass(frozen=True, slots=True)
class FlippedPairs:
    """The pairs that flipped in a run, and those of them whose texts are shown."""

    table: ResultTable
    texts: list[Flip]


def default_page(runs: Sequence[Path]) -> Path:
    """Return where the page of these runs is written unless a command says so: beside the first
    one, in a file of its own for each choice of runs."""
    whole = "\n".join(str(run.resolve()) for run in runs)
    name = f"comparison-{sha256(whole.encode()).hexdigest()[:8]}.html"
    return runs[0].resolve().parent / name


def write_comparison(runs: Sequence[Path], found: Comparison, page: Path) -> Path:
    """Write the page: the set of `found` first, then the others that all runs were scored on.

    Raises UserError if a run's file is damaged, or the page cannot be written.
    """
    sets, notes = [found], []
    for name in scored_sets(runs):
        if name != found.shared.set:
            try:
                sets.append(compare_set(runs, name))
            except UserError as error:
                notes.append(f"{name} is not compared. {error}")
    names = run_names(runs)
    curves, without = read_all_curves(dict(zip(names, runs, strict=True)))
    parts = [_set_compared(one, place) for place, one in enumerate(sets)]
    drawn = curve_figures(curves, "curve")
    return write_drawn_page(
        page,
        "compare.html.j2",
        [*drawn, *(figure for part in parts for figure in _all_figures(part))],
        names=names,
        headline=headline(found),
        runs=runs_table(runs[0].parent, [listed_run(run) for run in runs], len(runs), names),
        settings=settings_table(runs),
        parts=parts,
        curves=drawn,
        without_curves=without,
        notes=notes,
    )


def _all_figures(part: SetCompared) -> list[Figure]:
    return [*part.figures, *([part.moved_figure] if part.moved_figure else [])]


def headline(found: Comparison) -> str:
    """Say in a sentence what is shown of acc@0 against the first run."""
    said = verdicts(found)
    if len(said) == 1:
        return said[0]
    (acc,) = [one for one in found.metrics if one.metric == ACC]
    if not said:
        return f"{acc.lines[0].run} alone: name another run to compare it with."
    counted = Counter(line.direction for line in acc.lines[1:])
    higher, lower, none = (counted[word] for word in ("higher", "lower", "none"))
    return (
        f"Of {len(said)} runs, {higher} {'has' if higher == 1 else 'have'} a higher acc@0 than"
        f" {acc.lines[0].run} and {lower} a lower one; for {none} no difference is shown"
        f" ({found.shared.set}, corrected for the number of runs)."
    )


def _set_compared(found: Comparison, place: int) -> SetCompared:
    shared = found.shared
    folders = [run.folder for run in shared.runs]
    others = shared.runs[1:]
    figures = [
        accuracy_figure(found, f"accuracy-{place}"),
        difference_figure(found, f"difference-{place}"),
    ]
    known = not found.moves.unknown
    return SetCompared(
        title=SETS[shared.set].title if shared.set in SETS else shared.set,
        verdicts=verdicts(found),
        left_out=shared.left_out(),
        figures=[figure for figure in figures if figure],
        beside=side_by_side(shared, found.metrics, (ACC, f"{ACC}{LIFT}", MARGIN.name)),
        metrics=metrics_table(shared, found.metrics),
        published=published_references(folders, shared.set),
        moved=groups_table(shared, found.moves),
        moved_figure=moved_figure(found, f"moved-{place}"),
        groups=[groups_table(shared, found.moves, run.name) for run in others] if known else [],
        flips=flip_counts(shared, found.flips),
        flipped=[_flipped(found, one) for one in found.flips if one.gained or one.lost],
    )


def _flipped(found: Comparison, one: Flips) -> FlippedPairs:
    runs = len(found.flips)
    told = [flip for flip in one.largest if flip.texts]
    return FlippedPairs(
        flips_table(found.shared, one, max(10, MOST_FLIPS // runs)),
        told[: max(3, MOST_TEXTS // runs)],
    )
