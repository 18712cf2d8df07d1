"""Do objectives for people who disagree serve a planted minority better than plain DPO?

One person of ten wants the opposite of all others (benchmarks/planted.py). Every objective gets the
same budget: as many configurations, chosen by the worst group of validation people under a seed of
their own, then five seeds that are tested once. In each condition the number of steps is the same
for all:

python -m benchmarks.minorities [--only shown-25] [--quick] [--json FILE]
"""

import gc
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine_name
from benchmarks.our_trainer import cache_at
from benchmarks.planted import (
    HIDDEN,
    MAJORITY,
    MINORITY,
    SMALL,
    VISIBLE,
    WHOLE,
    Planted,
    Split,
    ceilings,
    plant,
)
from benchmarks.planted_runs import Served, Setting, run_words, served
from benchmarks.planted_stats import Bounded, Standing, standing
from mvp_align.runtime.libraries import set_up_libraries

PLAIN = "mean"
RATES = (2e-3, 4e-3, 8e-3, 1.6e-2)
TUNING_SEED = 11
SEEDS = (12, 13, 14, 15, 16)
LEARNT, NOT_LEARNT = 0.9, 0.1
"""acc@0 from which a group counts as learnt, and up to which as not."""


def _grid() -> dict[str, list[Setting]]:
    middle = RATES[1:3]
    knobs = {
        "gr_dpo": ("train.objective_eta=0.01", "train.objective_eta=0.1"),
        "kl_dpo": ("train.objective_tau=1", "train.objective_tau=0.3"),
    }
    plain = {name: [Setting(name, rate) for rate in RATES] for name in (PLAIN, "importance")}
    return plain | {
        name: [Setting(name, rate, knob) for rate in middle for knob in tried]
        for name, tried in knobs.items()
    }


GRID = _grid()
"""What is tried of each objective: four configurations. The rates lie around the one with which
plain DPO learnt both groups; eta is at both ends of the paper's range, tau 1 is the paper's."""


@dataclass(frozen=True, slots=True)
class Condition:
    name: str
    prompt: tuple[str, ...]
    steps: int


CONDITIONS = (
    Condition("shown-25", VISIBLE, 25),
    Condition("shown-50", VISIBLE, 50),
    Condition("hidden-25", HIDDEN, 25),
)
"""Values shown or hidden, and optimizer steps."""
CURVE = (12, 25, 50)
"""Steps of the runs that show in which order plain DPO learns."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done."""

    splits: Mapping[str, Split] = field(default_factory=lambda: WHOLE)
    read_steps: int = 600
    seeds: tuple[int, ...] = SEEDS
    tried: int = 4
    """Configurations of each objective."""
    conditions: tuple[Condition, ...] = CONDITIONS
    curve: tuple[int, ...] = CURVE


QUICK = Plan(SMALL, 200, SEEDS[:2], 1, (Condition("shown-12", VISIBLE, 12),), (6, 12))


@dataclass(frozen=True, slots=True)
class Tried:
    """A configuration, and whom it serves of the validation people."""

    setting: Setting
    worst: float
    mean: float


@dataclass(frozen=True, slots=True)
class Tested:
    """An objective's chosen configuration on test people, a run a seed."""

    setting: Setting
    tried: list[Tried]
    runs: list[Served]


def chosen(tried: Sequence[Tried]) -> Setting:
    """Return the setting with the best worst group, then the best mean; of equals the first."""
    return max(tried, key=lambda one: (one.worst, one.mean)).setting


def compare(planted: Planted, condition: Condition, plan: Plan) -> dict[str, Tested]:
    """Tune and test every objective."""
    steps = f"train.max_steps={condition.steps}"
    found: dict[str, Tested] = {}
    for objective, grid in GRID.items():
        words = [*run_words(planted, "val", condition.prompt), steps, f"seed={TUNING_SEED}"]
        tried = []
        for setting in grid[: plan.tried]:
            tuned = _run(f"{condition.name}, validation", setting, words)
            tried.append(Tried(setting, tuned.worst, tuned.share()))
        best = chosen(tried)
        runs = []
        for seed in plan.seeds:
            words = [*run_words(planted, "test", condition.prompt), steps, f"seed={seed}"]
            runs.append(_run(f"{condition.name}, test, seed {seed}", best, words))
        found[objective] = Tested(best, tried, runs)
    return found


def _run(what: str, setting: Setting, words: Sequence[str]) -> Served:
    began = time.perf_counter()
    tuned = served([*words, *setting.words])
    print(
        f"{what}: {setting.objective}, {setting}: worst {tuned.worst:.1%}, mean {tuned.share():.1%}"
        f" ({time.perf_counter() - began:.0f} s)",
        flush=True,
    )
    return tuned


@dataclass(frozen=True, slots=True)
class Checked:
    """Whether the comparison can say anything."""

    value_blind: float
    """Ceiling of acc@0 of the test people without their values, and with them."""
    value_seeing: float
    base: dict[str, float]
    """acc@0 of the base model on validation people, by group."""
    curve: dict[int, dict[str, float]]
    """Steps -> acc@0 of plain DPO on validation people, by group: each a run of its own."""

    @property
    def majority_first(self) -> bool:
        """Return whether plain DPO has learnt the majority and not the minority at some time."""
        return any(
            one[MAJORITY] >= LEARNT and one[MINORITY] <= NOT_LEARNT for one in self.curve.values()
        )


