"""`mvp-align generate`: generate answers for a finished run, locally or by a server.

Then measure them and update the run's metrics.jsonl.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from peft import PeftModel

from mvp_align.config import Config, Prompt
from mvp_align.data.load import DataSets, load_data
from mvp_align.data.prompts import render
from mvp_align.data.subsets import drawn_line
from mvp_align.errors import UserError
from mvp_align.evaluation.answer_metrics import answer_set, answered_rows, check_answerable, kl_rows
from mvp_align.generation.answers import (
    UNANSWERED,
    Drafts,
    Generated,
    answers_path,
    drafts_folder,
    draw_record,
    prompt_record,
    read_answers,
    read_drafts,
    read_matching_answers,
    write_answers,
)
from mvp_align.generation.remote import LEFT_OUT, Server, generate_remotely
from mvp_align.judging.results import replace_notes
from mvp_align.metrics.rows import Row, replace_rows
from mvp_align.modeling.adapter_tokenizer import run_tokenizer
from mvp_align.modeling.adapters import load_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import resolve_hardware
from mvp_align.planning.preflight import answered_data, answered_pairs, eval_sets, scored_pairs
from mvp_align.reporting.html import write_report
from mvp_align.runs.run_folder import RunFolder
from mvp_align.runtime.processes import broadcast_from_main
from mvp_align.schema import ChatTurn, PreferencePair, PromptedPair

STAGES = ("base", "tuned")


def generate_for_run(
    run_dir: Path, stage: str, set_name: str, config: Config, server: Server | None = None
) -> str:
    """Generate one stage's answers to one set of a run, and return a summary.

    `config.generation` has the settings. The pairs are those that the run scored. With a `server`,
    its model answers, whatever `stage` is: pass `tuned` if it serves the tuned model. All answer
    metrics are then computed again for both stages on this set. Raises UserError for an unfinished
    run, a stage whose adapter is missing, and existing answers that were generated with other
    settings.
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
    tokenizer = run_tokenizer(config.model, run.adapter if run.adapter.is_dir() else config.adapter)
    (subject,) = eval_sets(config, data, tokenizer)
    pairs = answered_pairs(subject, data, config)
    rows: list[Row] = []
    if server is None:
        check_answerable(pairs, tokenizer, config)
        base = load_base(config.model, placement, config.quantization)
        any_base = config.adapter_base == "any"
        model = (
            load_adapter(base, adapter_of(run, config), any_base=any_base)
            if stage == "tuned"
            else base
        )
        answers = answer_set(
            stage, model, tokenizer, set_name, pairs, answered_data(set_name, data), run, config
        )
        if isinstance(model, PeftModel):
            rows += kl_rows(model, tokenizer, set_name, pairs, answers, config)
    else:
        answers = broadcast_from_main(
            partial(answers_of_server, server, stage, set_name, pairs, data, run, config)
        )
    stages = existing_answers(run, set_name, pairs)
    rows += answered_rows(set_name, pairs, stages, config.generation.prompt, run)
    part = drawn_line(scored_pairs(subject, data), config.generation.limit, config.seed)
    if run.writes:
        replace_rows(run.metrics, rows)
        start = f"{set_name}, answers: "
        replace_notes(run.notes, [start + part] * bool(part), start)
        write_report(run.path)
    return summary(answers_path(run.path, stage, set_name), pairs, answers) + f" {part}." * bool(
        part
    )


def adapter_of(run: RunFolder, config: Config) -> Path:
    """Return the adapter that the run trained or, for an evaluation, evaluated."""
    if run.adapter.is_dir():
        return run.adapter
    if config.adapter is None:
        raise UserError(f"{run.path} has no adapter, so there is no tuned model: use --stage base.")
    return Path(config.adapter)


def answers_of_server(
    server: Server,
    stage: str,
    set_name: str,
    pairs: Sequence[PreferencePair],
    data: DataSets,
    run: RunFolder,
    config: Config,
) -> list[Generated]:
    """Return the server's answers, both existing and new.

    Failures are recorded in the .json file and requested again next time. Raises UserError if no
    answer arrived, or if we gave up on the server.
    """
    path = answers_path(run.path, stage, set_name)
    generation, endpoint = config.generation, server.endpoint
    parameters = server.parameters(generation, config.seed)
    how = {
        "model": endpoint.model,
        "endpoint": server.recorded_as,
        "data": answered_data(set_name, data),
        "prompt": prompt_record(generation.prompt),
        "temperature": parameters.get("temperature"),
        "max_new_tokens": generation.max_new_tokens,
        "seed": parameters.get("seed"),
    }
    known = read_matching_answers(path, how, [pair.id for pair in pairs])
    missing = [pair for pair in pairs if pair.id not in known]
    if missing:
        drafts = Drafts(drafts_folder(path), read_drafts(path))
        prompts = plain_prompts(missing, generation.prompt)
        asked = generate_remotely(
            endpoint,
            prompts,
            parameters,
            drafts=drafts,
            label=f"{stage} {set_name}",
            name=server.recorded_as,
        )
        known |= {answer.id: answer for answer in asked.answers}
        if not known:
            why = common_reasons(asked.failures.values())
            raise UserError(f"{endpoint.base_url} answered nothing: {why}.{parameter_hint(why)}")
        answered = [known[pair.id] for pair in pairs if pair.id in known]
        how |= draw_record(generation, config.seed)
        write_answers(path, answered, how | {UNANSWERED: asked.failures})
        drafts.discard()
        if asked.given_up:
            raise UserError(
                f"{endpoint.base_url} was not asked any further: {asked.given_up}. {len(answered)}"
                " answers are kept: see to the server, then run the same command again."
            )
    return [known[pair.id] for pair in pairs if pair.id in known]


def parameter_hint(why: str) -> str:
    """Return a hint on the options that help if the server rejects a parameter."""
    found = [
        (
            " --max-tokens-parameter NAME renames that limit (OpenAI's reasoning models:"
            " max_completion_tokens)."
            if name == "max_tokens"
            else f" --leave-out {name} does not send it."
        )
        for name in ("max_tokens", *LEFT_OUT)
        if name in why
    ]
    return "".join(found)


def plain_prompts(pairs: Sequence[PreferencePair], prompt: Prompt) -> list[PromptedPair]:
    """Return prompts to send as user turns, of conversations with all turns before.

    The server applies its model's chat template itself.
    """
    return [
        PromptedPair(
            pair.id,
            pair.user_id,
            text := render(pair, prompt),
            pair.chosen,
            pair.rejected,
            turns=(*pair.before, ChatTurn("user", text)) if pair.before else (),
        )
        for pair in pairs
    ]


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


def common_reasons(failures: Iterable[str]) -> str:
    """Return the three most frequent reasons, like `HTTP 400: no such thing (12 pairs), ...`."""
    return ", ".join(
        f"{reason} ({count} pairs)" for reason, count in Counter(failures).most_common(3)
    )
