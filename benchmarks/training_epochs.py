"""Compare whole runs of our DPO training with TRL's DPOTrainer: same pairs, seed and batch.

All alternate on one machine, each in a process of its own.
"""

import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import our_trainer, rival_trainers
from benchmarks.contenders import EPOCHS, OURS, TRL, TRL_PRECOMPUTED, rival_job
from benchmarks.machine import Worker, close, gemm_rate, machine_name
from benchmarks.our_trainer import OurRun
from benchmarks.step_times import Timed
from benchmarks.work import (
    Task,
    Workload,
    compose,
    largest_relative_gap,
    native_placement,
    training_pairs,
    workload,
)
from mvp_align.modeling.source import locate_weights
from mvp_align.schema import PreferencePair

CONTENDERS = (OURS, TRL, TRL_PRECOMPUTED)
WARM = "mvp-align, cache warm"
MICRO_BATCHES = {OURS: (2, 4, 8), TRL: (1, 2, 4, 8)}
QUICK_MICRO_BATCHES = {OURS: (4, 8), TRL: (1, 2)}
TRAINING = ("train.batch_size=8", f"train.epochs={EPOCHS}")
LONGER_BATCH = 4
"""Pairs a step where losses are compared over many steps."""


@dataclass(frozen=True, slots=True)
class Race:
    """What all contenders get."""

    task: Task
    folder: str
    """The model's."""
    pairs: list[PreferencePair]
    load: Workload

    def timed(
        self, worker: Worker, contender: str, micro: int, *more: str, cache: Path | None = None
    ) -> Timed:
        """Time one run from a fresh adapter. Raises RuntimeError if a rival fails.

        Ours finds log-probs of its reference in `cache`, or leaves them there.
        """
        words = self.task.words(
            *TRAINING, f"model.id={self.folder}", f"train.micro_batch_size={micro}", *more
        )
        if contender == OURS:
            found = worker.call(our_trainer.train, OurRun(words, self.pairs, cache))
        else:
            dtype = str(native_placement().dtype).removeprefix("torch.")
            job = rival_job(contender, compose(words), self.folder, self.load.texts, dtype, [])
            found = worker.call(rival_trainers.attempt, job, micro, False)
        if found.timed is None:
            raise RuntimeError(f"{contender}: {found.failed}")
        return found.timed


def race_of(task: Task) -> Race:
    pairs, config = training_pairs(task), task.config(*TRAINING)
    folder = str(Path(locate_weights(config.model)))
    return Race(task, folder, pairs, workload(pairs, config))


def best_micro_batch(race: Race, contender: str, sizes: Sequence[int]) -> int:
    """Return the size whose second optimizer step is the fastest, in a process of its own."""
    if len(sizes) == 1:
        return sizes[0]
    workers = prepared(race, contender)
    steps = {
        size: race.timed(workers[contender], contender, size, "train.max_steps=2").step_seconds
        for size in sizes
    }
    close(workers)
    return min(sizes, key=lambda size: steps[size][-1])


def prepared(race: Race, *contenders: str) -> dict[str, Worker]:
    """Start a process for each contender, and warm it up by a step."""
    workers = {contender: Worker() for contender in contenders}
    importing = [worker.pool.submit(rival_trainers.versions) for worker in workers.values()]
    for one in importing:
        one.result()
    small = replace(race, load=replace(race.load, texts=race.load.texts[:1]), pairs=race.pairs[:1])
    for contender, worker in workers.items():
        small.timed(worker, contender, 1, "train.max_steps=1", "train.batch_size=1")
    return workers


