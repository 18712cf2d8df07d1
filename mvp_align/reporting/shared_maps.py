"""Maps of a run's results for trackers: a page a set, of countries that have results of their
own."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from mvp_align.data.sets import SETS
from mvp_align.figures.figure import Figure, Words
from mvp_align.figures.world_figure import Place, world_figure
from mvp_align.metrics.names import in_percent
from mvp_align.metrics.rows import Row
from mvp_align.reporting.leading import spoken
from mvp_align.reporting.map_figures import COUNTRY
from mvp_align.reporting.results import Line, Results, shown, suppressed_text
from mvp_align.runs.run_folder import RunFolder
from mvp_align.runtime.atomic import write_text


def write_maps(run: RunFolder, rows: Sequence[Row]) -> list[Path]:
    """Write `shared/map-<set>.html` for each set that has results by country of birth, and return
    the paths: an image in a page, without scripts. Raises UserError where the disk is full."""
    results, written = Results(rows), []
    for set_name in results.sets():
        figure = country_map(results, set_name)
        if figure:
            path = run.shared_map(set_name)
            path.parent.mkdir(exist_ok=True)
            write_text(path, _page(figure))
            written.append(path)
    return written


def _page(figure: Figure) -> str:
    words = figure.words
    return Markup(
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n'
        '<figure style="margin:0;font-family:system-ui,sans-serif"><strong>{title}</strong>\n'
        "{drawn}\n<figcaption>{caption}</figcaption></figure></html>\n"
    ).format(title=words.title, drawn=Markup(figure.svg()), caption=words.caption)


def country_map(results: Results, set_name: str) -> Figure | None:
    """Draw the leading metric of the last stage by country of birth; None where no country has it.

    Countries of fewer than `evals.min_users` people have no row, so that they are counted in the
    caption and not named.
    """
    lines = [line for line in results.groups(set_name, COUNTRY) if line.tuned or line.base]
    if not lines:
        return None
    lead, stage = results.lead(set_name), "tuned" if lines[0].tuned else "base"
    title = SETS[set_name].title if set_name in SETS else set_name
    held = {one.label: one.suppressed for one in results.group_gaps(set_name)}
    return world_figure(
        [_place(line) for line in lines],
        Words(
            name=f"map-{set_name}",
            title=f"{title}: {spoken(lead)} of the {stage} model by country of birth",
            text=f"A map of {len(lines)} countries: {'; '.join(_said(line) for line in lines)}.",
            caption=suppressed_text(held.get(results.people_variables(set_name)[COUNTRY])),
        ),
        unit="share" if in_percent(lead) else "number",
    )


def _place(line: Line) -> Place:
    row = line.tuned or line.base
    assert row is not None
    return Place(line.label, row.value, _said(line))


def _said(line: Line) -> str:
    row = line.tuned or line.base
    assert row is not None
    return f"{line.label}: {shown(row)}, {row.n} pairs of {row.users} people"
