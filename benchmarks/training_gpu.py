"""Time single steps of the trainers that people use, on a LLaMA with random weights on this GPU.

One after the other, each in a process of its own, since some patch the libraries of all others.
Every process measures the matrix-product rate too, so that a slower clock would show. Without a
GPU only the shape `tiny` runs, as a rehearsal.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import typer

from benchmarks import our_trainer
from benchmarks.contenders import (
    OURS,
    TRL,
    TRL_LIGER,
    TRL_PRECOMPUTED,
    UNSLOTH,
    rival_job,
)
from benchmarks.machine import SHAPES as PRODUCTS
from benchmarks.machine import Worker, close, machine_name
from benchmarks.our_trainer import OurRun
from benchmarks.random_llama import SHAPES, is_finished, with_tokenizer
from benchmarks.rival_trainers import Attempt, Job, device_of_runs
from benchmarks.step_rows import Row, printed, ratios, show
from benchmarks.step_times import SHORTEST, WARM_UP
from benchmarks.work import compose, native_placement, workload
from mvp_align.data.load import load_data
from mvp_align.runtime.json_files import write_json
from mvp_align.schema import PreferencePair

PUBLISHED = "TRL, 2 pairs a pass x 4"
"""TRL with the paper's passes, and with checkpointing, its default."""
KEYS = {
    "ours": OURS,
    "trl": TRL,
    "published": PUBLISHED,
    "precomputed": TRL_PRECOMPUTED,
    "liger": TRL_LIGER,
    "unsloth": UNSLOTH,
}
SEARCHED = ("trl", "liger", "unsloth")
"""Rivals whose best passes are looked for; TRL with its reference precomputed takes TRL's."""
FIND_STEPS = WARM_UP + 2
CONFIGURED = "as configured"
REHEARSAL = "rehearsal on a CPU, figures mean nothing"
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for; see `benchmarks.training --help`."""

    shape: str
    overrides: tuple[str, ...]
    batch: int
    steps: int
    passes: tuple[int, ...]
    only: tuple[str, ...]
    variants: tuple[str, ...]
    find: Path | None
    settings: Path | None
    folder: Path | None
    tokenizer: str | None
    unsloth: Path | None
    json_file: Path | None

    @property
    def case(self) -> str:
        """What found settings hold for."""
        return " ".join([self.shape, f"batch={self.batch}", *self.overrides])


@dataclass(frozen=True, slots=True)
class Bench:
    """What all contenders share. `pool` has pairs enough for the largest batch."""

    options: Options
    folder: str
    pool: list[PreferencePair]
    device: str
    """Its name."""
    worker: Worker
    """Makes the model and runs ours, then is closed."""
    scratch: Path

    @property
    def rehearsal(self) -> bool:
        return not torch.cuda.is_available()

    @property
    def rates(self) -> int:
        return 1 if self.rehearsal else len(PRODUCTS)

    def words(self, batch: int, *more: str) -> list[str]:
        """Return the overrides of `train.py`: the published experiment, but for model and data."""
        return [
            "experiment=divervalue_llama2_7b",
            *(["hardware=cpu"] if self.rehearsal else []),
            "model.name=random",
            f"model.id={self.folder}",
            "data=sample",
            "train.epochs=1",
            f"train.batch_size={batch}",
            *self.options.overrides,
            *more,
        ]

    def row(self, name: str, contender: str, words: list[str], found: Attempt) -> Row:
        config = compose(words)
        pairs = self.pairs(config.train.batch_size)
        return Row(
            name, contender, config.train.batch_size, len(pairs), workload(pairs, config), found
        )

    def pairs(self, batch: int) -> list[PreferencePair]:
        return self.pool[: batch * self.options.steps]


def compare(options: Options) -> None:
    """Time all contenders, or with `find` look for the rivals' best passes."""
    check(options)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = options.folder or scratch / "model"
        device = machine_name(device_of_runs())
        batches = {options.batch, *options.passes, published_batch()}
        data = load_data(compose(["experiment=divervalue_llama2_7b", "data=sample"])).train
        pool = random.Random(0).sample(data, max(batches) * options.steps)
        bench = Bench(options, str(folder), pool, device, Worker(), scratch)
        if not is_finished(folder):
            bench.worker.call(with_tokenizer, options.shape, folder, options.tokenizer)
        print(f"{device}, torch {torch.__version__}" + f" ({REHEARSAL})" * bench.rehearsal)
        if options.find is not None:
            close({"": bench.worker})
            find(bench, options.find)
            return
        rows: list[Row] = []
        for row in timed_rows(bench):
            rows.append(row)
            print(printed(row.figures(device)), flush=True)
            save(bench, rows)
        show([row.figures(device) for row in rows], REHEARSAL * bench.rehearsal)


