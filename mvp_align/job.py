"""Building blocks of recipes: a planned job, and a running one.

A recipe that trains:

    job = Job.prepare(config)                  data, tokenizer and plan, printed
    with job.start() as run:                   the run folder, the tracker
        model = run.new_adapter()
        base = run.evaluate("base", model)
        run.train(dpo_trainer, model)
        tuned = run.evaluate("tuned", model)
        run.finish(base, tuned)                rows, report, DONE
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, Self

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

from mvp_align.config import Config
from mvp_align.data.licences import text_problems
from mvp_align.data.load import DataSets, load_data
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
from mvp_align.modeling.adapter_tokenizer import run_tokenizer
from mvp_align.modeling.adapters import (
    ADAPTER,
    has_no_effect,
    load_adapter,
    save_adapter,
    start_adapter,
)
from mvp_align.modeling.base import load_base
from mvp_align.modeling.converted import conversion_of
from mvp_align.modeling.fingerprint import adapter_fingerprint
from mvp_align.modeling.hardware import Placement, resolve_hardware
from mvp_align.planning.micro_batch import fit_micro_batch
from mvp_align.planning.plan_text import left_out_lines, print_plan
from mvp_align.planning.preflight import answered_data, answered_pairs, make_plan, scored_pairs
from mvp_align.reporting.html import write_report
from mvp_align.reporting.model_card import write_model_card
from mvp_align.reporting.results import PROMPT_SETS
from mvp_align.reporting.samples import sample_pairs
from mvp_align.reporting.terminal import print_results
from mvp_align.reporting.tracked import hand_over
from mvp_align.runs.checkpoints import latest_valid
from mvp_align.runs.pair_files import texts_of, write_groups, write_texts
from mvp_align.runs.run_folder import RunFolder, open_run
from mvp_align.runtime.atomic import full_disk_explained
from mvp_align.runtime.processes import broadcast_from_main
from mvp_align.schema import PairScore
from mvp_align.scoring.cache import LogpCache
from mvp_align.scoring.identity import identity, logp_cache, logps_folder
from mvp_align.tracking.tracker import Tracker, start_tracking
from mvp_align.training.bound_watch import BoundWatch
from mvp_align.training.callbacks import TrackingCallback
from mvp_align.training.curve_file import CurveFile, curve_points
from mvp_align.training.ending import Ending, end_training
from mvp_align.training.plan import Plan
from mvp_align.training.resumable import train_from
from mvp_align.training.run_callbacks import evaluation_callbacks
from mvp_align.training.trainers import TrainerParts


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that is known before the model loads."""

    config: Config
    placement: Placement
    data: DataSets
    tokenizer: PreTrainedTokenizerBase
    plan: Plan

    @classmethod
    def prepare(cls, config: Config) -> Self:
        """Read the data, and make and print the plan. Raises UserError for whatever would fail."""
        placement = resolve_hardware(config.hardware, dry_run=config.train.dry_run)
        conversion_of(config.model)  # a broken record is told now, not at the end
        data = load_data(config)
        tokenizer = run_tokenizer(config.model, config.adapter)
        plan = make_plan(config, data, tokenizer, placement)
        print_plan(config, plan, data, placement)
        return cls(config, placement, data, tokenizer, plan)

    @contextmanager
    def start(self) -> Iterator["JobRun"]:
        """Open the run folder and the tracker. Raises the same errors as `open_run`."""
        folder = open_run(Path(self.config.run.dir), self.config)
        with start_tracking(self.config, folder) as tracker:
            yield JobRun(self, self.plan, folder, tracker)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Scores and answers of one stage, `base` or `tuned`, on the run's sets."""

    model: PreTrainedModel | PeftModel
    scores: dict[str, tuple[list[PairScore], list[PairScore]]]
    """Set name -> (scores with the prompt, scores without it)."""
    answers: dict[str, list[Generated]]
    """Set name -> answers to its pairs. Empty if no metric needs answers."""


