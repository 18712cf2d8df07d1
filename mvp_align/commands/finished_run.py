"""Commands of `mvp-align` on one finished run: stats, report, judge, merge and generate."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated

import typer

from mvp_align.errors import UserError, combined_error
from mvp_align.runtime.preemption import install_signal_handlers


def writes_to_run(command: Callable[..., None]) -> Callable[..., None]:
    """Hold the lock of the folder `run` while the command changes files in it."""

    @wraps(command)
    def alone(*, run: Path, **options: object) -> None:
        from mvp_align.runs.lock import locked

        with locked(run):
            command(run=run, **options)

    return alone


@writes_to_run
def stats(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    against: Annotated[
        Path | None, typer.Option(help="Another run on the same pairs to compare with.")
    ] = None,
    by: Annotated[
        str, typer.Option(help="Group variables, as region,gender; by default all.")
    ] = "",
    cross: Annotated[
        list[str] | None, typer.Option(help="Two variables to cross, as region,gender; repeatable.")
    ] = None,
    regions: Annotated[
        str, typer.Option(help="authors, un, prism, or a file; by default the run's.")
    ] = "",
    min_users: Annotated[
        int | None,
        typer.Option(help="Smaller groups are suppressed or shrunk; by default the run's value."),
    ] = None,
    small: Annotated[
        str, typer.Option(help="What to do with such groups: suppress or shrink.")
    ] = "suppress",
    bootstrap: Annotated[int, typer.Option(help="Number of bootstrap resamples of people.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 12,
    set_name: Annotated[str, typer.Option("--set")] = "in_domain",
    metric: Annotated[
        str | None,
        typer.Option(
            help="The metric to print by group, by default opa/acc@0, or PAA where nothing was"
            " scored; metrics.jsonl gets all."
        ),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="table, csv, latex, md or json.")] = "table",
) -> None:
    """Break down a run's metrics by group, with worst group, gap, tests and uncertainty."""
    from mvp_align.commands.formatted import print_formatted
    from mvp_align.metrics.table import metric_named
    from mvp_align.reporting.leading import leading_metric
    from mvp_align.reporting.stats import SMALL, Choices, write_statistics
    from mvp_align.reporting.stats_tables import statistics_tables
    from mvp_align.reporting.table_formats import check_format

    check_format(form)
    if metric is not None:
        metric_named(metric)  # report a misspelt name before computing anything
    if small not in SMALL:
        raise UserError(f"--small {small}: must be one of {', '.join(SMALL)}.")
    for name, value, least in (("--min-users", min_users, 1), ("--bootstrap", bootstrap, 100)):
        if value is not None and value < least:
            raise UserError(f"{name} {value}: must be {least} or above.")
    names = tuple(name.strip() for name in by.split(",") if name.strip())
    choices = Choices(
        set_name, names, tuple(cross or ()), regions, min_users, small, bootstrap, seed
    )
    found = write_statistics(run, choices, against)
    tables = statistics_tables(found, metric or leading_metric(found.rows, set_name))
    print_formatted(form, tables)


@writes_to_run
def report(run: Annotated[Path, typer.Argument(help="Folder of a finished run.")]) -> None:
    """Rewrite a run's report.html, and the card of its adapter, from its files."""
    from mvp_align.reporting.html import write_report
    from mvp_align.reporting.model_card import write_model_card

    typer.echo(write_report(run))
    if card := write_model_card(run):
        typer.echo(card)


@writes_to_run
def judge(
    run: Annotated[Path, typer.Argument(help="Run folder with answers/ (mvp-align generate).")],
    judges: Annotated[
        list[str] | None,
        typer.Option(
            "--judge",
            help="A name of conf/judge, a YAML file, or semantic; repeat it for a panel.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="dvb_judge (the default), dvb_force_l, mvp_yesno, or your own rules (a YAML file)."
        ),
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Do not tell judges which reference is which.")
    ] = False,
    swap: Annotated[
        bool, typer.Option("--swap", help="Judge twice, with the references in both orders.")
    ] = False,
    limit_usd: Annotated[float, typer.Option(help="Ask for confirmation above this cost.")] = 5.0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    replies: Annotated[
        Path | None, typer.Option(help="Store of replies; by default RUN/replies.sqlite.")
    ] = None,
    relabel: Annotated[
        bool, typer.Option("--relabel", help="Send no requests; label existing verdicts.")
    ] = False,
) -> None:
    """Have a run's generated answers judged, and label them by rules (PAA).

    Replies are stored, and never paid for twice.
    """
    from mvp_align.judging import judge as judging
    from mvp_align.judging.judges import SEMANTIC, read_panel
    from mvp_align.judging.labels import check_votes, read_rules
    from mvp_align.judging.protocol import JudgingProtocol, check_protocol

    names = judges or []
    protocol = JudgingProtocol(
        read_rules(preset or ("semantic" if names == [SEMANTIC] else "dvb_judge")), blind, swap
    )
    check_protocol(protocol, names)
    if relabel:
        judging.relabel(run, names, protocol)
    elif names == [SEMANTIC]:
        check_votes(protocol.rules, 1)
        judging.judge_semantically(run, protocol)
    else:
        panel = read_panel(names)
        check_votes(protocol.rules, len(panel))
        install_signal_handlers()
        judging.judge_run(
            run, panel, protocol, replies or run / "replies.sqlite", limit_usd=limit_usd, yes=yes
        )


