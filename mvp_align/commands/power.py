"""`mvp-align power`: what a study can show, before anybody pays for a run."""

from pathlib import Path
from typing import Annotated

import typer

from mvp_align.errors import UserError


def power(
    users: Annotated[
        str, typer.Option(help="Numbers of users, as 50,100,200; with --run by default its own.")
    ] = "",
    lift: Annotated[
        float | None, typer.Option(help="A lift of acc@0, in points: how many users show it?")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="A finished run of base and tuned model, to take the figures below from."
        ),
    ] = None,
    set_name: Annotated[str, typer.Option("--set", help="Which of its sets.")] = "in_domain",
    pairs_per_user: Annotated[float | None, typer.Option(help="Pairs a user, on average.")] = None,
    icc: Annotated[
        float | None,
        typer.Option(help="Correlation of the differences (tuned minus base) of one user, 0 to 1."),
    ] = None,
    discordant: Annotated[
        float | None, typer.Option(help="Pairs that are right under one model alone, in %.")
    ] = None,
    power: Annotated[float, typer.Option(help="Probability to show a lift that is there.")] = 0.8,
    alpha: Annotated[float, typer.Option(help="Level of the two-sided test.")] = 0.05,
    form: Annotated[str, typer.Option("--format", help="table, csv, latex, md or json.")] = "table",
) -> None:
    """The smallest lift of acc@0 that so many people can show, or how many people a lift needs.

    With both --users and --lift: the power of such a study.
    """
    from mvp_align.commands.formatted import print_formatted
    from mvp_align.reporting.power_table import Asked, power_table, study_before
    from mvp_align.reporting.table_formats import check_format

    check_format(form)
    try:
        sizes = [int(word) for word in users.split(",") if word]
    except ValueError:
        raise UserError(
            f"--users {users}: whole numbers with commas between them belong there, as 50,100."
        ) from None
    asked = Asked(
        users=sizes,
        lift=None if lift is None else lift / 100,
        pairs_per_user=pairs_per_user,
        icc=icc,
        discordant=None if discordant is None else discordant / 100,
        power=power,
        alpha=alpha,
    )
    study = study_before(run, set_name, asked)
    source = "Given" if run is None else f"{run}, {set_name}, where nothing else is given"
    print_formatted(form, [power_table(study, asked, source)])