def run_race(task: Task, repeats: int, compare_steps: int, json_file: Path | None) -> None:
    """Find the best sizes, take turns, and compare losses over `compare_steps` (0: of the race)."""
    race = race_of(task)
    tried = MICRO_BATCHES if compare_steps else QUICK_MICRO_BATCHES
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        sizes = {
            contender: best_micro_batch(race, contender, tried[contender])
            for contender in (OURS, TRL)
        }
        sizes[TRL_PRECOMPUTED] = sizes[TRL]
        # fresh processes, whose peak memory is that of the best size
        workers = prepared(race, *CONTENDERS)
        device, dtype = native_placement().device, native_placement().dtype
        gemm = workers[OURS].call(gemm_rate, device, dtype)
        machine = workers[OURS].call(machine_name, device)
        timed: dict[str, list[Timed]] = {name: [] for name in (*CONTENDERS, WARM)}
        for turn in range(repeats):
            cache = root / str(turn)
            for contender, worker in workers.items():
                timed[contender].append(
                    race.timed(worker, contender, sizes[contender], cache=cache)
                )
            timed[WARM].append(race.timed(workers[OURS], OURS, sizes[OURS], cache=cache))
        compared = timed[OURS][0], timed[TRL][0]
        if compare_steps:
            longer = race_of(replace(task, pairs=compare_steps * LONGER_BATCH))
            words = (f"train.batch_size={LONGER_BATCH}", f"train.max_steps={compare_steps}")
            theirs, found = (
                longer.timed(workers[one], one, min(sizes[one], LONGER_BATCH), *words)
                for one in (TRL, OURS)
            )
            compared = found, theirs
        close(workers)
    figures = summary(timed, race.load, gemm, compared)
    print(f"{machine}: matrix products at {gemm / 1e9:.0f} GFLOP/s")
    show(timed, sizes, figures, len(race.pairs), len(compared[0].losses))
    if json_file is not None:
        json_file.write_text(
            json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )


def summary(
    timed: dict[str, list[Timed]], load: Workload, gemm: float, compared: tuple[Timed, Timed]
) -> dict[str, float]:
    seconds = {name: statistics.median(run.seconds for run in runs) for name, runs in timed.items()}
    ours, theirs = compared
    return {
        "ratio_vs_trl_cold": seconds[TRL] / seconds[OURS],
        "ratio_vs_trl_warm": seconds[TRL] / seconds[WARM],
        "ratio_vs_trl_precomputed": seconds[TRL_PRECOMPUTED] / seconds[OURS],
        "gemm_share": ((EPOCHS * load.training_flop + load.reference_flop) / seconds[OURS] / gemm),
        "max_abs_error": max(abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True)),
        "loss_max_rel_error": largest_relative_gap(ours.losses, theirs.losses),
        "grad_norm_max_rel_error": largest_relative_gap(ours.grad_norms, theirs.grad_norms),
        "peak_memory_ratio": timed[OURS][0].peak_bytes / timed[TRL][0].peak_bytes,
    }


def show(
    timed: dict[str, list[Timed]],
    sizes: dict[str, int],
    figures: dict[str, float],
    pairs: int,
    steps: int,
) -> None:
    table = Table(title=f"{EPOCHS} epochs over {pairs} pairs, 8 pairs a step", title_justify="left")
    for column in ("", "pairs a pass", "seconds", "of them before step 1", "pairs/s", "peak GiB"):
        table.add_column(column, justify="left" if not column else "right")
    for name, runs in timed.items():
        seconds = statistics.median(run.seconds for run in runs)
        before = statistics.median(run.before_seconds for run in runs)
        numbers = (f"{seconds:.1f}", f"{before:.1f}", f"{EPOCHS * pairs / seconds:.2f}")
        table.add_row(
            name, str(sizes.get(name, sizes[OURS])), *numbers, f"{runs[0].peak_bytes / 2**30:.2f}"
        )
    console = Console()
    console.print(table)
    console.print(
        f"{figures['ratio_vs_trl_cold']:.2f} x TRL with the reference counted,"
        f" {figures['ratio_vs_trl_warm']:.2f} x with the cache warm; {figures['gemm_share']:.0%} of"
        f" the matrix-product rate in useful FLOP; over {steps} steps, losses within"
        f" {figures['loss_max_rel_error']:.1e} and gradient norms within"
        f" {figures['grad_norm_max_rel_error']:.1e}, relative",
        highlight=False,
    )
