"""Commands of `mvp-align data` that look at pairs one by one: verify and review."""

import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mvp_align.commands.data_checks import Columns, DataFormat, column_names, settings_as_options
from mvp_align.errors import UserError

if TYPE_CHECKING:
    from mvp_align.construction.review_server import ReviewServer

RecordsSource = Annotated[
    str,
    typer.Argument(
        metavar="RECORDS", help="A file, a folder, hf:ID:SPLIT or sample:NAME; it stays as it is."
    ),
]
ReviewFolder = Annotated[
    Path, typer.Option("--out", help="Folder for findings, decisions and reviewed records.")
]


def verify(
    records: RecordsSource,
    out: ReviewFolder,
    format: DataFormat = "auto",
    column: Columns = None,
    judge: Annotated[
        str | None, typer.Option(help="Ask a judge, too: a name of conf/judge, or a YAML file.")
    ] = None,
    limit_usd: Annotated[float, typer.Option(help="Ask for confirmation above this cost.")] = 5.0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Check each pair by its texts and, with --judge, by a model: what is worth a look, and why.

    The judge's replies are stored, and never paid for twice: the same command again goes on.
    """
    from mvp_align.construction.verification import verify_records
    from mvp_align.judging.judges import SEMANTIC, read_judge
    from mvp_align.runs.lock import locked
    from mvp_align.runtime.preemption import install_signal_handlers

    if judge == SEMANTIC:
        raise UserError(f"--judge {SEMANTIC} is no model that can be asked: name another.")
    asked, columns = read_judge(judge) if judge else None, column_names(column)
    out.mkdir(parents=True, exist_ok=True)
    install_signal_handlers()
    with locked(out), settings_as_options():
        lines = verify_records(records, format, out, asked, columns, limit_usd=limit_usd, yes=yes)
    typer.echo("\n".join(lines))


def review(
    records: RecordsSource,
    out: ReviewFolder,
    reviewer: Annotated[
        str | None, typer.Option(help="Who decides; without, only what was decided is written.")
    ] = None,
    format: DataFormat = "auto",
    column: Columns = None,
    sample: Annotated[
        int | None, typer.Option(help="Look at N pairs only: the same ones for everybody.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
) -> None:
    """Accept, reject or edit pairs on a page that this machine serves to itself, until Ctrl+C.

    Then writes the records on which all who decided agree, and how far they agree.
    """
    from mvp_align.construction.decisions import decision_file, open_log
    from mvp_align.construction.pair_records import read_records
    from mvp_align.construction.review_results import write_reviewed
    from mvp_align.construction.review_server import ReviewServer
    from mvp_align.construction.review_session import ReviewSession, queue
    from mvp_align.construction.verification import read_findings

    if reviewer is None and (sample is not None or port):
        raise UserError("--sample and --port are about the page: name the --reviewer who looks.")
    if sample is not None and sample < 1:
        raise UserError(f"--sample {sample}: must be 1 or above.")
    with settings_as_options():
        read, found = read_records(records, format, column_names(column))
    if reviewer is not None:
        path = decision_file(out, reviewer)
        findings = read_findings(out, found)
        with open_log(path) as log:
            session = ReviewSession(queue(found, findings, sample), findings, log)
            with ReviewServer(session, port) as server:
                typer.echo(f"Open {server.url}\nCtrl+C here ends the review; it can be resumed.")
                _serve(server)
    typer.echo("\n".join(write_reviewed(read, found, out)))


def _serve(server: "ReviewServer") -> None:
    """Serve until Ctrl+C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    with suppress(KeyboardInterrupt):
        server.serve_forever()
