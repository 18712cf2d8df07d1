"""Commands of `mvp-align` on several runs: compare, `runs ls` and `runs aggregate`."""

from pathlib import Path
from typing import Annotated

import typer

from mvp_align.errors import UserError


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of finished runs, the first one as the yardstick.")
    ],
    set_name: Annotated[str, typer.Option("--set")] = "in_domain",
    metric: Annotated[
        str | None, typer.Option(help="A metric of answers, such as paa/semantic, in place of OPA.")
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(help="Where to write the page; by default beside the first run."),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="table, csv, latex, md or json.")] = "table",
) -> None:
    """acc@0 and margin of runs on the pairs that they share, and their paired differences with 95 %
    intervals; groups that moved, pairs that flipped, curves, on one page. Metrics of their answers
    where a run has no scores."""
    from mvp_align.commands.formatted import print_formatted
    from mvp_align.reporting.compare import (
        comparison_tables,
        program_tables,
        terminal_tables,
        verdicts,
    )
    from mvp_align.reporting.compare_answers import print_answers_compared, share_answers_alone
    from mvp_align.reporting.compare_page import default_page, write_comparison
    from mvp_align.reporting.comparison import compare_set
    from mvp_align.reporting.table_formats import PASTED, check_format

    check_format(form)
    if metric or share_answers_alone(runs, set_name):
        if page or form != "table":
            raise UserError(
                "--page and --format show scores: leave them out to compare metrics of answers."
            )
        print_answers_compared(runs, set_name, metric)
        return
    found = compare_set(runs, set_name)
    tables = {"table": terminal_tables, "csv": program_tables, "json": program_tables}
    print_formatted(form, tables.get(form, comparison_tables)(runs, found))
    if form == "table":
        typer.echo()
    for line in verdicts(found):
        typer.echo(line, err=form in PASTED)
    if page or (form == "table" and len(runs) > 1):
        written = write_comparison(runs, found, page or default_page(runs))
        typer.echo(f"Page: {written}", err=form != "table")


def list_runs(
    folder: Annotated[Path, typer.Argument(help="Folder of run folders.")] = Path("outputs"),
    state: Annotated[
        list[str] | None,
        typer.Option(help="Only these: done, unfinished, broken or locked; repeatable."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Only these, as recipe=lora_dpo; of recipe, model, data, seed."),
    ] = None,
    sort: Annotated[str, typer.Option(help="By date, name, state, tuned or lift.")] = "date",
    form: Annotated[str, typer.Option("--format", help="table, csv, latex, md or json.")] = "table",
) -> None:
    """Runs in a folder: their state, acc@0 before and after, recipe, model, data, seed and date."""
    from mvp_align.commands.formatted import print_formatted
    from mvp_align.reporting.listing import chosen_runs, listed_runs, runs_table
    from mvp_align.reporting.table_formats import check_format

    check_format(form)
    found = listed_runs(folder)
    chosen = chosen_runs(found, state or (), where or (), sort)
    print_formatted(form, [runs_table(folder, chosen, len(found))])


def aggregate_runs(
    folders: Annotated[
        list[str], typer.Argument(help="Run folders, folders of them, or quoted patterns: outputs.")
    ],
    seeds: Annotated[
        str, typer.Option(help="Seeds that there should be, as 12,13,14: absent ones are named.")
    ] = "",
    form: Annotated[str, typer.Option("--format", help="table, csv, latex, md or json.")] = "table",
    page: Annotated[Path | None, typer.Option(help="Also write a page to this file.")] = None,
) -> None:
    """Runs that differ by their seed alone, taken together: means, standard deviations, intervals
    over people and seeds."""
    from mvp_align.commands.formatted import print_formatted
    from mvp_align.reporting.aggregate import aggregate
    from mvp_align.reporting.aggregate_tables import aggregate_result_tables, remarks
    from mvp_align.reporting.table_formats import PASTED, check_format

    check_format(form)
    try:
        expected = [int(seed) for seed in seeds.split(",") if seed]
    except ValueError:
        raise UserError(
            f"--seeds {seeds}: whole numbers with commas between them belong there, as 12,13,14."
        ) from None
    groups, broken = aggregate(folders, expected)
    print_formatted(form, aggregate_result_tables(groups))
    for line in remarks(groups, broken):
        typer.echo(line, err=form in PASTED)
    if page:
        from mvp_align.reporting.aggregate_page import write_aggregate

        typer.echo(f"Page: {write_aggregate(groups, broken, page)}", err=form != "table")
