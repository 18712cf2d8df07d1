"""Commands of `mvp-align data` that make pairs of a population: build and from-scores."""

from pathlib import Path
from typing import Annotated

import typer

from mvp_align.errors import UserError
from mvp_align.runtime.preemption import install_signal_handlers

PopulationName = Annotated[
    str,
    typer.Argument(
        metavar="POPULATION", help="A name of conf/population, or a YAML file: tables and columns."
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for records.jsonl, build.json and the replies.")]
Limit = Annotated[int | None, typer.Option(help="Look at the first N conversations only.")]


def build(
    population: PopulationName,
    out: Out,
    writer: Annotated[
        str, typer.Option(help="Who writes: a name of conf/writer, or a YAML file.")
    ] = "local",
    questions: Annotated[int, typer.Option(help="Questions for each conversation.")] = 3,
    prompt: Annotated[
        Path | None, typer.Option(help="A file with a task of your own; $questions is filled in.")
    ] = None,
    limit: Limit = None,
    limit_usd: Annotated[float, typer.Option(help="Ask for confirmation above this cost.")] = 5.0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    replies: Annotated[
        Path | None, typer.Option(help="Store of replies; by default OUT/replies.sqlite.")
    ] = None,
) -> None:
    """Have a chat model write questions with two answers for people who stated their values.

    Replies are stored, and never paid for twice: the same command again goes on.
    """
    from mvp_align.construction.build import build_pairs
    from mvp_align.construction.population import read_population
    from mvp_align.construction.writing import PROMPT, Writer, read_task
    from mvp_align.generation.chat_model import read_chat_model
    from mvp_align.runs.lock import locked

    _check_least({"--questions": (questions, 1), "--limit": (limit, 1)})
    tables = read_population(population)
    task = read_task(read_chat_model("writer", writer, Writer), questions, prompt or PROMPT)
    out.mkdir(parents=True, exist_ok=True)
    install_signal_handlers()
    with locked(out):
        lines = build_pairs(
            tables,
            task,
            out,
            replies or out / "replies.sqlite",
            limit=limit,
            limit_usd=limit_usd,
            yes=yes,
        )
    typer.echo("\n".join(lines))


def from_scores(
    population: PopulationName,
    out: Out,
    margin: Annotated[
        float, typer.Option(help="Least difference of two replies' scores, as the table has them.")
    ] = 20.0,
    limit: Limit = None,
) -> None:
    """Make pairs of replies that people scored: real preferences, nothing is generated."""
    from mvp_align.construction.population import read_population
    from mvp_align.construction.score_pairs import build_score_pairs
    from mvp_align.runs.lock import locked

    _check_least({"--limit": (limit, 1)})
    if not 0 < margin < float("inf"):
        raise UserError(f"--margin {margin}: must be above 0.")
    tables = read_population(population)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        lines = build_score_pairs(tables, out, margin, limit)
    typer.echo("\n".join(lines))


def _check_least(given: dict[str, tuple[int | None, int]]) -> None:
    for option, (value, least) in given.items():
        if value is not None and value < least:
            raise UserError(f"{option} {value}: must be {least} or above.")
