"""Figures of runs that were compared: differences, groups that moved, curves over each other."""

from collections.abc import Mapping, Sequence

from mvp_align.figures.curve_figure import CurveLine, curve_figure
from mvp_align.figures.figure import Figure, Words
from mvp_align.figures.interval_figures import IntervalRow, Whisker, dot_figure, lift_figure
from mvp_align.metrics.opa import ACC
from mvp_align.reporting.breakdowns import variable_label
from mvp_align.reporting.comparison import Comparison
from mvp_align.reporting.comparison_tables import group_label
from mvp_align.reporting.table import SHARE, Number
from mvp_align.runs.curve_points import CurvePoint
from mvp_align.tracking.curves import curve_of

MOST_GROUPS = 40


def difference_figure(found: Comparison, name: str) -> Figure | None:
    """acc@0 of each run minus the first run's, the lowest first; None for one run."""
    (acc,) = [one for one in found.metrics if one.metric == ACC]
    first = acc.lines[0].run
    rows = [
        _changed(line.run, Number(e.value, e.low, e.high, SHARE, signed=True))
        for line in acc.lines
        if (e := line.difference) is not None
    ]
    return lift_figure(
        rows,
        Words(
            name=name,
            title=f"acc@0 against {first}",
            text=f"acc@0 of each run minus that of {first}, on the same pairs: {_words(rows)}",
            caption=f"Points of acc@0 above or below {first}, pair by pair. Whiskers: 95 %"
            " intervals of each run alone, clustered by user"
            + ("; what is shown among all runs stands below." if rows[1:] else "."),
        ),
    )


def accuracy_figure(found: Comparison, name: str) -> Figure | None:
    """acc@0 of the model that each run ends in."""
    metrics = {one.metric: one for one in found.metrics}
    rows = []
    for place, run in enumerate(found.shared.runs):
        line = metrics[ACC].lines[place]
        number = Number(line.value.value, line.value.low, line.value.high, SHARE)
        whisker = _whisker("base" if run.stage == "base" else "tuned", run.name, number)
        rows.append(IntervalRow(run.name, (whisker,)))
    return dot_figure(
        [("", rows)],
        Words(
            name=name,
            title=f"acc@0 of each run on {found.shared.set}",
            text=f"acc@0 in percent: {_words(rows)}",
            caption="acc@0 on the pairs that all runs share. Whiskers: 95 % intervals, clustered by"
            " user.",
        ),
    )


def moved_figure(found: Comparison, name: str) -> Figure | None:
    """The groups that are shown to have moved in any run, at most MOST_GROUPS: those that moved
    most. None if there are none."""
    shown = [move for move in found.moves.moves if move.shown]
    shown.sort(key=lambda move: abs(move.difference.value), reverse=True)
    several = len(found.shared.runs) > 2
    rows = []
    for move in shown[:MOST_GROUPS]:
        e = move.difference
        label = f"{variable_label(move.group_by)}: {group_label(move)}"
        label = f"{move.run}, {label}" if several else label
        rows.append(_changed(label, Number(e.value, e.low, e.high, SHARE, signed=True)))
    first = found.shared.runs[0].name
    more = f" {len(shown) - MOST_GROUPS} more moved by less." * (len(shown) > MOST_GROUPS)
    return lift_figure(
        rows,
        Words(
            name=name,
            title=f"Groups whose acc@0 moved against {first}",
            text=f"acc@0 of groups minus that under {first}: {_words(rows)}",
            caption=f"Points of acc@0 above or below {first}. Whiskers are widened for all"
            f" {found.moves.looks} groups and runs that were looked at.{more}",
        ),
    )


def _changed(label: str, number: Number) -> IntervalRow:
    return IntervalRow(label, (_whisker("lift", label, number),))


def _whisker(series: str, label: str, number: Number) -> Whisker:
    return Whisker(series, number.value, number.low, number.high, f"{label}: {number.text}")


def _words(rows: Sequence[IntervalRow]) -> str:
    return "; ".join(whisker.says for row in rows for whisker in row.whiskers) + "."


def curve_figures(curves: Mapping[str, Sequence[CurvePoint]], prefix: str) -> list[Figure]:
    """One figure per curve that any run logged, with a line a run.

    `curves` has the points of each run, by its name.
    """
    names = sorted(
        {name for points in curves.values() for point in points for name in point.values}
    )
    found: list[Figure] = []
    for name in names:
        if curve_of(name) is None:
            continue
        lines = [
            CurveLine(run, [p.step for p in at], [p.values[name] for p in at], "eval/" in name)
            for run, of_run in curves.items()
            if (at := [point for point in of_run if name in point.values])
        ]
        figure = curve_figure(
            lines,
            Words(
                name=f"{prefix}-{len(found)}",
                title=name,
                text=f"{name} over the steps of {', '.join(line.label for line in lines)}.",
                caption=f"{name} over optimizer steps, a line a run.",
            ),
        )
        found += [figure] if figure else []
    return found
