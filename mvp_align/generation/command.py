"""`mvp-align generate`: answers for a finished run, by its own model or by a server, and their rows in its metrics.jsonl."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from peft import PeftModel

from mvp_align.answerset import answer_set, answered_rows, check_answerable, kl_rows
from mvp_align.config import Config, Prompt
from mvp_align.data.load import DataSets, load_data
from mvp_align.data.prompts import render
from mvp_align.errors import UserError
from mvp_align.evaluation.rows import Row, replace_rows
from mvp_align.generation.answers import (
    UNANSWERED,
    Drafts,
    Generated,
    answers_made_so,
    answers_path,
    drafts_folder,
    open_drafts,
    read_answers,
    write_answers,
)
from mvp_align.generation.remote import generate_remotely
from mvp_align.judging.client import Endpoint
from mvp_align.modeling.adapter_tokenizer import run_tokenizer
from mvp_align.modeling.adapters import load_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import place
from mvp_align.processes import main_decides
from mvp_align.reporting.html import write_report
from mvp_align.reporting.run_folder import RunFolder
from mvp_align.schema import PreferencePair, PromptedPair
from mvp_align.training.preflight import answered_data, answered_pairs, eval_sets

STAGES = ("base", "tuned")


def generate_for_run(run_dir: Path, stage: str, set_name: str, config: Config, endpoint: Endpoint | None = None) -> str:
    """Answers of one stage to one set of the run in `run_dir`, by `config.generation`; what was done, in a sentence or two.

    Pairs are those that the run scored. With an `endpoint` its model answers, whatever `stage` is: say `tuned` where the
    tuned model is served. Every metric of answers is then measured anew on both stages' answers to the set.
    Raises UserError for an unfinished run, a stage that it has no adapter for, and answers there that were made otherwise.
    """
    run = RunFolder(run_dir, resumed=True)
    if not run.done.is_file():
        raise UserError(f"{run_dir} holds no finished run: run its command again, until it says that it is DONE.")
    config.evals.sets = [set_name]
    placement = place(config.hardware)
    run = replace(run, writes=placement.is_main)
    data = load_data(config)
    tokenizer = run_tokenizer(config.model, run.adapter if run.adapter.is_dir() else config.adapter)
    (subject,) = eval_sets(config, data, tokenizer)
    pairs = answered_pairs(subject, data, config)
    rows: list[Row] = []
    if endpoint is None:
        check_answerable(pairs, tokenizer, config)
        base = load_base(config.model, placement, config.quantization)
        any_base = config.adapter_base == "any"
        model = load_adapter(base, adapter_of(run, config), any_base=any_base) if stage == "tuned" else base
        answers = answer_set(stage, model, tokenizer, set_name, pairs, answered_data(set_name, data), run, config)
        if isinstance(model, PeftModel):
            rows += kl_rows(model, tokenizer, set_name, pairs, answers, config)
    else:
        answers = main_decides(partial(answers_of_server, endpoint, stage, set_name, pairs, data, run, config))
    stages = answers_there(run, set_name, pairs)
    rows += answered_rows(set_name, pairs, stages, config.generation.prompt, run)
    if run.writes:
        replace_rows(run.metrics, rows)
        write_report(run.path)
    return summary(answers_path(run.path, stage, set_name), pairs, answers)


def adapter_of(run: RunFolder, config: Config) -> Path:
    """What a run trained, or, of an evaluation, what it evaluated."""
    if run.adapter.is_dir():
        return run.adapter
    if config.adapter is None:
        raise UserError(f"{run.path} has no adapter, so there is no tuned model: use --stage base.")
    return Path(config.adapter)


def answers_of_server(
    endpoint: Endpoint,
    stage: str,
    set_name: str,
    pairs: Sequence[PreferencePair],
    data: DataSets,
    run: RunFolder,
    config: Config,
) -> list[Generated]:
    """Those that are there and those that come now. What failed stands in the .json file and is asked for next time."""
    path = answers_path(run.path, stage, set_name)
    generation = config.generation
    how = {
        "model": endpoint.model,
        "endpoint": endpoint.base_url,
        "data": answered_data(set_name, data),
        "prompt": asdict(generation.prompt),
        "temperature": generation.temperature,
        "max_new_tokens": generation.max_new_tokens,
        "seed": config.seed,
    }
    known = answers_made_so(path, how)
    missing = [pair for pair in pairs if pair.id not in known]
    if missing:
        drafts = Drafts(drafts_folder(path), open_drafts(path))
        prompts = plain_prompts(missing, generation.prompt)
        asked = generate_remotely(
            endpoint, prompts, generation, config.seed, drafts=drafts, label=f"{stage} {set_name}"
        )
        known |= {answer.id: answer for answer in asked.answers}
        if not known:
            raise UserError(f"{endpoint.base_url} answered nothing: {reasons(asked.failures.values())}.")
        answered = [known[pair.id] for pair in pairs if pair.id in known]
        write_answers(path, answered, how | {UNANSWERED: asked.failures})
        drafts.discard()
    return [known[pair.id] for pair in pairs if pair.id in known]


def plain_prompts(pairs: Sequence[PreferencePair], prompt: Prompt) -> list[PromptedPair]:
    """What is sent as a user's turn: the server applies its model's chat template itself."""
    return [PromptedPair(pair.id, pair.user_id, render(pair, prompt), pair.chosen, pair.rejected) for pair in pairs]


def answers_there(run: RunFolder, set_name: str, pairs: Sequence[PreferencePair]) -> dict[str, list[Generated]]:
    """By stage, those to `pairs`."""
    wanted = {pair.id for pair in pairs}
    paths = {stage: answers_path(run.path, stage, set_name) for stage in STAGES}
    found = {stage: read_answers(path) for stage, path in paths.items() if path.is_file()}
    return {stage: [answer for answer in answers if answer.id in wanted] for stage, answers in found.items()}


def summary(path: Path, pairs: Sequence[PreferencePair], answers: Sequence[Generated]) -> str:
    empty, cut = sum(answer.empty for answer in answers), sum(not answer.finished for answer in answers)
    text = f"{path}: {len(answers)} answers to {len(pairs)} pairs, {empty} empty, {cut} cut at the token limit."
    if len(answers) < len(pairs):
        text += f" {len(pairs) - len(answers)} pairs have none ({path.with_suffix('.json').name} says why): they are "
        text += "left out of every number. The same command asks for them again."
    return text


def reasons(failures: Iterable[str]) -> str:
    """`HTTP 400 (12 pairs), timed out (3 pairs)`"""
    return ", ".join(f"{reason} ({count} pairs)" for reason, count in Counter(failures).most_common())
