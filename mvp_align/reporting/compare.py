"""Compare runs on the same pairs, with paired differences clustered by user."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mvp_align.errors import UserError
from mvp_align.metrics.intervals import Estimate, clustered_mean
from mvp_align.metrics.metric import LIFT
from mvp_align.metrics.names import in_percent, kind_of
from mvp_align.metrics.opa import ACC, MARGIN
from mvp_align.metrics.score_rows import lifts, score_estimates, score_values, users_of
from mvp_align.reporting.references import config_of, published_lines
from mvp_align.runs.pair_files import read_scores
from mvp_align.runs.run_folder import read_environment
from mvp_align.schema import PairScore


def print_comparison(runs: Sequence[Path], set_name: str, console: Console | None = None) -> None:
    """Print acc@0 and margin of each run, and the differences to the first run on the same pairs.

    Raises UserError if a run has no tuned scores of the set, or if two runs were scored on
    different pairs.
    """
    scored = {run: _tuned_scores(run, set_name) for run in runs}
    first = scored[runs[0]]
    table = Table(
        title=f"{set_name}: tuned models, 95 % intervals clustered by user", title_justify="left"
    )
    for column in (
        "run",
        "acc@0",
        "against the first",
        "margin, nats a token",
        "against the first",
        "n",
        "users",
    ):
        table.add_column(column, justify="left" if column == "run" else "right")
    for run, scores in scored.items():
        metrics = score_estimates(scores)
        acc, margin = metrics[ACC], metrics[MARGIN.name]
        if scores is first:
            differences = ("", "")
        else:
            accs, margins = _differences_to(first, scores, runs[0], run)
            differences = (
                measured_text(accs, ACC, sign="+"),
                measured_text(margins, MARGIN.name, sign="+"),
            )
        table.add_row(
            run.name,
            measured_text(acc, ACC),
            differences[0],
            measured_text(margin, MARGIN.name),
            differences[1],
            str(acc.n),
            str(acc.users),
        )
    console = console or Console()
    console.print(table)
    for run, scores in list(scored.items())[1:]:
        accs, _ = _differences_to(first, scores, runs[0], run)
        console.print(difference_line(accs, ACC, runs[0].name, run.name), highlight=False)
    references = [
        line
        for run in runs
        for line in published_lines(
            config_of(run), read_environment(run / "environment.json"), set_name
        )
    ]
    for line in dict.fromkeys(references):
        console.print(Text(line, style="dim"))


def _tuned_scores(run: Path, set_name: str) -> list[PairScore]:
    path = run / "scores" / f"tuned-{set_name.replace('/', '-')}.jsonl"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file. Has the run ended, and is {set_name} among its evals.sets?"
        )
    scores = read_scores(path)
    if not scores:
        raise UserError(
            f"{path} holds no scores, so there is nothing to compare. Run the evaluation again."
        )
    return scores


def _differences_to(
    first: Sequence[PairScore], scores: Sequence[PairScore], first_run: Path, run: Path
) -> tuple[Estimate, Estimate]:
    if [s.id for s in first] != [s.id for s in scores]:
        raise UserError(
            f"{first_run} and {run} were scored on different pairs, so they cannot be compared pair"
            " by pair."
        )
    changes, users = lifts(score_values(scores), score_values(first), LIFT), users_of(scores)
    acc, margin = (
        clustered_mean(changes[change], users, kind_of(change))
        for change in (f"{ACC}{LIFT}", f"{MARGIN.name}{LIFT}")
    )
    return acc, margin


def difference_line(difference: Estimate, metric: str, first: str, other: str) -> str:
    """State what the interval of other minus first shows, with no more certainty than it has."""
    if difference.low is None or difference.high is None:
        return f"{other} against {first}: one user alone, so there is no interval."
    shown = measured_text(difference, metric, sign="+") + " points" * in_percent(metric)
    name = metric.removeprefix("opa/")
    if difference.low <= 0 <= difference.high:
        return f"No difference in {name} shown between {other} and {first}: {shown} spans 0."
    word = "higher" if difference.low > 0 else "lower"
    return f"{other} has a {word} {name} than {first}: {shown}."


def measured_text(estimate: Estimate, metric: str, sign: str = "") -> str:
    """Format a mean or a difference of means with its interval: shares in percent."""
    scale, form = (100, f"{sign}.1f") if in_percent(metric) else (1, f"{sign}.3f")
    if estimate.low is None or estimate.high is None:
        return format(estimate.value * scale, form)
    return (
        f"{estimate.value * scale:{form}} [{estimate.low * scale:{form}},"
        f" {estimate.high * scale:{form}}]"
    )
