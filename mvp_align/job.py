"""The steps that recipes share: measure a model on the run's sets, train with a full disk
explained, finalize_run the run."""

from pathlib import Path

from peft import PeftModel
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerState,
)

from mvp_align.config import Config
from mvp_align.data.load import DataSets
from mvp_align.data.sets import SETS
from mvp_align.data.subsets import draw
from mvp_align.errors import UserError
from mvp_align.evaluation.answer_metrics import (
    answer_set,
    answered_rows,
    kl_rows,
    needs_answers,
    perplexity,
)
from mvp_align.evaluation.eval_sets import EvalSet, score_set, set_rows
from mvp_align.evaluation.profile_ablation import measure_profiles, rows_of_profiles
from mvp_align.generation.answers import Generated
from mvp_align.judging.judge import judge_answers
from mvp_align.metrics.rows import Row, read_rows, write_rows
from mvp_align.modeling.adapter_folder import recorded_settings
from mvp_align.modeling.adapters import ADAPTER, changes_nothing, load_adapter, new_adapter
from mvp_align.modeling.fingerprint import adapter_fingerprint
from mvp_align.planning.preflight import answered_data, answered_pairs, left_out_lines
from mvp_align.reporting.html import write_report
from mvp_align.reporting.results import PROMPT_SETS
from mvp_align.reporting.samples import sample_pairs
from mvp_align.reporting.terminal import print_results
from mvp_align.reporting.tracked import summary, tables
from mvp_align.runs.checkpoints import latest_valid
from mvp_align.runs.environment import environment
from mvp_align.runs.pair_files import write_groups
from mvp_align.runs.run_folder import RunFolder
from mvp_align.runtime.atomic import full_disk_explained
from mvp_align.runtime.processes import broadcast_from_main
from mvp_align.schema import PairScore
from mvp_align.scoring.cache import LogpCache
from mvp_align.scoring.identity import identity, logp_cache, logps_folder
from mvp_align.tracking.tracker import Tracker
from mvp_align.training.answer_callback import PAACallback
from mvp_align.training.callbacks import OODCallback, OPACallback, TrackingCallback
from mvp_align.training.plan import Plan

Measured = dict[str, tuple[list[PairScore], list[PairScore]]]
"""Set name -> scores with the prompt, scores without it."""

Answered = dict[str, list[Generated]]
"""Set name -> answers to its pairs; empty where no metric needs any."""


def measure(stage: str, model: nn.Module, plan: Plan, run: RunFolder, config: Config) -> Measured:
    """Score every evaluation set, or read what an interrupted process of this run scored already,
    and of the base model what any run did."""
    cache = (
        logp_cache(model, base_logps(run, config))
        if stage == "base"
        else logp_cache(model, run.logps, ADAPTER)
    )
    measured = {
        subject.name: _measure_set(stage, model, subject, run, config, cache)
        for subject in plan.eval_sets
    }
    measure_profiles(stage, model, plan.profiles, run, config, cache)
    return measured


def base_logps(run: RunFolder, config: Config) -> Path:
    """Where log-probs of the base model and of references are kept: with all other runs', or with
    this run alone."""
    return logps_folder() if config.run.logp_cache else run.logps


def _measure_set(
    stage: str, model: nn.Module, subject: EvalSet, run: RunFolder, config: Config, cache: LogpCache
) -> tuple[list[PairScore], list[PairScore]]:
    free_name = f"{subject.name}-prompt_free"
    known, known_free = broadcast_from_main(
        lambda: (run.read_scores(stage, subject.name), run.read_scores(stage, free_name))
    )
    ids = [pair.id for pair in subject.pairs]
    if known and known_free and [s.id for s in known] == ids == [s.id for s in known_free]:
        return known, known_free
    scores, free = score_set(model, subject, stage, config.evals.batch_size, cache)
    run.write_scores(stage, subject.name, scores)
    run.write_scores(stage, free_name, free)
    return scores, free


def answer(
    stage: str,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    plan: Plan,
    data: DataSets,
    run: RunFolder,
    config: Config,
) -> Answered:
    """Generate the answers that `evals.metrics` need, set by set, or read those of an interrupted
    process of this run."""
    if not needs_answers(config):
        return {}
    return {
        subject.name: answer_set(
            stage,
            model,
            tokenizer,
            subject.name,
            answered_pairs(subject, data, config),
            answered_data(subject.name, data),
            run,
            config,
        )
        for subject in plan.eval_sets
    }


def start_adapter(base: PreTrainedModel, config: Config) -> PeftModel:
    """A fresh adapter from the run's seed, or the one that `adapter` names, made trainable."""
    if config.adapter is None:
        return new_adapter(base, config.lora, config.seed)
    return load_adapter(
        base, Path(config.adapter), trainable=True, any_base=config.adapter_base == "any"
    )


def make_callbacks(
    plan: Plan, data: DataSets, config: Config, tokenizer: PreTrainedTokenizerBase, tracker: Tracker
) -> list[TrainerCallback]:
    """What looks on: the tracker, and, every `evals.every_steps` steps, OPA on validation pairs and
    on each set that is out of domain, and PAA on answers to validation pairs where it is among the
    metrics."""
    if plan.val_set is None:
        return [TrackingCallback(tracker)]
    batch_size = config.evals.batch_size
    callbacks: list[TrainerCallback] = [OPACallback(plan.val_set, tokenizer, batch_size=batch_size)]
    others = [subject for subject in plan.eval_sets if SETS[subject.name].out_of_domain]
    callbacks += [
        OODCallback(tokenizer, source=subject, batch_size=batch_size) for subject in others
    ]
    if "paa" in config.evals.metrics:
        pairs = draw(data.val, config.generation.every_pairs, config.seed)
        callbacks.append(
            PAACallback(pairs, tokenizer, generation=config.generation, seed=config.seed)
        )
    return [*callbacks, TrackingCallback(tracker)]  # last, so that it sees what the others found


