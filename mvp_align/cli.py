"""Fine-tune LLaMA-family models to people's stated values, and see for whom it worked."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mvp_align import __version__
from mvp_align.commands import construction, data_checks, fetching, finished_run, reviewing, sharing
from mvp_align.commands.power import power
from mvp_align.errors import UserError
from mvp_align.runtime.json_files import to_json
from mvp_align.runtime.libraries import find_home, set_up_libraries
from mvp_align.runtime.preemption import EXIT_CODE, Preempted

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
cache = typer.Typer(
    no_args_is_help=True, help="Log-probs of base models and references, kept for later runs."
)
app.add_typer(cache, name="cache")
runs = typer.Typer(no_args_is_help=True, help="Several runs at once.")
app.add_typer(runs, name="runs")
data = typer.Typer(
    no_args_is_help=True, help="Preference data: fetch, check, split, build, review."
)
app.add_typer(data, name="data")

RunFolders = Annotated[
    list[Path], typer.Argument(help="Folders of finished runs, the first one as the yardstick.")
]

HYDRA_WORDS = {"allow_extra_args": True, "ignore_unknown_options": True}


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"mvp-align {__version__}")
        raise typer.Exit


@app.callback(help=__doc__)
def options(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print it."),
    ] = False,
) -> None:
    pass


@app.command(context_settings=HYDRA_WORDS, add_help_option=False)
def train(context: typer.Context) -> None:
    """Train by a recipe, measured before and after. `mvp-align train --help` lists all settings."""
    _run_hydra("train", context.args)


@app.command(context_settings=HYDRA_WORDS, add_help_option=False)
def evaluate(context: typer.Context) -> None:
    """The same measurements of any model or adapter: `mvp-align evaluate adapter=PATH`."""
    _run_hydra("evaluate", context.args)


@app.command(context_settings=HYDRA_WORDS, add_help_option=False)
def answer(context: typer.Context) -> None:
    """Answers of a model behind an API, measured: `mvp-align answer model=gpt4o`."""
    _run_hydra("answer", context.args)


def _run_hydra(config_name: str, words: list[str]) -> None:
    from mvp_align.launch import run

    # which Hydra reads, and a run keeps as its command
    sys.argv = [f"{sys.argv[0]} {config_name}", *words]
    run(config_name)


@app.command()
def compare(
    runs: RunFolders,
    set_name: Annotated[str, typer.Option("--set")] = "in_domain",
    metric: Annotated[
        str | None, typer.Option(help="A metric of answers, such as paa/semantic, in place of OPA.")
    ] = None,
) -> None:
    """acc@0 and margin of runs scored on the same pairs, and their paired differences with 95 %
    intervals; metrics of their answers where a run has no scores."""
    from mvp_align.reporting.compare import print_comparison
    from mvp_align.reporting.compare_answers import print_answers_compared, share_answers_alone

    if metric or share_answers_alone(runs, set_name):
        print_answers_compared(runs, set_name, metric)
    else:
        print_comparison(runs, set_name)


app.command()(finished_run.stats)
app.command()(finished_run.report)
app.command()(sharing.export)
app.command()(finished_run.judge)
app.command()(finished_run.merge)
app.command()(finished_run.generate)
app.command()(sharing.push)
app.command()(power)
data.command()(fetching.fetch)
data.command()(data_checks.validate)
data.command()(data_checks.split)
data.command()(data_checks.card)
data.command()(construction.build)
data.command("from-scores")(construction.from_scores)
data.command()(reviewing.verify)
data.command()(reviewing.review)


@app.command()
def doctor(
    offline: Annotated[bool, typer.Option("--offline", help="Ask no network.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="A list of objects instead of the table.")
    ] = False,
) -> None:
    """Is this machine ready? A line a check, with what to do; ends with 1 where a check fails."""
    from mvp_align.doctor.checkup import print_findings, run_checks

    findings = run_checks(offline=offline)
    if as_json:
        typer.echo(to_json([asdict(finding) for finding in findings], indent=2))
    else:
        print_findings(findings)
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Qwen/Qwen-7B or another Hub id, or a folder.")],
    target: Annotated[Path, typer.Argument(help="Folder to write the converted model to.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub id.")] = None,
) -> None:
    """Write a first-generation Qwen in Qwen2's layout, as safetensors and a fast tokenizer, without
    running its code."""
    from mvp_align.modeling.convert import convert_qwen

    shape = convert_qwen(source, target, revision)
    typer.echo(
        f"{target}: {source} in Qwen2's layout, for texts of up to {shape.context} tokens. Use it"
        f" by model.id={target}."
    )


@cache.command("ls")
def list_cache() -> None:
    """What is kept: for each model, precision and reference, how many answers and how many MB."""
    from rich.console import Console
    from rich.table import Table

    from mvp_align.scoring.cache import cached_models
    from mvp_align.scoring.identity import logps_folder

    table = Table(title=str(logps_folder()), title_justify="left")
    for column in (
        "key",
        "model",
        "weights",
        "reference adapter",
        "precision",
        "device",
        "answers",
        "MB",
    ):
        table.add_column(column, justify="right" if column in ("answers", "MB") else "left")
    for part in cached_models(logps_folder()):
        known = part.identity
        precision = " ".join(
            filter(
                lambda word: word != "none", (known.get("dtype", ""), known.get("quantization", ""))
            )
        )
        names = (
            known.get("model", ""),
            known.get("weights", ""),
            known.get("adapter", ""),
            precision,
            known.get("device", ""),
        )
        table.add_row(part.folder.name, *names, str(part.answers), f"{part.size_bytes / 1e6:.1f}")
    Console().print(table)


@cache.command("clear")
def clear_cache(
    key: Annotated[
        str | None,
        typer.Argument(help="A key that `mvp-align cache ls` shows; without it, everything."),
    ] = None,
) -> None:
    """Remove what is kept; later runs compute it again."""
    from mvp_align.scoring.cache import cached_models, clear
    from mvp_align.scoring.identity import logps_folder

    parts = cached_models(logps_folder())
    chosen = [part for part in parts if key in (None, part.folder.name)]
    if key is not None and not chosen:
        raise UserError(
            f"{key}: nothing is kept under that key. `mvp-align cache ls` shows the keys."
        )
    for part in chosen:
        clear(part)
    typer.echo(f"Removed {sum(part.answers for part in chosen)} log-probs of {len(chosen)} models.")


@runs.command("aggregate")
def aggregate_runs(
    folders: Annotated[
        list[str], typer.Argument(help="Run folders, folders of them, or quoted patterns: outputs.")
    ],
    seeds: Annotated[
        str, typer.Option(help="Seeds that there should be, as 12,13,14: absent ones are named.")
    ] = "",
    form: Annotated[str, typer.Option("--format", help="table, csv, latex, md or json.")] = "table",
) -> None:
    """Runs that differ by their seed alone, taken together: means, standard deviations, intervals
    over people and seeds."""
    from mvp_align.reporting.aggregate import aggregate
    from mvp_align.reporting.aggregate_tables import WIDTH, aggregate_result_tables, remarks
    from mvp_align.reporting.table_formats import PASTED, check_format, format_tables

    check_format(form)
    try:
        expected = [int(seed) for seed in seeds.split(",") if seed]
    except ValueError:
        raise UserError(
            f"--seeds {seeds}: whole numbers with commas between them belong there, as 12,13,14."
        ) from None
    groups, broken = aggregate(folders, expected)
    typer.echo(format_tables(form, aggregate_result_tables(groups), WIDTH))
    for line in remarks(groups, broken):
        typer.echo(line, err=form in PASTED)


@runs.command("sync")
def sync_runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUNS]...", help="Run folders, or folders of them; without, outputs/."
        ),
    ] = None,
) -> None:
    """Upload W&B runs that were recorded offline. What is uploaded already is left alone; what
    fails can be tried again."""
    from mvp_align.tracking.sync import offline_runs, sync_run

    failed = 0
    for folder, records in offline_runs(folders or [Path("outputs")]).items():
        result = sync_run(folder, records)
        failed += bool(result.problem)
        typer.echo(result)
    if failed:
        raise typer.Exit(1)


@app.command()
def dashboard(
    project: Annotated[str, typer.Option(help="W&B project.")] = "mvp-align",
    entity: Annotated[
        str | None, typer.Option(help="W&B user or team; by default your own.")
    ] = None,
    spec: Annotated[
        Path | None, typer.Option(help="What to show; by default conf/dashboard.yaml.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be saved, and send nothing.")
    ] = False,
) -> None:
    """Make a W&B workspace that compares runs: training, OPA in and out of domain, groups."""
    from mvp_align.runtime.folders import find_config
    from mvp_align.runtime.yaml_files import read_yaml
    from mvp_align.tracking.dashboard import Dashboard, as_json, save, workspace

    shown = spec or find_config("dashboard.yaml")
    assert shown is not None  # the package has one
    wanted = read_yaml(shown, Dashboard)
    if dry_run:
        typer.echo(as_json(workspace(wanted, project, entity or "")))
    else:
        typer.echo(save(wanted, project, entity))


def main() -> None:
    set_up_libraries()
    try:
        find_home()
        app()
    except UserError as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(2)
    except Preempted as asked:
        print(
            f"\nStopped ({asked}). What was done is kept: the same command again goes on.",
            file=sys.stderr,
        )
        sys.exit(EXIT_CODE)


if __name__ == "__main__":
    main()
