"""The figures that a GPU session is to reach, beside those that it has found."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.contenders import OURS, TRL, TRL_LIGER, TRL_PRECOMPUTED, UNSLOTH
from benchmarks.session_lines import LINES
from benchmarks.step_rows import Figures, ratios, show
from benchmarks.training_gpu import CONFIGURED, PUBLISHED, REHEARSAL

Known = Mapping[str, Figures]
"""Figures by line. A line that was cut off has those that it found until then."""
TRAINING = ("ours", "rivals", "unsloth")
"""Lines whose rows are compared with each other, with references outside the clock and inside."""
NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Target:
    """`value` is None where nothing is known; `bound` is None where a figure is only shown."""

    what: str
    line: str
    """The line whose failure explains a missing figure."""
    value: Callable[[Known], float | None]
    bound: Callable[[Known], float | None]
    form: str
    at_least: bool = True


def rows(known: Known, *lines: str) -> list[Figures]:
    """Return the rows of these lines that have figures."""
    return [
        row for line in lines for row in known.get(line, {}).get("rows", ()) if "failed" not in row
    ]


def configured(figure: str) -> Callable[[Known], float | None]:
    """Take a figure of ours as the experiment configures it."""

    def value(known: Known) -> float | None:
        found = [row for row in rows(known, "ours") if row["name"] == f"{OURS}, {CONFIGURED}"]
        return found[0][figure] if found else None

    return value


def larger(figure: str) -> Callable[[Known], float | None]:
    """Take the best of ours with more pairs a pass than the experiment's 8."""

    def value(known: Known) -> float | None:
        found = [
            row[figure]
            for row in rows(known, "ours")
            if row["name"] != f"{OURS}, {CONFIGURED}" and row["micro"] != 8
        ]
        return max((one for one in found if one is not None), default=None)

    return value


def times(kind: str, *rivals: str) -> Callable[[Known], float | None]:
    """Take how many times as fast ours is as the best of these rivals, with as many pairs a step.

    Ours is its fastest run of that size.
    """

    def value(known: Known) -> float | None:
        found = [one for one in ratios(rows(known, *TRAINING)) if one["rival"] in rivals]
        best = {
            rival: max(one[kind] for one in found if one["rival"] == rival)
            for rival in {one["rival"] for one in found}
        }
        return min(best.values(), default=None)

    return value


def figure(line: str, name: str) -> Callable[[Known], float | None]:
    return lambda known: known.get(line, {}).get(name)


def bound(value: float | None) -> Callable[[Known], float | None]:
    return lambda known: value


def target(
    what: str,
    line: str,
    value: Callable[[Known], float | None],
    least: float | None,
    form: str = ".2f",
) -> Target:
    return Target(what, line, value, bound(least), form)


TARGETS = (
    target("training as configured, pairs/s", "ours", configured("pairs_per_second"), 55, ".1f"),
    target("  of the product rate", "ours", configured("product_share"), 0.44, ".1%"),
    target("  of the data sheet's", "ours", configured("data_sheet_share"), None, ".1%"),
    target("  GPU busy", "ours", configured("busy_share"), 0.95, ".1%"),
    target("  kernels a step", "ours", configured("kernels"), None, ".0f"),
    target("16 pairs a pass and more, pairs/s", "ours", larger("pairs_per_second"), 75, ".1f"),
    target("  of the product rate", "ours", larger("product_share"), 0.60, ".1%"),
    target("times the best TRL, outside", "rivals", times("outside", TRL, TRL_LIGER), 3.5),
    target("  inside", "rivals", times("inside", TRL, TRL_LIGER), 3.5),
    target("times TRL precomputed, outside", "rivals", times("outside", TRL_PRECOMPUTED), 2.2),
    target("  inside", "rivals", times("inside", TRL_PRECOMPUTED), 2.2),
    target("times TRL at 2 x 4, outside", "rivals", times("outside", PUBLISHED), 10),
    target("times Unsloth, outside", "unsloth", times("outside", UNSLOTH), 1.0),
    target("  inside", "unsloth", times("inside", UNSLOTH), 1.0),
    target("scoring, pairs/s", "scoring", figure("scoring", "pairs_per_second"), 232, ".1f"),
    target("  of the product rate", "scoring", figure("scoring", "product_share"), 0.80, ".1%"),
    target(
        "plain generate, batch 8, answers/s",
        "generation",
        figure("generation", "plain_answers_per_second"),
        None,
    ),
    target("continuous generation, times that", "generation", figure("generation", "ratio"), 5),
    Target(
        "losses beside the plain path's, fp32",
        "losses",
        figure("losses", "gap_fp32"),
        bound(1e-5),
        ".1e",
        at_least=False,
    ),
    Target(
        "  bf16, beside the plain path's own distance to fp32",
        "losses",
        figure("losses", "gap_bf16"),
        figure("losses", "plain_bf16_beside_fp32"),
        ".1e",
        at_least=False,
    ),
    target(
        "the experiment from command to DONE, s",
        "divervalue",
        figure("divervalue", "seconds"),
        None,
        ".0f",
    ),
    Target(
        "the demo from command to DONE, s",
        "demo",
        figure("demo", "seconds"),
        bound(30),
        ".0f",
        at_least=False,
    ),
    target("GPU tests passed", "gpu_tests", figure("gpu_tests", "passed"), None, ".0f"),
    Target(
        "  failed",
        "gpu_tests",
        figure("gpu_tests", "failed"),
        bound(0),
        ".0f",
        at_least=False,
    ),
)


def table_of(known: Known, why: Mapping[str, str], rehearsal: bool) -> list[list[str]]:
    """Return the table's cells: what, target, figure, and whether it is reached.

    `why` says of lines why they have no figures. A rehearsal reaches nothing.
    """
    cells = []
    for one in TARGETS:
        value, least = one.value(known), one.bound(known)
        sign = "at least" if one.at_least else "at most"
        aim = "shown" if least is None else f"{sign} {format(least, one.form)}"
        if value is None:
            reason = why.get(one.line) or absent(one, known)
            cells.append([one.what, aim, NOT_MEASURED + f": {reason}" * bool(reason), "-"])
            continue
        reached = "-"
        if least is not None and not rehearsal:
            reached = "yes" if (value >= least if one.at_least else value <= least) else "no"
        cells.append([one.what, aim, format(value, one.form), reached])
    return cells


def absent(one: Target, known: Known) -> str:
    """Return why a line that ran has no such figure, as far as that is known."""
    found = known.get(one.line, {}).get("rows", ())
    failed = [row["failed"] for row in found if "failed" in row]
    return str(failed[0]) if failed and len(failed) == len(found) else ""


def show_all(known: Known, why: Mapping[str, str], device: str, rehearsal: bool) -> None:
    table = Table(title=f"{device}: {REHEARSAL}" if rehearsal else device, title_justify="left")
    for name in ("", "target", "rehearsed" if rehearsal else "measured", "reached"):
        table.add_column(name)
    for cells in table_of(known, why, rehearsal):
        table.add_row(*cells)
    console = Console(width=160)
    console.print(table)
    for line in LINES:
        found: Sequence[Any] = known.get(line.name, {}).get("rows", ())
        if found:
            show(found, f"{line.name}: {REHEARSAL}" if rehearsal else line.name)