def train(trainer: Trainer, model: PeftModel, run: RunFolder) -> None:
    """Train from the newest whole checkpoint, if the run has one. Raises UserError where the disk
    fills up or the adapter ends as it began, and Preempted, a checkpoint written, where the run is
    asked to stop."""
    start = adapter_fingerprint(model, ADAPTER)
    checkpoint = broadcast_from_main(lambda: latest_valid(run.checkpoints))
    if checkpoint is not None and run.writes:
        print(f"Going on from {checkpoint}")
    if checkpoint is not None and _at_the_end(
        checkpoint
    ):  # the Trainer would take a step more where that is amid an epoch
        model.load_adapter(str(checkpoint), ADAPTER, is_trainable=True)
    else:
        with full_disk_explained(run.checkpoints):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if adapter_fingerprint(model, ADAPTER) == start or changes_nothing(model):
        raise UserError(
            "Training changed nothing: the adapter is what it was at the start, or each of its"
            " products B A is zero, so there is no lift to report. Was the learning rate 0 in every"
            " step (train.warmup_share in a run of a step or two), or so small that it was lost in"
            " rounding (train.learning_rate)? Otherwise no gradient reaches the adapter of this"
            " model."
        )


def _at_the_end(checkpoint: Path) -> bool:
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return bool(state.global_step >= state.max_steps)


def rows_of(plan: Plan, base: Measured | None, tuned: Measured | None, min_users: int) -> list[Row]:
    """Every metric of both stages, set by set; groups of fewer than `min_users` people are counted,
    not shown."""
    rows: list[Row] = []
    for subject in plan.eval_sets:
        before = base[subject.name] if base else None
        if before:
            rows += set_rows(subject, "base", *before, min_users=min_users)
        if tuned:
            rows += set_rows(
                subject,
                "tuned",
                *tuned[subject.name],
                before[0] if before else None,
                min_users=min_users,
            )
    return rows


def rows_of_answers(
    plan: Plan, data: DataSets, base: Answered, tuned: Answered, run: RunFolder, config: Config
) -> list[Row]:
    """What is measured on both stages' answers, set by set; nothing where there are none."""
    rows: list[Row] = []
    for subject in plan.eval_sets:
        stages = {
            name: found[subject.name] for name, found in (("base", base), ("tuned", tuned)) if found
        }
        pairs = answered_pairs(subject, data, config)
        rows += answered_rows(subject.name, pairs, stages, config.generation.prompt, run)
    return rows


def drift_rows(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    plan: Plan,
    data: DataSets,
    tuned: Answered,
    run: RunFolder,
    config: Config,
) -> list[Row]:
    """How far training moved the model where nobody asked it to: KL to the base on its answers,
    perplexity of a neutral text before and after."""
    rows: list[Row] = []
    for subject in plan.eval_sets if tuned else ():
        pairs = answered_pairs(subject, data, config)
        rows += kl_rows(model, tokenizer, subject.name, pairs, tuned[subject.name], config)
    batch_size = config.evals.batch_size
    with model.disable_adapter():
        cache = logp_cache(model, base_logps(run, config))
        rows.append(perplexity("base", model, tokenizer, batch_size, cache))
    rows.append(
        perplexity("tuned", model, tokenizer, batch_size, logp_cache(model, run.logps, ADAPTER))
    )
    return rows


def finalize_run(
    rows: list[Row],
    config: Config,
    plan: Plan,
    data: DataSets,
    model: nn.Module,
    run: RunFolder,
    tracker: Tracker,
) -> None:
    """Write environment.json, groups/, metrics.jsonl, notes.json, report.html and, last, DONE;
    print the table."""
    adapter = model.peft_config[ADAPTER].to_dict() if isinstance(model, PeftModel) else None
    loaded = identity(model, ADAPTER if adapter else None)  # by all processes: each may hold a part
    if run.writes:
        hashes = {f"data/{name}": read.sha256 for name, read in data.read.items()}
        hashes |= {"base_model": loaded["weights"], **plan.prompt_hashes}
        made = {"loaded": loaded, "adapter": recorded_settings(adapter) if adapter else None}
        run.write_json(run.environment_json, environment(hashes, run.inputs) | made)
        run.write_json(
            run.notes, {"notes": left_out_lines(plan, data), PROMPT_SETS: data.prompt_sets}
        )
        rows = rows + rows_of_profiles(plan.profiles, run)
        for subject in plan.eval_sets:
            write_groups(
                run.groups(subject.name),
                [(p.id, p.user_id, subject.groups[p.id]) for p in subject.pairs],
            )
        write_rows(run.metrics, rows)
        if "paa" in config.evals.metrics and config.evals.judge != "none":
            judge_answers(run.path, config.evals.judge)
            rows = read_rows(run.metrics)
        write_report(run.path)
        samples = sample_pairs(config.tracking.samples, data, run)
        tracker.results(tables(rows, samples), summary(rows))
        tracker.artifacts(run)
        tracker.finish()
        print_results(rows, data_format=config.data.format, noted=data.prompt_sets)
        run.finish()
        print(f"\nReport: {run.report}   Scores: {run.path / 'scores'}")
