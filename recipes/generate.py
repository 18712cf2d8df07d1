"""`mvp-align generate`: generate answers for a finished run, locally or by a server.

Then measure them and update the run's metrics.jsonl.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mvp_align.config import Config
from mvp_align.data.load import DataSets, load_data
from mvp_align.data.subsets import draw, drawn_line
from mvp_align.errors import UserError
from mvp_align.evaluation.answer_metrics import answer_set, answered_rows, check_answerable, kl_rows
from mvp_align.evaluation.server_answers import AskedSet, confirm_api_cost
from mvp_align.generation.answers import Generated, answers_path, read_answers
from mvp_align.generation.api_model import api_server
from mvp_align.generation.remote import Server
from mvp_align.judging.results import replace_notes
from mvp_align.metrics.rows import Row, replace_rows
from mvp_align.modeling.adapter_tokenizer import run_tokenizer
from mvp_align.modeling.adapters import load_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import Placement, resolve_hardware
from mvp_align.planning.preflight import answered_data, eval_sets, scored_pairs
from mvp_align.reporting.html import write_report
from mvp_align.runs.run_folder import RunFolder
from mvp_align.runtime.processes import broadcast_from_main
from mvp_align.schema import PreferencePair

STAGES = ("base", "tuned")


def generate_for_run(
    run_dir: Path, stage: str, set_name: str, config: Config, server: Server | None = None
) -> str:
    """Generate one stage's answers to one set of a run, and return a summary.

    `config.generation` has the settings. The pairs are those that the run scored. With a `server`,
    its model answers, whatever `stage` is: pass `tuned` if it serves the tuned model. All answer
    metrics are then computed again for both stages on this set. A model behind an API is asked for
    what is missing. Raises UserError for an unfinished run, a stage whose adapter is missing, and
    existing answers that were generated with other settings.
    """
    run = RunFolder(run_dir, resumed=True)
    if not run.done.is_file():
        raise UserError(
            f"{run_dir} holds no finished run: run its command again, until it says that it is"
            " DONE."
        )
    config.evals.sets = [set_name]
    placement = resolve_hardware(config.hardware)
    run = replace(run, writes=placement.is_main)
    data = load_data(config)
    is_api = config.model.api.base_url is not None
    tokenizer = None if is_api else _tokenizer_of(run, config)
    scored = scored_in(set_name, data, tokenizer, config)
    pairs = draw(scored, config.generation.limit, config.seed)
    sha256 = answered_data(set_name, data)
    part = drawn_line(scored, config.generation.limit, config.seed)
    notes = [part] * bool(part)
    rows: list[Row] = []
    if server is None and tokenizer is not None:
        model = _model_of_stage(stage, run, pairs, tokenizer, placement, config)
        answers = answer_set(stage, model, tokenizer, set_name, pairs, sha256, run, config)
        if isinstance(model, PeftModel):
            rows += kl_rows(model, tokenizer, set_name, pairs, answers, config)
    else:
        asked = AskedSet(
            server or api_server(config), stage, set_name, pairs, sha256, run.path, config
        )
        if server is None:
            confirm_api_cost([asked], config)
        answers = broadcast_from_main(asked.answers)
        notes += [line] if (line := asked.unanswered()) else []
    stages = existing_answers(run, set_name, pairs)
    rows += answered_rows(set_name, pairs, stages, config.generation.prompt, run)
    if run.writes:
        replace_rows(run.metrics, rows)
        start = f"{set_name}, answers: "
        replace_notes(run.notes, [start + note for note in notes], start)
        write_report(run.path)
    return summary(answers_path(run.path, stage, set_name), pairs, answers) + f" {part}." * bool(
        part
    )


def _tokenizer_of(run: RunFolder, config: Config) -> PreTrainedTokenizerBase:
    return run_tokenizer(config.model, run.adapter if run.adapter.is_dir() else config.adapter)


def scored_in(
    set_name: str, data: DataSets, tokenizer: PreTrainedTokenizerBase | None, config: Config
) -> list[PreferencePair]:
    """Return the pairs of a set that the run measured: without a tokenizer all of them."""
    if tokenizer is None:
        return data.by_set[set_name]
    (subject,) = eval_sets(config, data, tokenizer)
    return scored_pairs(subject, data)


def _model_of_stage(
    stage: str,
    run: RunFolder,
    pairs: Sequence[PreferencePair],
    tokenizer: PreTrainedTokenizerBase,
    placement: Placement,
    config: Config,
) -> PreTrainedModel | PeftModel:
    check_answerable(pairs, tokenizer, config)
    base = load_base(config.model, placement, config.quantization)
    if stage == "base":
        return base
    any_base = config.adapter_base == "any"
    return load_adapter(base, adapter_of(run, config), any_base=any_base)


def adapter_of(run: RunFolder, config: Config) -> Path:
    """Return the adapter that the run trained or, for an evaluation, evaluated."""
    if run.adapter.is_dir():
        return run.adapter
    if config.adapter is None:
        raise UserError(f"{run.path} has no adapter, so there is no tuned model: use --stage base.")
    return Path(config.adapter)


def existing_answers(
    run: RunFolder, set_name: str, pairs: Sequence[PreferencePair]
) -> dict[str, list[Generated]]:
    """Return the existing answers to `pairs`, by stage."""
    wanted = {pair.id for pair in pairs}
    paths = {stage: answers_path(run.path, stage, set_name) for stage in STAGES}
    found = {stage: read_answers(path) for stage, path in paths.items() if path.is_file()}
    return {
        stage: [answer for answer in answers if answer.id in wanted]
        for stage, answers in found.items()
    }


def summary(path: Path, pairs: Sequence[PreferencePair], answers: Sequence[Generated]) -> str:
    empty, cut = (
        sum(answer.empty for answer in answers),
        sum(not answer.finished for answer in answers),
    )
    text = (
        f"{path}: {len(answers)} answers to {len(pairs)} pairs, {empty} empty, {cut} cut at the"
        " token limit."
    )
    if len(answers) < len(pairs):
        text += (
            f" {len(pairs) - len(answers)} pairs have none ({path.with_suffix('.json').name} says"
            " why): they are "
        )
        text += "left out of every number. The same command asks for them again."
    return text