def check(options: Options) -> None:
    """Raise BadParameter for what would fail or mean nothing."""
    if options.shape not in SHAPES:
        raise typer.BadParameter(f"--shape: must be one of {', '.join(SHAPES)}")
    if not torch.cuda.is_available() and options.shape != "tiny":
        raise typer.BadParameter("--gpu: torch sees no GPU here; --shape tiny rehearses on a CPU")
    if options.steps < SHORTEST:
        raise typer.BadParameter(f"--steps: {SHORTEST} at least, as none would be counted else")
    if unknown := set(options.only) - set(KEYS):
        raise typer.BadParameter(f"--only: not {', '.join(unknown)}, but of {', '.join(KEYS)}")
    if any(":" not in variant for variant in options.variants):
        raise typer.BadParameter("--ours: must read NAME: OVERRIDE ...")
    read_settings(options)
    if options.settings is None and options.find is None and set(options.only) != {"ours"}:
        tries = ", ".join(f"{n} {'with' if on else 'without'}" for n, on in defaults(options.batch))
        print(f"No --settings: rivals take the first that fits of pairs a pass and checkpointing:"
              f" {tries}.")  # fmt: skip


def published_batch() -> int:
    return compose(["experiment=divervalue_llama2_7b"]).train.batch_size


def defaults(batch: int) -> list[tuple[int, bool]]:
    """Return passes for a rival whose best ones are not known, in the order of trial."""
    half, quarter = max(1, batch // 2), max(1, batch // 4)
    return list(dict.fromkeys([(batch, False), (half, False), (batch, True), (quarter, False)]))


def timed_rows(bench: Bench) -> Iterator[Row]:
    options = bench.options
    if "ours" in options.only:
        yield from our_rows(bench, bench.worker, OURS, [])
    close({"": bench.worker})
    if "ours" in options.only:
        for variant in options.variants:
            name, _, more = variant.partition(":")
            worker = Worker()
            yield from our_rows(bench, worker, name.strip(), more.split())
            close({"": worker})
    chosen = read_settings(options)
    for key, name in KEYS.items():
        if key == "ours" or key not in options.only:
            continue
        if key == "published":
            words, tries = bench.words(published_batch()), [(2, True)]
        else:
            words = bench.words(options.batch)
            tries = chosen.get("trl" if key == "precomputed" else key, defaults(options.batch))
        found = run_rival(bench, key, words, tries, every=False)[-1]
        yield bench.row(name, name, words, found)


def our_rows(bench: Bench, worker: Worker, name: str, more: Sequence[str]) -> Iterator[Row]:
    """Time ours with what the plan chooses, and with fixed pairs a pass, one pass a step."""
    options = bench.options
    runs = {CONFIGURED: bench.words(published_batch(), *more)}
    runs |= {
        f"{size} a pass": bench.words(size, f"train.micro_batch_size={size}", *more)
        for size in options.passes
    }
    if options.batch not in {published_batch(), *options.passes}:
        runs[f"{options.batch} a step"] = bench.words(options.batch, *more)
    gemm = None
    for what, words in runs.items():
        batch = compose(words).train.batch_size
        run = OurRun(words, bench.pairs(batch), traced=True, rates=0 if gemm else bench.rates)
        found = worker.call(our_trainer.attempt, run)
        gemm = gemm or found.gemm
        yield bench.row(f"{name}, {what}", OURS, words, found.with_rate(gemm))


def run_rival(
    bench: Bench,
    key: str,
    words: list[str],
    tries: Sequence[tuple[int, bool]],
    *,
    every: bool,
    steps: int | None = None,
) -> list[Attempt]:
    """Run a rival's tries in a process of its own: one at least, if only to say why it failed."""
    contender = TRL if key == "published" else KEYS[key]
    config = compose(words)
    pairs = bench.pairs(config.train.batch_size)[: config.train.batch_size * (steps or 10**9)]
    job = rival_job(
        contender,
        config,
        bench.folder,
        workload(pairs, config).texts,
        str(native_placement().dtype).removeprefix("torch."),
        tries,
        every=every,
        traced=steps is None,
        rates=bench.rates if steps is None else 0,
    )
    files = bench.scratch / f"{key}.job.json", bench.scratch / f"{key}.json"
    files[1].unlink(missing_ok=True)
    write_json(files[0], asdict(job))
    command = [sys.executable, "-m", "benchmarks.rival_trainers", *map(str, files)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(bench, job), capture_output=True, text=True
    )
    found = []
    if files[1].is_file():
        found = list(map(Attempt.from_json, json.loads(files[1].read_text("utf-8"))))
    if not found:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        found = [Attempt(*tries[0], failed=f"exit code {done.returncode}: {lines[-1][:300]}")]
    return found


def environment(bench: Bench, job: Job) -> dict[str, str]:
    """Return a rival's environment. Unsloth's libraries may lie in a folder of their own."""
    found = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if job.unsloth:
        found["UNSLOTH_COMPILE_LOCATION"] = str(bench.scratch / "unsloth")
        found["UNSLOTH_DISABLE_STATISTICS"] = "1"
        if bench.options.unsloth is not None:
            found["PYTHONPATH"] = str(bench.options.unsloth.resolve())
    return found


def find(bench: Bench, path: Path) -> None:
    """Write the fastest passes of each rival to `path`, beside what it holds of other cases."""
    known = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    best = known.setdefault(bench.options.case, {})
    words = bench.words(bench.options.batch)
    for key in SEARCHED:
        if key not in bench.options.only:
            continue
        tries = defaults(bench.options.batch)
        found = run_rival(bench, key, words, tries, every=True, steps=FIND_STEPS)
        steps: dict[tuple[int, bool], float] = {}
        for one in found:
            on = "with" if one.checkpointing else "without"
            took = one.failed
            if one.timed is not None:
                steps[one.micro, one.checkpointing] = one.timed.step
                took = f"{bench.options.batch / one.timed.step:.2f} pairs/s"
            print(f"{KEYS[key]}, {one.micro} a pass {on} checkpointing: {took}", flush=True)
        if steps:
            micro, checkpointing = min(steps, key=lambda passes: steps[passes])
            best[key] = {
                "micro": micro,
                "checkpointing": checkpointing,
                "device": bench.device,
            }
            write_json(path, known)


def read_settings(options: Options) -> dict[str, list[tuple[int, bool]]]:
    """Return the passes of each rival that `--find` found for this case.

    Raises BadParameter if the file holds none.
    """
    if options.settings is None:
        return {}
    try:
        known = json.loads(options.settings.read_text("utf-8"))[options.case]
    except (OSError, ValueError, KeyError) as error:
        raise typer.BadParameter(
            f"--settings {options.settings} holds nothing for `{options.case}` ({error!r}): run the"
            " same command with --find first."
        ) from None
    return {key: [(one["micro"], one["checkpointing"])] for key, one in known.items()}


def save(bench: Bench, rows: Sequence[Row]) -> None:
    """Replace the file of figures, after each row, so that a stopped command keeps them."""
    if bench.options.json_file is None:
        return
    figures = [row.figures(bench.device) for row in rows]
    write_json(
        bench.options.json_file,
        {
            "device": bench.device,
            "rehearsal": bench.rehearsal,
            "torch": torch.__version__,
            "case": bench.options.case,
            "rows": figures,
            "ratios": ratios(figures),
        },
    )