def merge(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    target: Annotated[Path, typer.Argument(help="Folder to write the merged model to.")],
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    base: Annotated[
        str | None,
        typer.Option(
            help="The unquantised base (id or folder), if the run's base is stored in 4 bits."
        ),
    ] = None,
) -> None:
    """Merge a run's adapter into its base model, as safetensors that any server loads."""
    from mvp_align.modeling.hardware import DTYPES
    from mvp_align.runs.stored_config import model_of, read_config
    from mvp_align.scoring.merge import merge_adapter

    if precision not in DTYPES:
        raise UserError(f"--precision {precision}: must be one of {', '.join(DTYPES)}.")
    any_base = read_config(run).adapter_base == "any"
    error = merge_adapter(
        model_of(run), run / "adapter", target, precision, base=base, any_base=any_base
    )
    typer.echo(
        f"{target}: merged in fp32, stored in {precision}; log-probs within {error:.1e} nats a"
        " token of the adapter's."
    )


@writes_to_run
def generate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    stage: Annotated[
        str | None,
        typer.Option(help="base or tuned; by default tuned, and base for a model behind an API."),
    ] = None,
    set_name: Annotated[str, typer.Option("--set", help="A name of evals.sets.")] = "in_domain",
    limit: Annotated[
        int | None, typer.Option(help="Only N pairs, drawn evenly over the set's groups.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the most probable token each time.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Token limit of an answer.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Answers generated at once.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="plain or continuous (continuous batching).")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible server, as http://host:8000/v1.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model's name on that server.")] = None,
    key_env: Annotated[
        str | None,
        typer.Option(help="The NAME of the environment variable that holds the server's key."),
    ] = None,
    max_tokens_parameter: Annotated[
        str | None,
        typer.Option(help="The server's name for that limit, such as max_completion_tokens."),
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(help="temperature or seed: do not send it, if the server rejects it."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Requests in flight at once; by default 8.")
    ] = None,
    requests_per_minute: Annotated[
        float | None, typer.Option(help="Requests that may start in a minute; by default 600.")
    ] = None,
    reply_seconds: Annotated[
        float | None, typer.Option(help="Longest wait for a reply; by default 60.")
    ] = None,
    endpoint_name: Annotated[
        str | None,
        typer.Option(
            help="What to record in place of the address, for a server that gets another one each"
            " time it starts."
        ),
    ] = None,
) -> None:
    """Generate a run's answers, by its model or a server, and measure SPMR on them.

    Options default to the run's settings.
    """
    from mvp_align.data.sets import SETS
    from mvp_align.generation.endpoint import Endpoint
    from mvp_align.generation.remote import LEFT_OUT, Server
    from mvp_align.runs.stored_config import model_of, read_config
    from mvp_align.runtime.folders import load_recipe
    from mvp_align.runtime.yaml_files import validate_settings
    from mvp_align.validate import combination_problems

    recipe = load_recipe("generate")
    config = read_config(run)
    is_api = config.model.api.base_url is not None
    stage = stage or ("base" if is_api else "tuned")
    problems = [
        f"--{option} {value}: must be one of {', '.join(known)}."
        for option, value, known in (("stage", stage, recipe.STAGES), ("set", set_name, SETS))
        if value not in known
    ]
    of_server = {
        "key_env": key_env,
        "concurrency": concurrency,
        "requests_per_minute": requests_per_minute,
        "read_seconds": reply_seconds,
        "total_seconds": None if reply_seconds is None else 2 * reply_seconds,
    }
    given = {name: value for name, value in of_server.items() if value is not None}
    others = max_tokens_parameter, leave_out, endpoint_name
    if (endpoint is None) != (model is None) or (endpoint is None and (given or any(others))):
        problems.append(
            "--endpoint and --model belong together, and --key-env, --max-tokens-parameter,"
            " --leave-out, --concurrency, --requests-per-minute, --reply-seconds and"
            " --endpoint-name to them."
        )
    if (endpoint is not None or is_api) and (engine or batch_size):
        problems.append(
            "--engine and --batch-size are about answers generated in this process: leave them out"
            " beside --endpoint, where --concurrency says how many are asked for at once, and for a"
            " model behind an API."
        )
    problems += [
        f"--leave-out {name}: must be one of {', '.join(LEFT_OUT)}."
        for name in leave_out or ()
        if name not in LEFT_OUT
    ]
    if temperature is not None and "temperature" in (leave_out or ()):
        problems.append("--temperature and --leave-out temperature say opposite things.")
    asked = {
        "limit": limit,
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
        "engine": engine,
    }
    for name, value in asked.items():
        if value is not None:
            setattr(config.generation, name, value)
    problems += [
        problem for problem in combination_problems(config) if problem.startswith("generation.")
    ]
    if problems:
        raise combined_error(problems, "This command cannot run:")
    server = None
    if endpoint and model:
        served = {"base_url": endpoint, "model": model, **given}
        server = Server(
            validate_settings(Endpoint, served, f"The endpoint of {model}"),
            max_tokens_parameter or "max_tokens",
            tuple(leave_out or ()),
            endpoint_name,
        )
    elif not is_api:
        config.model = model_of(run)
    install_signal_handlers()
    typer.echo(recipe.generate_for_run(run, stage, set_name, config, server))