@dataclass(slots=True)
class JobRun:
    """A running job, with its folder and tracker open."""

    job: Job
    plan: Plan
    """The job's plan; `new_adapter` decides its micro-batch."""
    folder: RunFolder
    tracker: Tracker
    ending: Ending = field(default_factory=Ending)

    @property
    def config(self) -> Config:
        return self.job.config

    def load_base(self) -> PreTrainedModel:
        return load_base(self.config.model, self.job.placement, self.config.quantization)

    def load_adapter(self, base: PreTrainedModel) -> PeftModel:
        """Load the adapter that the config names, for evaluation."""
        assert self.config.adapter is not None
        any_base = self.config.adapter_base == "any"
        return load_adapter(base, Path(self.config.adapter), any_base=any_base)

    def new_adapter(self) -> PeftModel:
        """Load the base with an adapter to train. Fails now if the largest passes do not fit."""
        model = start_adapter(self.load_base(), self.config)
        kept = broadcast_from_main(self.folder.kept_passes)
        self.plan = fit_micro_batch(self.plan, model, self.config, kept)
        if self.plan.batches:
            self.folder.keep_passes(self.plan.batches.passes)
        return model

    def evaluate(
        self, stage: Literal["base", "tuned"], model: PreTrainedModel | PeftModel
    ) -> Evaluated:
        """Score every evaluation set and generate the answers that `evals.metrics` need.

        Reads what an interrupted process of this run has already done, and log-probs of the base
        model from any run. With `stage="base"`, a PeftModel is evaluated with its adapter disabled.
        """
        if stage == "base" and isinstance(model, PeftModel):
            base = model.get_base_model()
            assert isinstance(base, PreTrainedModel)
            with model.disable_adapter():
                return self.evaluate(stage, base)
        cache = self._logp_cache(stage, model)
        scores = {s.name: self._scores(stage, model, s, cache) for s in self.plan.eval_sets}
        measure_profiles(stage, model, self.plan.profiles, self.folder, self.config, cache)
        return Evaluated(model, scores, self._answers(stage, model))

    def train(self, make_trainer: Callable[[TrainerParts], Trainer], model: PeftModel) -> None:
        """Train `model`, from the latest valid checkpoint if there is one, and save its adapter:
        the last one, or by `train.best_by` that of the best evaluation.

        Raises UserError if the disk is full or training leaves the adapter unchanged, and
        Preempted, after writing a checkpoint, if the run is asked to stop.
        """
        evaluations = evaluation_callbacks(
            self.plan, self.job.data.val, self.config, self.job.tokenizer
        )
        # tracking last: it sends what the others compute
        watching = [BoundWatch(self.config.train.stop_on), CurveFile(self.folder)]
        callbacks = [*evaluations, *watching, TrackingCallback(self.tracker)]
        trainer = make_trainer(self._trainer_parts(model, callbacks))
        start = adapter_fingerprint(model, ADAPTER)
        checkpoint = broadcast_from_main(lambda: latest_valid(self.folder.checkpoints))
        if checkpoint is not None and self.folder.writes:
            print(f"Going on from {checkpoint}")
        with full_disk_explained(self.folder.checkpoints):
            train_from(checkpoint, trainer, model)
        self.folder.write_curves(curve_points(trainer.state.log_history))
        self.ending = end_training(
            self.config.train, trainer, model, self.folder.checkpoints, evaluations
        )
        if adapter_fingerprint(model, ADAPTER) == start or has_no_effect(model):
            raise UserError(
                "Training changed nothing: the adapter is what it was at the start, or each of its"
                " products B A is zero, so there is no lift to report. Was the learning rate 0 in"
                " every step (train.warmup_share in a run of a step or two), or so small that it"
                " was lost in rounding (train.learning_rate)? Otherwise no gradient reaches the"
                " adapter of this model."
            )
        save_adapter(model, self.job.tokenizer, self.folder.adapter, writes=self.folder.writes)

    def finish(self, base: Evaluated, tuned: Evaluated | None = None) -> None:
        """Write metrics.jsonl, the report and, last, DONE, and print the table."""
        rows = [*self._score_rows(base, tuned), *self._answer_rows(base, tuned)]
        model = tuned.model if tuned else base.model
        if tuned and isinstance(model, PeftModel):
            rows += self._drift_rows(model, tuned)
        self._write_records(model)
        if self.folder.writes:
            self._report([*rows, *rows_of_profiles(self.plan.profiles, self.folder)])

    def _logps(self) -> Path:
        """Return the folder for log-probs of base and references, shared by all runs or not."""
        return logps_folder() if self.config.run.logp_cache else self.folder.logps

    def _logp_cache(self, stage: str, model: PreTrainedModel | PeftModel) -> LogpCache:
        if stage == "base":
            return logp_cache(model, self._logps())
        return logp_cache(model, self.folder.logps, ADAPTER)

    def _scores(
        self, stage: str, model: PreTrainedModel | PeftModel, subject: EvalSet, cache: LogpCache
    ) -> tuple[list[PairScore], list[PairScore]]:
        run, free_name = self.folder, f"{subject.name}-prompt_free"
        known, known_free = broadcast_from_main(
            lambda: (run.read_scores(stage, subject.name), run.read_scores(stage, free_name))
        )
        ids = [pair.id for pair in subject.pairs]
        if known and known_free and [s.id for s in known] == ids == [s.id for s in known_free]:
            return known, known_free
        scores, free = score_set(model, subject, stage, self.config.evals.batch_size, cache)
        run.write_scores(stage, subject.name, scores)
        run.write_scores(stage, free_name, free)
        return scores, free

    def _answers(
        self, stage: str, model: PreTrainedModel | PeftModel
    ) -> dict[str, list[Generated]]:
        if not needs_answers(self.config):
            return {}
        data, config = self.job.data, self.config
        return {
            subject.name: answer_set(
                stage,
                model,
                self.job.tokenizer,
                subject.name,
                answered_pairs(subject, data, config),
                answered_data(subject.name, data),
                self.folder,
                config,
            )
            for subject in self.plan.eval_sets
        }

    def _trainer_parts(self, model: PeftModel, callbacks: list[TrainerCallback]) -> TrainerParts:
        return TrainerParts(
            config=self.config,
            plan=self.plan,
            model=model,
            tokenizer=self.job.tokenizer,
            placement=self.job.placement,
            checkpoints=self.folder.checkpoints,
            logps=self._logps(),
            callbacks=callbacks,
        )

    def _score_rows(self, base: Evaluated, tuned: Evaluated | None) -> list[Row]:
        """Return all metrics by set. Groups below `evals.min_users` users are only counted."""
        rows, evals = list[Row](), self.config.evals
        made = partial(set_rows, min_users=evals.min_users, worst_by=evals.worst_by or "")
        for subject in self.plan.eval_sets:
            before = base.scores[subject.name]
            rows += made(subject, "base", *before)
            if tuned:
                rows += made(subject, "tuned", *tuned.scores[subject.name], before[0])
        return rows

    def _answer_rows(self, base: Evaluated, tuned: Evaluated | None) -> list[Row]:
        """Return every metric of both stages' answers, set by set; empty without answers."""
        rows: list[Row] = []
        stages = {"base": base.answers, "tuned": tuned.answers if tuned else {}}
        for subject in self.plan.eval_sets:
            answers = {stage: found[subject.name] for stage, found in stages.items() if found}
            pairs = answered_pairs(subject, self.job.data, self.config)
            prompt = self.config.generation.prompt
            rows += answered_rows(subject.name, pairs, answers, prompt, self.folder)
        return rows

    def _drift_rows(self, model: PeftModel, tuned: Evaluated) -> list[Row]:
        """Return unintended changes: KL to the base on answers, perplexity of a neutral text."""
        rows: list[Row] = []
        tokenizer, size = self.job.tokenizer, self.config.evals.batch_size
        for subject in self.plan.eval_sets if tuned.answers else ():
            pairs = answered_pairs(subject, self.job.data, self.config)
            answers = tuned.answers[subject.name]
            rows += kl_rows(model, tokenizer, subject.name, pairs, answers, self.config)
        with model.disable_adapter():
            cache = self._logp_cache("base", model)
            rows.append(perplexity("base", model, tokenizer, size, cache))
        cache = self._logp_cache("tuned", model)
        return [*rows, perplexity("tuned", model, tokenizer, size, cache)]

    def _write_records(self, model: PreTrainedModel | PeftModel) -> None:
        """Write environment.json, notes.json, groups/ and texts/."""
        run, data = self.folder, self.job.data
        adapter = model.peft_config[ADAPTER].to_dict() if isinstance(model, PeftModel) else None
        loaded = identity(model, ADAPTER if adapter else None)  # by all: each may hold a part
        if not run.writes:
            return
        hashes = {f"data/{name}": read.sha256 for name, read in data.read.items()}
        hashes |= {"base_model": loaded["weights"], **self.plan.prompt_hashes}
        made = {"loaded": loaded, "adapter": recorded_settings(adapter) if adapter else None}
        converted = conversion_of(self.config.model)
        run.write_environment(hashes, made | ({"converted": converted} if converted else {}))
        notes = [f"train: {line}" for line in self.ending.sentences()]
        notes += left_out_lines(self.plan, data)
        prompts = {PROMPT_SETS: data.prompt_sets}
        run.write_json(run.notes, {"notes": notes, **prompts, **self.ending.records()})
        for subject in self.plan.eval_sets:
            groups = [(pair.id, pair.user_id, subject.groups[pair.id]) for pair in subject.pairs]
            write_groups(run.groups(subject.name), groups, subject.blind)
            write_texts(run.texts(subject.name), map(texts_of, scored_pairs(subject, data)))

    def _report(self, rows: list[Row]) -> None:
        run, data, evals = self.folder, self.job.data, self.config.evals
        write_rows(run.metrics, rows)
        if "paa" in evals.metrics and evals.judge != "none":
            judge_answers(run.path, evals.judge)
            rows = read_rows(run.metrics)
        write_report(run.path)
        write_model_card(run.path)
        samples = sample_pairs(self.config.tracking.samples, data, run)
        texts = self.config.tracking.texts and not text_problems(self.config)
        hand_over(self.tracker, run, rows, samples, texts=texts)
        form, worst_by = self.config.data.format, evals.worst_by or ""
        print_results(rows, data_format=form, noted=data.prompt_sets, worst_by=worst_by)
        for line in self.ending.sentences():
            print(f"\nTraining: {line}.")
        run.finish()
        print(f"\nReport: {run.report}   Scores: {run.path / 'scores'}")