def check(planted: Planted, plan: Plan) -> Checked:
    """Compute the ceilings, and see in which order plain DPO learns where values are shown."""
    words = [*run_words(planted, "val", VISIBLE), f"seed={TUNING_SEED}"]
    plain = [*words, *Setting(PLAIN, RATES[2]).words]
    base = _by_group(served(words, trained=False))
    curve = {steps: _by_group(served([*plain, f"train.max_steps={steps}"])) for steps in plan.curve}
    return Checked(*ceilings(planted.pairs("test")), base, curve)


def _by_group(found: Served) -> dict[str, float]:
    return {level: found.share(level) for level in (MAJORITY, MINORITY)}


def show(checked: Checked, results: Mapping[str, Mapping[str, Tested]]) -> None:
    console = Console()
    print(
        f"Ceilings of acc@0: {checked.value_blind:.1%} without a person's values,"
        f" {checked.value_seeing:.1%} with them. Base: {_words(checked.base)}."
    )
    for steps, found in checked.curve.items():
        print(f"Plain DPO, rate {RATES[2]:g}, {steps} steps: {_words(found)}.")
    if not checked.majority_first:
        print("Plain DPO did not learn the majority first, so the comparison says nothing.")
    for condition, tested in results.items():
        console.print(_tuning_table(condition, tested))
        console.print(_test_table(condition, tested))


def _words(found: Mapping[str, float]) -> str:
    return f"majority {found[MAJORITY]:.1%}, minority {found[MINORITY]:.1%}"


def _tuning_table(condition: str, tested: Mapping[str, Tested]) -> Table:
    table = Table(title=f"{condition}: validation people, %", title_justify="left")
    for column in ("objective", "configuration", "worst group", "mean", "chosen"):
        table.add_column(column, justify="right" if column in ("worst group", "mean") else "left")
    for objective, one in tested.items():
        for tried in one.tried:
            mark = "yes" if tried.setting == one.setting else ""
            numbers = f"{100 * tried.worst:.1f}", f"{100 * tried.mean:.1f}"
            table.add_row(objective, str(tried.setting), *numbers, mark)
    return table


def _test_table(condition: str, tested: Mapping[str, Tested]) -> Table:
    title = f"{condition}: test people, acc@0 in %, differences to plain DPO in points"
    table = Table(title=title, title_justify="left")
    for column in ("objective", "worst group", "majority", "minority", "mean"):
        table.add_column(column, justify="left" if column == "objective" else "right")
    plain = tested[PLAIN].runs
    for objective, one in tested.items():
        table.add_row(objective, *_cells(standing(one.runs)))
        if objective != PLAIN:
            table.add_row("  - plain", *_cells(standing(one.runs, plain), sign="+"))
    return table


def _cells(found: Standing, sign: str = "") -> list[str]:
    return [_cell(one, sign) for one in (found.worst, found.majority, found.minority, found.mean)]


def _cell(found: Bounded, sign: str) -> str:
    shown = f"{100 * found.value:{sign}.1f}"
    if found.low is None or found.high is None:
        return shown
    return f"{shown} [{100 * found.low:{sign}.1f}, {100 * found.high:{sign}.1f}]"


def as_figures(checked: Checked, results: Mapping[str, Mapping[str, Tested]]) -> dict[str, Any]:
    """Return everything that was found, for a JSON file."""
    return {
        "checked": asdict(checked) | {"majority_first": checked.majority_first},
        "conditions": {
            condition: {
                objective: {
                    "setting": asdict(one.setting),
                    "tried": [asdict(tried) for tried in one.tried],
                    "by_seed": [
                        {"worst": run.worst, "mean": run.share(), **_by_group(run)}
                        for run in one.runs
                    ],
                    "test": asdict(standing(one.runs)),
                    "minus_plain": asdict(standing(one.runs, tested[PLAIN].runs)),
                }
                for objective, one in tested.items()
            }
            for condition, tested in results.items()
        },
    }


def main(
    quick: Annotated[
        bool, typer.Option(help="Fewer people, one condition, no choice: minutes, no result.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"One of {', '.join(one.name for one in CONDITIONS)}; may be repeated."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where people and model are, or are to be.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File to write the figures to.")
    ] = None,
) -> None:
    """Compare objectives on planted people: worst group and mean, each tuned alike, paired."""
    set_up_libraries()
    plan, began = QUICK if quick else Plan(), time.perf_counter()
    wanted = only or [one.name for one in plan.conditions]
    if unknown := {*wanted} - {one.name for one in plan.conditions}:
        raise typer.BadParameter(f"--only: {', '.join(sorted(unknown))} is no condition")
    gc.freeze()  # each run collects garbage, which looks through all that is imported
    with tempfile.TemporaryDirectory() as name:
        planted = plant(folder or Path(name) / "planted", plan.splits, plan.read_steps)
        with cache_at(Path(name)):
            checked = check(planted, plan)
            results = {
                one.name: compare(planted, one, plan)
                for one in plan.conditions
                if one.name in wanted
            }
    minutes = (time.perf_counter() - began) / 60
    show(checked, results)
    print(f"{machine_name(torch.device('cpu'))}: {minutes:.0f} minutes.")
    if json_file is not None:
        figures = as_figures(checked, results) | {"minutes": minutes}
        json_file.write_text(
            json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    typer.run(main)
