"""Train with ours as its users do: by a job, from a config, in a run folder of its own."""

import gc
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Trainer

from benchmarks.rival_trainers import Attempt, measured_rate, versions
from benchmarks.step_times import Watch
from benchmarks.work import compose
from mvp_align.config import Config
from mvp_align.data.load import DataSets
from mvp_align.job import Job, JobRun
from mvp_align.modeling.adapter_tokenizer import run_tokenizer
from mvp_align.modeling.hardware import Placement, resolve_hardware
from mvp_align.planning.preflight import make_plan
from mvp_align.schema import PreferencePair
from mvp_align.training.trainers import TrainerParts, dpo_trainer

CACHE = "MVP_ALIGN_CACHE"


@dataclass(frozen=True, slots=True)
class OurRun:
    """A run of `train.py` with the overrides `words`, on given pairs."""

    words: list[str]
    pairs: list[PreferencePair]
    cache: Path | None = None
    """A folder with log-probs of earlier runs. Without, references are always scored."""
    traced: bool = False
    rates: int = 0
    """Shapes of matrix products to time, the smallest first."""


def train(run: OurRun) -> Attempt:
    """Train and time once, with what is `auto` decided as in every run."""
    with tempfile.TemporaryDirectory() as folder, cache_at(run.cache or Path(folder) / "cache"):
        settings = ["tracking=none", "evals.sets=[]", "train.save_steps=100000"]
        config = compose([*run.words, *settings, f"run.dir={folder}/run"])
        placement = resolve_hardware(config.hardware)
        gemm = measured_rate(placement.device, placement.dtype, run.rates)
        try:
            return _timed(config, run, placement, gemm)
        finally:
            gc.collect()
            if placement.device.type == "cuda":
                torch.cuda.empty_cache()


@contextmanager
def cache_at(folder: Path) -> Iterator[None]:
    """Keep log-probs of base models and references in `folder` meanwhile."""
    kept = os.environ.get(CACHE)
    os.environ[CACHE] = str(folder)
    try:
        yield
    finally:
        if kept is None:
            del os.environ[CACHE]
        else:
            os.environ[CACHE] = kept


def attempt(run: OurRun) -> Attempt:
    """Train and time once. Whatever a variant raises is the reason of a run without times."""
    try:
        return train(run)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return Attempt(0, False, failed=reason, versions=versions())


def _timed(config: Config, run: OurRun, placement: Placement, gemm: float | None) -> Attempt:
    watch, made = Watch(placement.device, run.traced), list[Trainer]()

    def watched(parts: TrainerParts) -> Trainer:
        watch.start()
        trainer = dpo_trainer(parts)
        watch.built(trainer)
        made.append(trainer)
        return trainer

    began = time.perf_counter()
    with started(config, DataSets(train=run.pairs), placement) as running:
        model = running.new_adapter()
        load_seconds = time.perf_counter() - began
        running.train(watched, model)
    assert running.plan.batches is not None
    passes = running.plan.batches.passes
    timed = watch.result(made[0])
    return Attempt(passes.micro, passes.checkpointing, timed, None, load_seconds, gemm, versions())


def started(config: Config, data: DataSets, placement: Placement) -> AbstractContextManager[JobRun]:
    """Start a job on this data. It is planned without the forecast, which takes seconds.

    Raises ValueError if some are over the config's limits, since rivals would train on them.
    """
    tokenizer = run_tokenizer(config.model, config.adapter)
    plan = make_plan(config, data, tokenizer, placement)
    if plan.train_over_limit:
        raise ValueError(f"{len(plan.train_over_limit)} pairs are over the limits of the config")
    return Job(config, placement, data, tokenizer, plan).start()
