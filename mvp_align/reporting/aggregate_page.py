"""The page of runs that differ by their seed alone, taken together."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from mvp_align.figures.figure import Figure, Words
from mvp_align.figures.interval_figures import IntervalRow, Whisker, dot_figure, lift_figure
from mvp_align.metrics.opa import ACC
from mvp_align.reporting.aggregate import Group, Summary
from mvp_align.reporting.aggregate_tables import aggregate_result_tables, remarks
from mvp_align.reporting.compare import published_references
from mvp_align.reporting.compare_figures import curve_figures
from mvp_align.reporting.finished import LIFTED
from mvp_align.reporting.page_parts import read_all_curves, write_drawn_page
from mvp_align.reporting.results import unique
from mvp_align.reporting.table import SHARE, Cell, Number, ResultTable


def write_aggregate(groups: Sequence[Group], broken: Sequence[str], page: Path) -> Path:
    """Write the page of `aggregate`'s groups.

    Raises UserError if a run's curves are broken, or the page cannot be written.
    """
    several = len(groups) > 1
    runs = {
        f"{group.label}, seed {seed}" if several else f"seed {seed}": folder
        for group in groups
        for seed, folder in zip(group.seeds, group.folders, strict=True)
    }
    curves, without = read_all_curves(runs)
    drawn = curve_figures(curves, "curve")
    names = unique(row.set for group in groups for row in group.summaries)
    figures = [
        figure for place, name in enumerate(names) for figure in _figures_of(groups, name, place)
    ]
    return write_drawn_page(
        page,
        "aggregate.html.j2",
        [*drawn, *figures],
        counted=f"{len(runs)} run{'s' * (len(runs) != 1)} of {len(groups)}"
        f" configuration{'s' * several}",
        headline=_headline(groups),
        figures=figures,
        tables=[_filled(table) for table in aggregate_result_tables(groups)],
        remarks=remarks(groups, broken),
        published=unique(
            f"{name}: {line}"
            for name in names
            for group in groups
            for line in published_references(group.folders[:1], name)
        ),
        curves=drawn,
        without_curves=without,
    )


def _filled(table: ResultTable) -> ResultTable:
    """Repeat what stands once for several rows, because on a phone each row is a card."""
    rows: list[list[Cell]] = []
    for row in table.rows:
        rows.append(
            [rows[-1][place] if cell == "" and rows else cell for place, cell in enumerate(row)]
        )
    return replace(table, rows=rows)


def _headline(groups: Sequence[Group]) -> str:
    """acc@0 of the first configuration's first set that was scored, with the interval over both."""
    found = [
        (group, row)
        for group in groups
        for row in group.summaries
        if (row.metric, row.stage) == (ACC, LIFTED)
    ]
    if not found:
        return "No lift of acc@0 was measured."
    group, row = found[0]
    where = f"{group.label}, {row.set}" if len(groups) > 1 else row.set
    number = _number(row, signed=True)
    seeds = "one seed" if len(group.seeds) == 1 else f"{len(group.seeds)} seeds"
    over = "people" if len(group.seeds) == 1 else "people and seeds"
    if number.low is None or number.high is None:
        return (
            f"{where}: no change of acc@0 is shown over {seeds}, because there is no interval:"
            f" {number.text} points."
        )
    if number.low <= 0 <= number.high:
        return f"{where}: no change of acc@0 is shown: {number.text} points over {seeds}."
    word = "rose" if number.low > 0 else "fell"
    return (
        f"{where}: acc@0 {word} by {number.text} points over {seeds} (95 % interval over {over})."
    )


def _number(row: Summary, *, signed: bool = False) -> Number:
    """The mean with its interval over people and seeds or, with one seed, over people alone."""
    e = row.estimate
    low, high = e.both or (e.people if len(e.by_seed) == 1 else None) or (None, None)
    return Number(e.mean, low, high, SHARE, signed)


def _figures_of(groups: Sequence[Group], name: str, place: int) -> Iterable[Figure]:
    """acc@0 of each seed and of all, and the lift of each configuration, of the set `name`."""
    sections, lifts = [], []
    for group in groups:
        rows = {row.stage: row for row in group.summaries if (row.set, row.metric) == (name, ACC)}
        stages = [rows[stage] for stage in ("base", "tuned") if stage in rows]
        if stages:
            sections.append((group.label, _seed_rows(group, stages)))
        if LIFTED in rows:
            number = _number(rows[LIFTED], signed=True)
            lifts.append(IntervalRow(group.label, (_whisker("lift", number),), number.text))
    drawn = (
        dot_figure(
            sections,
            Words(
                name=f"seeds-{place}",
                title=f"{name}: acc@0 by seed",
                text=f"acc@0 in percent: {_words(row for _, rows in sections for row in rows)}",
                caption="Ring: base model. Dot: tuned model. The seeds' means, and all seeds with"
                " the 95 % interval over people and seeds.",
            ),
        ),
        lift_figure(
            lifts,
            Words(
                name=f"lifts-{place}",
                title=f"{name}: lift of acc@0",
                text=f"Tuned minus base, in points: {_words(lifts)}",
                caption="Tuned minus base, pair by pair. Whiskers: 95 % intervals over people and"
                " seeds; over people alone with one seed.",
            ),
        ),
    )
    return [figure for figure in drawn if figure]


def _seed_rows(group: Group, stages: Sequence[Summary]) -> list[IntervalRow]:
    rows = []
    for place, seed in enumerate(group.seeds):
        numbers = {row.stage: Number(row.estimate.by_seed[place], style=SHARE) for row in stages}
        rows.append(_row(f"seed {seed}", numbers))
    return [*rows, _row("all seeds", {row.stage: _number(row) for row in stages})]


def _row(label: str, numbers: dict[str, Number]) -> IntervalRow:
    whiskers = tuple(_whisker(stage, number) for stage, number in numbers.items())
    return IntervalRow(label, whiskers, " → ".join(number.text for number in numbers.values()))


def _whisker(series: str, number: Number) -> Whisker:
    return Whisker(series, number.value, number.low, number.high, f"{series} {number.text}")


def _words(rows: Iterable[IntervalRow]) -> str:
    return "; ".join(f"{row.label} {row.values}" for row in rows) + "."
