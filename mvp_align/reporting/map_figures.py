"""Maps of a set's metrics by country."""

from collections.abc import Sequence

from mvp_align.figures.figure import Figure, Words
from mvp_align.figures.world_figure import Place, world_figure
from mvp_align.metrics.metric import LIFT
from mvp_align.metrics.names import VERSUS, derivation, measure
from mvp_align.metrics.rows import Row
from mvp_align.reporting.result_figures import unit_of
from mvp_align.reporting.results import Results, shown, unique
from mvp_align.runs.pair_files import read_groups
from mvp_align.runs.run_folder import RunFolder

COUNTRY = "birth_country"


def country_maps(
    results: Results, set_name: str, held: Sequence[str] | None, name: str, unit: str
) -> list[Figure]:
    """A map of each metric that has values by country: the leading one of the tuned model first.

    `held` are the countries with too few people, None where nothing names them; `unit` is what
    `users` counts.
    """
    lead = results.lead(set_name)
    rows = [
        row
        for row in results.rows
        if (row.set, row.group_by) == (set_name, COUNTRY) and row.group and _is_mapped(row)
    ]
    chosen = unique((row.stage, row.metric) for row in rows)
    chosen.sort(key=lambda one: (one[1] != lead, one[1] != f"{lead}{LIFT}", one[0] != "tuned"))
    figures = (
        _map(
            [row for row in rows if (row.stage, row.metric) == one],
            held,
            f"{name}-{number}",
            unit,
        )
        for number, one in enumerate(chosen, 1)
    )
    return [figure for figure in figures if figure]


def held_countries(run: RunFolder, results: Results, set_name: str) -> list[str] | None:
    """The countries of the set's pairs that have no row of a mean, because too few people are of
    them. None where the run does not keep its groups. Raises UserError where their file is
    damaged."""
    shown_ones = {
        row.group
        for row in results.rows
        if (row.set, row.group_by) == (set_name, COUNTRY) and not derivation(row.metric)
    }
    if not run.groups(set_name).is_file():
        return None
    groups = read_groups(run.groups(set_name))
    found = {tags[COUNTRY] for _, _, tags in groups.values() if COUNTRY in tags}
    return sorted(found - shown_ones)


def _is_mapped(row: Row) -> bool:
    """Whether it is a mean of a model or its change by training: no comparison with another run,
    and nothing that is the same for every model."""
    return (
        not derivation(row.metric)
        and VERSUS not in row.metric
        and not measure(row.metric).same_for_every_model
    )


def _map(rows: Sequence[Row], held: Sequence[str] | None, name: str, unit: str) -> Figure | None:
    metric, stage = rows[0].metric, rows[0].stage
    label = measure(metric).label.strip()
    what = f"{label}, change by training" if metric.endswith(LIFT) else f"{label}, {stage} model"
    points = " points" * (unit_of(metric) == "points")
    places = [
        Place(
            row.group,
            row.value,
            f"{row.group}: {shown(row)}{points}, {row.n} pairs, {row.users} {unit}",
        )
        for row in rows
    ]
    places += [
        Place(country, None, f"{country}: too few people to be shown") for country in held or ()
    ]
    plain = (
        "Plain: no data, or too few people to be shown."
        if held is None
        else f"{'Hatched: too few people to be shown. ' * bool(held)}Plain: no data."
    )
    caption = f"{what}. {plain} A point or a touch shows the interval and how many people it is of."
    return world_figure(
        places, Words(name, what, f"Map of the world: {what}.", caption), unit=unit_of(metric)
    )
