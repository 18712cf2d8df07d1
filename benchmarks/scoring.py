"""Compare the speed of our scoring with one answer at a time and with lm-evaluation-harness.

All three alternate on one machine:

python -m benchmarks.scoring [--data FILE] [--quick] [--json FILE] [OVERRIDE ...]
"""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import (
    Worker,
    close,
    gemm_rate,
    machine_name,
    now,
    peak_memory_bytes,
)
from benchmarks.rivals import Sums, one_at_a_time, with_lm_eval
from benchmarks.work import (
    Task,
    evaluation_pairs,
    forward_flop,
    native_placement,
    rows_of,
    tokens_two_rows,
)
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import resolve_hardware
from mvp_align.modeling.source import load_tokenizer
from mvp_align.scoring.logps import score_pairs

OURS, SEQUENTIAL, LM_EVAL = "mvp-align", "one answer at a time", "lm-eval HFLM"
SIZES = {OURS: (4, 8, 16), SEQUENTIAL: (1,), LM_EVAL: (1, 2, 4, 8, 16)}
"""Batch sizes to try; the fastest is used."""
TRIED_PAIRS = 16


@dataclass(frozen=True, slots=True)
class Timed:
    seconds: float
    sums: Sums
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts that only the process with the model knows."""

    machine: str
    gemm: float
    flop: float
    tokens: int
    answer_tokens: list[tuple[int, int]]


loaded: dict[str, Any] = {}
"""State of a worker process: the model, its tokenizer and the pairs."""


def prepare(task: Task, contender: str) -> None:
    config = task.config()
    placement = resolve_hardware(config.hardware) if contender == OURS else native_placement()
    texts, pairs = evaluation_pairs(task)
    model = load_base(config.model, placement).eval()
    tokenizer = load_tokenizer(config.model)
    loaded.update(
        contender=contender,
        model=model,
        tokenizer=tokenizer,
        texts=texts,
        pairs=pairs,
        device=placement.device,
    )


def facts() -> Facts:
    model, pairs, device = loaded["model"], loaded["pairs"], loaded["device"]
    return Facts(
        machine=machine_name(device),
        gemm=gemm_rate(device, model.dtype),
        flop=forward_flop(model, rows_of(pairs)),
        tokens=tokens_two_rows(pairs),
        answer_tokens=[(pair.chosen.tokens, pair.rejected.tokens) for pair in pairs],
    )


def score(batch_size: int, first: int | None = None) -> Timed:
    """Score the first `first` pairs, or all."""
    model, tokenizer = loaded["model"], loaded["tokenizer"]
    texts, pairs = loaded["texts"][:first], loaded["pairs"][:first]
    began = now(loaded["device"])
    if loaded["contender"] == OURS:
        sums = [
            (s.chosen_logp, s.rejected_logp)
            for s in score_pairs(model, pairs, batch_size=batch_size)
        ]
    elif loaded["contender"] == SEQUENTIAL:
        sums = one_at_a_time(model, tokenizer, texts)
    else:
        sums = with_lm_eval(model, tokenizer, texts, batch_size)
    return Timed(now(loaded["device"]) - began, sums, peak_memory_bytes(loaded["device"]))


def best_size(worker: Worker, contender: str) -> int:
    """Return the fastest batch size over TRIED_PAIRS pairs, after a warm-up."""
    sizes = SIZES[contender]
    worker.call(score, sizes[0], 2)
    return min(sizes, key=lambda size: worker.call(score, size, TRIED_PAIRS).seconds)


def margins(sums: Sums, tokens: list[tuple[int, int]]) -> list[float]:
    return [c / n - r / m for (c, r), (n, m) in zip(sums, tokens, strict=True)]


def main(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Hydra overrides, such as quantization=4bit.")
    ] = None,
    data: Annotated[str, typer.Option(help="`sample`, or a file in UF-P-4's schema.")] = "sample",
    model: Annotated[str, typer.Option(help="A name under conf/model.")] = "smollm2_135m",
    pairs: Annotated[int, typer.Option(help="Number of pairs to score.")] = 96,
    repeats: Annotated[int, typer.Option(help="Repetitions; medians are shown.")] = 3,
    quick: Annotated[bool, typer.Option(help="Fewer pairs, one repetition: minutes.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File to write the figures to.")
    ] = None,
) -> None:
    """Time scoring: ours, one answer at a time, and lm-evaluation-harness, with ratios."""
    task = Task(model, data, min(pairs, 40) if quick else pairs, tuple(overrides or ()))
    turns = 1 if quick else repeats
    several = [name for name, tried in SIZES.items() if len(tried) > 1]
    workers = prepared(task, *dict.fromkeys([OURS, *several]))
    known = workers[OURS].call(facts)
    sizes = {name: tried[0] for name, tried in SIZES.items()}
    sizes |= {name: best_size(workers[name], name) for name in several}
    close(workers)
    workers = prepared(task, *SIZES)  # fresh processes, whose peak memory is that of the best size
    for contender, worker in workers.items():
        worker.call(score, sizes[contender], 2)  # warm-up
    timed: dict[str, list[Timed]] = {contender: [] for contender in workers}
    for _ in range(turns):
        for contender, worker in workers.items():
            timed[contender].append(worker.call(score, sizes[contender]))
    close(workers)
    figures = summary(timed, known)
    show(timed, sizes, known, figures)
    if json_file is not None:
        json_file.write_text(
            json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )


def prepared(task: Task, *contenders: str) -> dict[str, Worker]:
    workers = {contender: Worker() for contender in contenders}
    loading = [
        worker.pool.submit(prepare, task, contender) for contender, worker in workers.items()
    ]
    for one in loading:
        one.result()
    return workers


def summary(timed: dict[str, list[Timed]], known: Facts) -> dict[str, float]:
    seconds = {
        contender: statistics.median(run.seconds for run in runs)
        for contender, runs in timed.items()
    }
    peak = {contender: runs[-1].peak_bytes for contender, runs in timed.items()}
    found = {
        contender: margins(runs[0].sums, known.answer_tokens) for contender, runs in timed.items()
    }

    def gap(rival: str) -> float:
        return max(abs(a - b) for a, b in zip(found[OURS], found[rival], strict=True))

    return {
        "ratio_vs_sequential": seconds[SEQUENTIAL] / seconds[OURS],
        "ratio_vs_lm_eval": seconds[LM_EVAL] / seconds[OURS],
        "gemm_share": known.flop / seconds[OURS] / known.gemm,
        "max_abs_error": gap(SEQUENTIAL),
        "lm_eval_max_abs_error": gap(LM_EVAL),
        "peak_memory_ratio": peak[OURS] / min(peak[SEQUENTIAL], peak[LM_EVAL]),
    }


def show(
    timed: dict[str, list[Timed]], sizes: dict[str, int], known: Facts, figures: dict[str, float]
) -> None:
    pairs = len(known.answer_tokens)
    table = Table(
        title=f"Scoring {pairs} pairs ({known.tokens / pairs:.0f} tokens a pair in two rows)",
        title_justify="left",
    )
    for column in ("", "batch", "seconds", "pairs/s", "tokens/s", "peak GiB"):
        table.add_column(column, justify="left" if not column else "right")
    for contender, runs in timed.items():
        seconds = statistics.median(run.seconds for run in runs)
        numbers = (f"{seconds:.1f}", f"{pairs / seconds:.2f}", f"{known.tokens / seconds:.0f}")
        table.add_row(
            contender, str(sizes[contender]), *numbers, f"{runs[-1].peak_bytes / 2**30:.2f}"
        )
    console = Console()
    console.print(
        f"{known.machine}: matrix products at {known.gemm / 1e9:.0f} GFLOP/s", highlight=False
    )
    console.print(table)
    console.print(
        f"{figures['ratio_vs_sequential']:.2f} x one answer at a time,"
        f" {figures['ratio_vs_lm_eval']:.2f} x lm-eval; {figures['gemm_share']:.0%} of the"
        f" matrix-product rate in useful FLOP; margins within {figures['max_abs_error']:.1e} nats a"
        " token",
        highlight=False,
    )


if __name__ == "__main__":
    typer.run(main)
