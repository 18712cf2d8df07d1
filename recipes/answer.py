"""`mvp-align answer`: have a model behind an API answer the evaluation sets, and measure that.

Nobody here has its weights. So nothing is scored, and the run says what was not measured.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mvp_align.config import Config
from mvp_align.data.load import DataSets, load_data
from mvp_align.data.prompts import prompts_sha256
from mvp_align.data.subsets import draw, drawn_line
from mvp_align.errors import UserError
from mvp_align.evaluation.answer_metrics import answered_rows
from mvp_align.evaluation.server_answers import AskedSet, api_cost, confirm_api_cost
from mvp_align.generation.answers import Generated
from mvp_align.generation.api_model import api_model, api_server
from mvp_align.generation.remote import messages_of
from mvp_align.judging.judge import judge_answers
from mvp_align.judging.judges import SEMANTIC, read_judge
from mvp_align.metrics.groups import with_region
from mvp_align.metrics.regions import load_regions
from mvp_align.metrics.rows import read_rows, write_rows
from mvp_align.metrics.variables import tags_of
from mvp_align.modeling.embedder import embedder
from mvp_align.modeling.hardware import resolve_hardware
from mvp_align.planning.plan_text import print_questions
from mvp_align.planning.preflight import answered_data
from mvp_align.reporting.html import write_report
from mvp_align.reporting.results import PROMPT_SETS
from mvp_align.reporting.terminal import print_results
from mvp_align.reporting.tracked import hand_over
from mvp_align.runs.pair_files import texts_of, write_groups, write_texts
from mvp_align.runs.run_folder import RunFolder, open_run
from mvp_align.runtime.json_files import to_json
from mvp_align.runtime.recipes import Recipe
from mvp_align.tracking.tracker import start_tracking

RECIPE = Recipe(trains_on="nothing", weights=False)
STAGE = "base"
"""As which the answers stand in the run's files: nobody here trained the model."""


def main(config: Config) -> None:
    if resolve_hardware(config.hardware).processes > 1:
        raise UserError("One process asks the server: start this without `accelerate launch`.")
    data = load_data(config)
    asked = asked_sets(config, data)
    notes = [*not_measured(config), *drawn_lines(config, data), *data.notes]
    print_questions(asked, notes)
    if config.train.dry_run:
        print(api_cost(asked, config))
        return
    check_ready(config)
    confirm_api_cost(asked, config)
    run = open_run(Path(config.run.dir), config)
    with start_tracking(config, run) as tracker:
        answers = {subject.name: subject.answers() for subject in asked}
        write_records(run, data, asked, notes)
        measure(run, asked, answers, config)
        rows = read_rows(run.metrics)
        hand_over(tracker, run, rows)
        print_results(rows, data_format=config.data.format, noted=data.prompt_sets)
        run.finish()
    print(f"\nReport: {run.report}   Answers: {run.path / 'answers'}")


def asked_sets(config: Config, data: DataSets) -> list[AskedSet]:
    """Return the sets of `evals.sets`, or of `generation.limit` pairs of each, drawn by the seed.

    No pair is too long: that only the model's own tokenizer could tell. Raises UserError for a set
    without pairs.
    """
    server, run = api_server(config), Path(config.run.dir)
    empty = [name for name in config.evals.sets if not data.by_set[name]]
    if empty:
        raise UserError(
            f"evals.sets names {empty[0]}, but it has no pairs: set data.test, or leave"
            f" {empty[0]} out."
        )
    return [
        AskedSet(
            server,
            STAGE,
            name,
            draw(data.by_set[name], config.generation.limit, config.seed),
            answered_data(name, data),
            run,
            config,
        )
        for name in config.evals.sets
    ]


def not_measured(config: Config) -> list[str]:
    return [
        "not measured: OPA with its margins, baselines and ceiling, profile checks, drift. They"
        f" need log-probs or weights, and {config.model.id} at {config.model.api.base_url} only"
        " answers.",
        "no pair is left out as too long, for want of the model's tokenizer: a run of a local model"
        " may have fewer. Tokens of answers are counted by the server.",
    ]


def drawn_lines(config: Config, data: DataSets) -> list[str]:
    limit, seed = config.generation.limit, config.seed
    lines = {name: drawn_line(data.by_set[name], limit, seed) for name in config.evals.sets}
    return [f"{name}, answers: {line}" for name, line in lines.items() if line]


def check_ready(config: Config) -> None:
    """Raise UserError for anything that would stop the run after answers were paid for."""
    embedder()
    api_model(config).endpoint.key()
    if "paa" in config.evals.metrics and config.evals.judge not in ("none", SEMANTIC):
        read_judge(config.evals.judge).endpoint.key()


def write_records(
    run: RunFolder, data: DataSets, asked: Sequence[AskedSet], notes: Sequence[str]
) -> None:
    """Write environment.json, notes.json, groups/ and texts/."""
    hashes = {f"data/{name}": read.sha256 for name, read in data.read.items()}
    for one in asked:
        # as they are sent: of a conversation all turns
        shown = (replace(asks, prompt=to_json(messages_of(asks))) for asks in one.prompts)
        hashes[f"prompts/{one.name}"] = prompts_sha256(shown)
    run.write_environment(hashes, {})
    failed = [f"{one.name}, answers: {line}" for one in asked if (line := one.unanswered())]
    run.write_json(run.notes, {"notes": [*failed, *notes], PROMPT_SETS: data.prompt_sets})
    for one in asked:
        pairs = data.by_set[one.name]
        regions = load_regions(one.config.evals.regions)
        tags = with_region([tags_of(pair) for pair in pairs], regions)
        lines = [(pair.id, pair.user_id, tag) for pair, tag in zip(pairs, tags, strict=True)]
        write_groups(run.groups(one.name), lines)
        write_texts(run.texts(one.name), map(texts_of, pairs))


def measure(
    run: RunFolder, asked: Sequence[AskedSet], answers: dict[str, list[Generated]], config: Config
) -> None:
    """Write metrics.jsonl, have the answers judged as `evals.judge` says, and write the report."""
    prompt = config.generation.prompt
    rows = [
        row
        for one in asked
        for row in answered_rows(one.name, one.pairs, {STAGE: answers[one.name]}, prompt, run)
    ]
    write_rows(run.metrics, rows)
    if "paa" in config.evals.metrics and config.evals.judge != "none":
        judge_answers(run.path, config.evals.judge)
    write_report(run.path)
