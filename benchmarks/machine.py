"""Measure this machine's speed, and run each contender in a process of its own.

So allocators, caches and peak memory stay separate. Nothing of mvp_align is imported here, so that
rivals with older libraries can use it.
"""

import os
import platform
import resource
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")

SHAPES = ((512, 576, 1536), (1024, 1024, 1024), (4096, 4096, 4096))
"""(m, k, n) of the matrix products to try: those of a small model's layers, and large squares."""
SECONDS_A_SHAPE = 1.0


class Worker:
    """A process that waits between calls, so that contenders can alternate on one machine."""

    def __init__(self) -> None:
        self.pool = ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=end_with_parent
        )

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return self.pool.submit(function, *args, **kwargs).result()


def close(workers: dict[str, Worker]) -> None:
    for worker in workers.values():
        worker.pool.shutdown()


def end_with_parent() -> None:
    """End this worker when its parent is killed, or it would disturb later measurements."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def gemm_rate(
    device: torch.device, dtype: torch.dtype, shapes: Sequence[tuple[int, int, int]] = SHAPES
) -> float:
    """Return the machine's fastest matrix products over `shapes`, in FLOP/s."""
    return max(rate(shape, device, dtype) for shape in shapes)


def rate(shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> float:
    rows, inner, columns = shape
    left, right = (
        torch.randn(rows, inner, device=device, dtype=dtype),
        torch.randn(inner, columns, device=device, dtype=dtype),
    )
    # waiting for a GPU after each product would count as its time; a CPU takes seconds for one
    at_once = 4 if device.type == "cuda" else 1
    for _ in range(at_once):
        left @ right
    products, began = 0, now(device)
    while (seconds := now(device) - began) < SECONDS_A_SHAPE:
        for _ in range(at_once):
            left @ right
        products += at_once
    return 2 * rows * inner * columns * products / seconds


def now(device: torch.device) -> float:
    """Wait for the device's pending work, and return the time in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory_bytes(device: torch.device) -> int:
    """Return this process's peak memory in bytes: on the GPU if there is one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def machine_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} threads"
