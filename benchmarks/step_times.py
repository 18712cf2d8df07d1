"""Time a trainer: the one place that says how, for ours and for every rival.

A `Watch` stands beside any transformers Trainer as a callback. A step lasts from its beginning to
the next one's, so that making batches and logging count. The first steps are not counted: kernels
are chosen and compiled in them. The last step may be traced, and is not counted then either.

Nothing of mvp_align is imported here, so that rivals with older libraries can use it.
"""

import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from benchmarks.machine import now, peak_memory_bytes

WARM_UP = 2
"""Steps before timing starts."""
SHORTEST = WARM_UP + 2
"""Steps of the shortest run with a counted step and a traced one."""
TOP = 12
"""Kernels that a trace names, those with the most time."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """One step's kernels on a GPU, or its operators on a CPU."""

    count: int
    busy_seconds: float
    """Length of the union of their intervals."""
    top: list[tuple[str, float, int]]
    """Name, seconds and number of those that took most time."""


@dataclass(frozen=True, slots=True)
class Timed:
    """What a run took. `seconds` are from `Watch.start` to the end of the last step."""

    seconds: float
    before_seconds: float
    """The part of `seconds` in which the trainer was made: tokenising, and any references."""
    step_seconds: list[float]
    losses: list[float]
    grad_norms: list[float]
    peak_bytes: int
    """On a GPU of the steps, on a CPU of the process."""
    kernels: Kernels | None = None

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        traced = found["kernels"]
        if traced is not None:
            traced = Kernels(**{**traced, "top": [(*one,) for one in traced["top"]]})
        return cls(**{**found, "kernels": traced})

    @property
    def counted(self) -> list[float]:
        """Seconds of the steps after the warm-up, without a traced one."""
        return self.step_seconds[WARM_UP : -1 if self.kernels else None]

    @property
    def step(self) -> float:
        """Median seconds of the counted steps. Raises StatisticsError if there is none."""
        return statistics.median(self.counted)

    @property
    def warm_up_seconds(self) -> float:
        """What the first steps took longer than others: compilation, for instance."""
        return max(0.0, sum(self.step_seconds[:WARM_UP]) - WARM_UP * self.step)

    @property
    def busy_share(self) -> float | None:
        """Share of a step in which a kernel ran: the traced step's, over a step without a trace."""
        return self.kernels.busy_seconds / self.step if self.kernels else None


@dataclass
class Watch(TrainerCallback):
    """Times one trainer: `start`, make the trainer, `built`, train, `result`."""

    device: torch.device
    traced: bool = False
    """Trace the last step."""
    began: float = 0.0
    before: float = 0.0
    starts: list[float] = field(default_factory=list)
    ended: float = 0.0
    tracer: profile | None = None

    def start(self) -> None:
        self.began = now(self.device)

    def built(self, trainer: Trainer) -> None:
        """Note that the trainer is made, and watch its steps."""
        self.before = now(self.device) - self.began
        trainer.add_callback(self)

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    @override
    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.starts.append(now(self.device))
        if self.traced and state.global_step == state.max_steps - 1:
            on_gpu = self.device.type == "cuda"
            self.tracer = profile(
                activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]
            )
            self.tracer.start()

    @override
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == state.max_steps:
            self.ended = now(self.device)
            if self.tracer is not None:
                self.tracer.stop()

    def result(self, trainer: Trainer) -> Timed:
        """Return the figures, after training."""
        ends = [*self.starts[1:], self.ended]
        steps = [end - begin for begin, end in zip(self.starts, ends, strict=True)]
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
        return Timed(
            seconds=self.ended - self.began,
            before_seconds=self.before,
            step_seconds=steps,
            losses=[float(entry["loss"]) for entry in logged],
            grad_norms=[float(entry["grad_norm"]) for entry in logged],
            peak_bytes=peak_memory_bytes(self.device),
            kernels=kernels_of(self.tracer, self.device) if self.tracer else None,
        )


def kernels_of(trace: profile, device: torch.device) -> Kernels:
    """Read a finished trace: kernels on a GPU (no copies between it and the host), else operators,
    which contain each other."""
    wanted = "kernel" if device.type == "cuda" else "cpu_op"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        trace.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"), strict=False)["traceEvents"]
    found = [event for event in events if event.get("cat") == wanted and event.get("ph") == "X"]
    took: Counter[str] = Counter()
    for event in found:
        took[event["name"]] += event["dur"]
    times = Counter(event["name"] for event in found)
    spans = [(event["ts"], event["ts"] + event["dur"]) for event in found]
    top = [(name[:120], taken / 1e6, times[name]) for name, taken in took.most_common(TOP)]
    return Kernels(len(found), union_length(spans) / 1e6, top)


def union_length(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of what the spans cover, counting overlaps once."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
