"""Compare what runs measured on answers, pair by pair: PAA and SPMR, of models behind APIs too."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mvp_align.errors import UserError
from mvp_align.metrics.intervals import Estimate, clustered_mean
from mvp_align.metrics.metric import LIFT
from mvp_align.metrics.names import kind_of
from mvp_align.reporting.compare import difference_line, measured_text
from mvp_align.reporting.finished import STAGES
from mvp_align.reporting.results import unique
from mvp_align.runs.pair_files import PairValues, read_values
from mvp_align.runs.run_folder import RunFolder


def share_answers_alone(runs: Sequence[Path], set_name: str) -> bool:
    """Return whether all runs measured answers to the set, and not all scored a tuned model."""
    folders = [RunFolder(run, resumed=False, writes=False) for run in runs]
    answered = all(
        any(folder.values(stage, set_name).is_file() for stage in STAGES) for folder in folders
    )
    return answered and not all(folder.scores("tuned", set_name).is_file() for folder in folders)


def print_answers_compared(
    runs: Sequence[Path], set_name: str, metric: str | None, console: Console | None = None
) -> None:
    """Print a metric of each run's answers, or all that they share, and the differences to the
    first run on the pairs that both have.

    Each run counts with its tuned model, or with its only one. Raises UserError if the runs share
    no such metric, or if the same ids are pairs of different people.
    """
    found = {run: _last_values(run, set_name) for run in runs}
    shared = [
        name
        for name in unique(name for line in found[runs[0]][1] for name in line.values)
        if all(any(name in line.values for line in lines) for _, lines in found.values())
    ]
    if metric is not None and metric not in shared:
        raise UserError(
            f"--metric {metric}: not measured pair by pair on the answers of all these runs to"
            f" {set_name}. All have: {', '.join(shared) or 'nothing'}."
        )
    if not shared:
        raise UserError(
            f"These runs have neither tuned scores of {set_name} nor a metric of answers in common:"
            " have their answers judged alike (mvp-align judge RUN), or score all of them."
        )
    console = console or Console()
    if metric is None:
        console.print("Not all of these runs have scores of a tuned model: acc@0 is not compared.")
    for name in [metric] if metric else shared:
        _print_metric(found, set_name, name, console)


def _last_values(run: Path, set_name: str) -> tuple[str, list[PairValues]]:
    """Return the stage that a run ends in, and its lines of `values/`. Raises UserError."""
    folder = RunFolder(run, resumed=False, writes=False)
    for stage in reversed(STAGES):
        if lines := read_values(folder.values(stage, set_name)):
            return stage, lines
    raise UserError(
        f"{run} has measured no answers to {set_name}: mvp-align generate {run} --set {set_name}"
    )


def _print_metric(
    found: Mapping[Path, tuple[str, list[PairValues]]],
    set_name: str,
    metric: str,
    console: Console,
) -> None:
    (first, (_, first_lines)), *_ = found.items()
    table = Table(
        title=f"{set_name}: {metric}, 95 % intervals clustered by user", title_justify="left"
    )
    for column in ("run", "model", "value", "n", "users", "against the first", "on pairs"):
        table.add_column(column, justify="left" if column in ("run", "model") else "right")
    verdicts = []
    for run, (stage, lines) in found.items():
        own = [line for line in lines if metric in line.values]
        value = clustered_mean(
            [line.values[metric] for line in own], [line.user_id for line in own], kind_of(metric)
        )
        cells = ["", ""]
        if run != first:
            difference = _difference(metric, first_lines, lines, first, run)
            cells = [measured_text(difference, metric, sign="+"), str(difference.n)]
            verdicts.append(difference_line(difference, metric, first.name, run.name))
        counts = [str(value.n), str(value.users)]
        table.add_row(run.name, stage, measured_text(value, metric), *counts, *cells)
    console.print(table)
    for line in verdicts:
        console.print(line, highlight=False)


def _difference(
    metric: str,
    first: Sequence[PairValues],
    other: Sequence[PairValues],
    first_run: Path,
    run: Path,
) -> Estimate:
    """Return other minus first over the pairs that both have. Raises UserError if they share none,
    or if some of these are of other people."""
    before = {line.id: line for line in first if metric in line.values}
    both = [line for line in other if metric in line.values and line.id in before]
    if not both or any(line.user_id != before[line.id].user_id for line in both):
        raise UserError(
            f"{first_run} and {run} were measured on different pairs, so they cannot be compared"
            " pair by pair."
        )
    changes = [line.values[metric] - before[line.id].values[metric] for line in both]
    return clustered_mean(changes, [line.user_id for line in both], kind_of(f"{metric}{LIFT}"))
