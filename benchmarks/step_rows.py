"""What is shown of timed steps: figures of each contender, and ratios between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.contenders import EPOCHS, OURS
from benchmarks.rival_trainers import Attempt
from benchmarks.work import Workload
from mvp_align.planning.forecast import GPUS

GIB = 2**30
SHOWN = 4
"""Losses and gradient norms of the first steps, which all contenders should share."""

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One run of a contender, over `pairs` pairs."""

    name: str
    contender: str
    batch: int
    pairs: int
    load: Workload
    found: Attempt

    def figures(self, device: str) -> Figures:
        """Return what --json holds of the row; for a failed run, the reason alone."""
        found, timed = self.found, self.found.timed
        known: Figures = {"name": self.name, "contender": self.contender, "batch": self.batch}
        if timed is None:
            return {**known, "failed": found.failed}
        second = timed.step / self.batch
        rate = self.load.training_flop / self.pairs / second
        peak = data_sheet(device)
        whole = timed.before_seconds + timed.warm_up_seconds + EPOCHS * self.pairs * second
        kernels = timed.kernels
        return {
            **known,
            "micro": found.micro,
            "checkpointing": found.checkpointing,
            "pairs_per_second": 1 / second,
            "tokens_per_second": self.load.tokens / self.pairs / second,
            "tokens_per_pair": self.load.tokens / self.pairs,
            "tflops": rate / 1e12,
            "gemm_tflops": None if found.gemm is None else found.gemm / 1e12,
            "product_share": None if found.gemm is None else rate / found.gemm,
            "data_sheet_share": None if peak is None else rate / peak,
            "peak_gib": timed.peak_bytes / GIB,
            "kernels": None if kernels is None else kernels.count,
            "busy_share": timed.busy_share,
            "top_kernels": None if kernels is None else kernels.top,
            "load_seconds": found.load_seconds,
            "before_seconds": timed.before_seconds,
            "warm_up_seconds": timed.warm_up_seconds,
            "step_seconds": timed.step_seconds,
            "seconds_of_a_pair_inside": whole / EPOCHS / self.pairs,
            "losses": timed.losses[:SHOWN],
            "grad_norms": timed.grad_norms[:SHOWN],
            "versions": found.versions,
        }


def data_sheet(device: str) -> float | None:
    """Return the data sheet's FLOP/s of dense 16-bit products, of a device by its name."""
    return next((gpu.peak for gpu in GPUS if gpu.name in device), None)


def ratios(rows: Sequence[Figures]) -> list[Figures]:
    """Return how many times as fast ours is as each rival with as many pairs a step.

    `outside`: steps alone. `inside`: three epochs over the run's pairs, with what came before the
    first counted step (references, compilation), but for loading.
    """
    known = [row for row in rows if "failed" not in row]
    return [
        {
            "ours": ours["name"],
            "rival": rival["name"],
            "outside": ours["pairs_per_second"] / rival["pairs_per_second"],
            "inside": rival["seconds_of_a_pair_inside"] / ours["seconds_of_a_pair_inside"],
        }
        for ours in known
        if ours["contender"] == OURS
        for rival in known
        if rival["contender"] != OURS and rival["batch"] == ours["batch"]
    ]


COLUMNS: dict[str, tuple[str, str]] = {
    "pairs a step": ("batch", "d"),
    "a pass": ("micro", "d"),
    "ckpt": ("checkpointing", ""),
    "pairs/s": ("pairs_per_second", ".2f"),
    "tokens/s": ("tokens_per_second", ".0f"),
    "of products": ("product_share", ".1%"),
    "of data sheet": ("data_sheet_share", ".1%"),
    "peak GiB": ("peak_gib", ".1f"),
    "kernels": ("kernels", "d"),
    "GPU busy": ("busy_share", ".1%"),
    "load s": ("load_seconds", ".1f"),
    "before step 1, s": ("before_seconds", ".1f"),
    "warm-up s": ("warm_up_seconds", ".1f"),
}
"""Of the table: the figure, and its format."""


def cell(row: Figures, key: str, form: str) -> str:
    value = row.get(key)
    if value is None:
        return "-"
    return ("on" if value else "off") if isinstance(value, bool) else format(value, form)


def printed(row: Figures) -> str:
    """Return a row as a line of text."""
    if "failed" in row:
        return f"{row['name']}: failed: {row['failed']}"
    cells = (f"{cell(row, key, form)} {name}" for name, (key, form) in COLUMNS.items())
    losses = ", ".join(f"{loss:.5f}" for loss in row["losses"])
    norms = ", ".join(f"{norm:.4g}" for norm in row["grad_norms"])
    return f"{row['name']}: {', '.join(cells)}; losses {losses}; gradient norms {norms}"


def show(rows: Sequence[Figures], title: str) -> None:
    table = Table(title=title or None, title_justify="left")
    table.add_column("")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for row in rows:
        if "failed" in row:
            table.add_row(row["name"], "failed")
        else:
            table.add_row(row["name"], *(cell(row, key, form) for key, form in COLUMNS.values()))
    console = Console(width=200)
    console.print(table)
    for row in rows:
        if "failed" in row:
            console.print(printed(row), highlight=False)
    for found in ratios(rows):
        console.print(
            f"{found['ours']}: {found['outside']:.2f} x {found['rival']} with references outside"
            f" the clock, {found['inside']:.2f} x inside",
            highlight=False,
        )
