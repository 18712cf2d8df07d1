"""How runs compare on the pairs that they share: tables, and what is shown in words."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mvp_align.metrics.intervals import Estimate
from mvp_align.metrics.names import in_percent
from mvp_align.metrics.opa import ACC, MARGIN
from mvp_align.reporting.comparison import Comparison, Measurement
from mvp_align.reporting.comparison_tables import (
    all_groups,
    flip_counts,
    flipped_pairs,
    groups_table,
    metrics_table,
    settings_table,
    side_by_side,
)
from mvp_align.reporting.references import config_of, published_lines
from mvp_align.reporting.table import PROBABILITY, ResultTable
from mvp_align.runs.run_folder import read_environment

MOST = 10
"""Groups that the terminal shows."""


def comparison_tables(runs: Sequence[Path], found: Comparison) -> list[ResultTable]:
    """Return the tables of a comparison: settings that differ, every metric of every run, groups
    that moved, and how many pairs flipped."""
    shared = found.shared
    return [
        settings_table(runs),
        metrics_table(shared, found.metrics),
        groups_table(shared, found.moves),
        flip_counts(shared, found.flips),
    ]


def program_tables(runs: Sequence[Path], found: Comparison) -> list[ResultTable]:
    """Return the tables of a comparison, with all groups that were looked at and all pairs that
    flipped."""
    shared = found.shared
    return [
        *comparison_tables(runs, found),
        all_groups(shared, found.moves),
        flipped_pairs(shared, found.flips),
    ]


def terminal_tables(runs: Sequence[Path], found: Comparison) -> list[ResultTable]:
    """Return what fits a terminal: acc@0 and margin alone, and the groups that moved most."""
    settings, metrics, groups, flips = comparison_tables(runs, found)
    beside = side_by_side(found.shared, found.metrics, (ACC, MARGIN.name))
    notes = [*metrics.notes, *published_references(runs, found.shared.set)]
    beside = replace(beside, notes=notes)
    return [settings, beside, _shortened(groups), flips] if len(runs) > 1 else [beside]


def verdicts(found: Comparison) -> list[str]:
    """Say of each run but the first what is shown of its acc@0 among all that are compared."""
    (acc,) = [one for one in found.metrics if one.metric == ACC]
    first = acc.lines[0].run
    tests = sum(line.p_holm is not None for line in acc.lines)
    return [
        _verdict(line, line.difference, first, tests)
        for line in acc.lines
        if line.difference is not None
    ]


def _verdict(line: Measurement, difference: Estimate, first: str, tests: int) -> str:
    if line.direction == "none" and line.p_holm is not None and _leaves_out_0(difference):
        return (
            f"No difference in {ACC.removeprefix('opa/')} shown between {line.run} and {first}:"
            f" {_difference_text(difference, ACC)} leaves 0 out alone, but not among {tests}"
            f" comparisons (p {PROBABILITY.text(line.p_holm)}, Holm)."
        )
    return difference_line(difference, ACC, first, line.run)


def published_references(runs: Sequence[Path], set_name: str) -> list[str]:
    """Return lines on what others published for the runs' models and data."""
    lines = [
        line
        for run in runs
        for line in published_lines(
            config_of(run), read_environment(run / "environment.json"), set_name
        )
    ]
    return list(dict.fromkeys(lines))


def _shortened(table: ResultTable) -> ResultTable:
    """The groups that moved most in either direction, and in one line what the notes say."""
    rows, notes = table.rows, list(table.notes)
    if len(notes) > 1:
        notes[1:] = [f"In {len(notes) - 1} breakdowns, groups of too few people are held back."]
    if not rows:
        notes = ["No group is shown to have moved.", *notes]
    if len(rows) > MOST:
        rows = [*rows[: MOST // 2], *rows[-MOST // 2 :]]
        notes = [f"{len(table.rows) - MOST} more groups moved, by less.", *notes]
    return replace(table, rows=rows, notes=notes)


def difference_line(difference: Estimate, metric: str, first: str, other: str) -> str:
    """State what the interval of other minus first shows, with no more certainty than it has."""
    if difference.low is None or difference.high is None:
        return f"{other} against {first}: one user alone, so there is no interval."
    shown = _difference_text(difference, metric)
    name = metric.removeprefix("opa/")
    if not _leaves_out_0(difference):
        return f"No difference in {name} shown between {other} and {first}: {shown} spans 0."
    word = "higher" if difference.low > 0 else "lower"
    return f"{other} has a {word} {name} than {first}: {shown}."


def _leaves_out_0(difference: Estimate) -> bool:
    low, high = difference.low, difference.high
    return low is not None and high is not None and (low > 0 or high < 0)


def _difference_text(difference: Estimate, metric: str) -> str:
    return measured_text(difference, metric, sign="+") + " points" * in_percent(metric)


def measured_text(estimate: Estimate, metric: str, sign: str = "") -> str:
    """Format a mean or a difference of means with its interval: shares in percent."""
    scale, form = (100, f"{sign}.1f") if in_percent(metric) else (1, f"{sign}.3f")
    if estimate.low is None or estimate.high is None:
        return format(estimate.value * scale, form)
    return (
        f"{estimate.value * scale:{form}} [{estimate.low * scale:{form}},"
        f" {estimate.high * scale:{form}}]"
    )
