"""`mvp-align data fetch`: public data, with its terms, verified."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from mvp_align.errors import UserError

if TYPE_CHECKING:
    from mvp_align.runtime.download import Watch


def fetch(
    name: Annotated[
        str, typer.Argument(metavar="SOURCE", help="divervalue, mvpbench, ufp4, prism or psoups.")
    ],
    mirror: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DIR|URL",
            help="A copy of the source's repository at that commit, or a folder with its files.",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Agree to the terms without being asked.")
    ] = False,
) -> None:
    """Fetch public data at a pinned commit, and verify it.

    Shows licence and citation and asks once. An interrupted download goes on where it stopped.
    """
    from mvp_align.data.fetch import check_mirror, fetch_files, missing_files
    from mvp_align.data.public_sources import public_source

    source = public_source(name)
    if mirror is not None:
        check_mirror(mirror)
    missing = missing_files(source)
    if missing:
        _agree(name, yes=yes)
        with _watched() as watch:
            fetch_files(source, missing, mirror, watch)
    for pinned in source.pinned:
        was = "fetched" if pinned in missing else "was there"
        size = pinned.target.stat().st_size
        typer.echo(f"{pinned.target}: {was}, {size:,} bytes, git blob id {pinned.blob} as pinned")
    typer.echo(f"Use: {source.use}")


def _agree(name: str, *, yes: bool) -> None:
    """Show the terms and ask, unless somebody agreed to them before. Raises UserError for a no."""
    from mvp_align.data.fetch import has_accepted, keep_terms, notice_path
    from mvp_align.data.public_sources import public_source

    source = public_source(name)
    if has_accepted(name, source):
        return
    typer.echo(source.terms)
    if not yes and not sys.stdin.isatty():
        raise UserError(
            "Nothing was fetched: nobody can be asked here whether these terms are agreed to."
            " --yes agrees to them."
        )
    if not yes and not typer.confirm("Do you agree to use the files under these terms?"):
        raise UserError("Nothing was fetched, because the terms were not agreed to.")
    keep_terms(name, source)
    typer.echo(f"Kept in {notice_path(name, source)}.")


@contextmanager
def _watched() -> Iterator["Watch"]:
    """Show the download of a file as a bar on stderr, if that is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from mvp_align.runtime.download import Watch

    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(
        TextColumn("{task.description}"),
        *columns,
        console=console,
        disable=not console.is_terminal,
    ) as bars:
        tasks = {}

        def progress(file: str, there: int, total: int | None) -> None:
            if file not in tasks:
                tasks[file] = bars.add_task(file)
            bars.update(tasks[file], completed=there, total=total)

        def say(line: str) -> None:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

        yield Watch(progress, say)
