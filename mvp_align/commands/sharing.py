"""Commands that carry a finished run elsewhere: export its tables, push it to the Hub."""

from pathlib import Path
from typing import Annotated

import typer

from mvp_align.commands.finished_run import writes_to_run
from mvp_align.errors import UserError


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    form: Annotated[str, typer.Option("--format", help="table, csv, latex, md or json.")] = "csv",
    to: Annotated[
        Path | None, typer.Option(help="Folder for a file a table; without it they are printed.")
    ] = None,
    figures: Annotated[
        bool, typer.Option("--figures", help="Also write the page's figures there, as SVG.")
    ] = False,
) -> None:
    """All tables of a run, the paper's first: for a paper, a spreadsheet or a program."""
    from mvp_align.commands.formatted import print_formatted
    from mvp_align.reporting.export import (
        export_figures,
        export_tables,
        write_figures,
        write_tables,
    )
    from mvp_align.reporting.table_formats import check_format

    check_format(form)
    if figures and to is None:
        raise UserError("--figures: --to FOLDER says where to.")
    tables = export_tables(run)
    if to is None:
        print_formatted(form, tables)
        return
    written = write_tables(tables, form, to)
    written += write_figures(export_figures(run), to) if figures else []
    for path in written:
        typer.echo(path)


@writes_to_run
def push(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    repo: Annotated[str, typer.Argument(metavar="REPO_ID", help="OWNER/NAME on the Hub.")],
    license: Annotated[
        str | None,
        typer.Option(help="The adapter's, by the Hub's name; by default the data's, if known."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody read it.")] = False,
    texts: Annotated[
        bool,
        typer.Option("--texts", help="Send the report with texts, if the data's licence lets you."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be sent, and send nothing.")
    ] = False,
) -> None:
    """Upload a run's adapter, model card, scores and report to the Hugging Face Hub, private by
    default. What is sent is listed before."""
    from mvp_align.reporting.push import prepared_upload, push_upload

    upload = prepared_upload(run, repo, license, texts=texts)
    whose = "public" if public else "private"
    verb = "Would send" if dry_run else "Sending"
    typer.echo(f"{verb} to {repo} ({whose} if it is new):")
    for line in upload.lines():
        typer.echo(line)
    if not dry_run:
        typer.echo(push_upload(upload, public=public))
