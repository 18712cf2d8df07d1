"""What the personal recipe brings, and each of its levers: seeds, and runs that leave one out.

Every run is `train.py experiment=person` in a process and a folder of its own; what is finished is
not run again. With --validation the tested people are the sample's validation people, by whom
settings may be chosen; test people are for the last look:

python -m benchmarks.person OUT --validation --only recipe,no_order -o train.epochs=2
python -m benchmarks.person OUT --seeds 12,13,14 --jobs 4 --json OUT/person.json
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from mvp_align.data.sources import sample_root
from mvp_align.errors import UserError
from mvp_align.metrics.drift import PERPLEXITY
from mvp_align.metrics.opa import ACCS
from mvp_align.metrics.profile_ablation import LEVEL, VALUES_OVER_SHUFFLED
from mvp_align.metrics.rows import read_rows
from mvp_align.metrics.seeds import SeedEstimate, over_seeds
from mvp_align.runs.pair_files import read_groups, read_scores
from mvp_align.runtime.json_files import to_json

ROOT = Path(__file__).parents[1]
RECIPE = "recipe"
LEVERS: Mapping[str, tuple[str, ...]] = {
    RECIPE: (),
    "no_order": ("train.order=shuffled",),
    "no_counterfactual": ("data.counterfactual=none",),
    "no_sft": ("train.loss_type=sigmoid", "train.loss_weights=null"),
    "no_sft_weights": (
        "train.loss_type=sigmoid",
        "train.loss_weights=null",
        "train.objective=importance",
        "train.objective_by=dimension+level",
    ),
}
"""The recipe, and the recipe without one of its levers. It has no weights, and sigmoid+sft takes
none: what they bring is the last one beside `no_sft`."""
MIN_USERS = 5
"""People that a cell of dimension x level needs to be shown."""


@dataclass(frozen=True, slots=True)
class Tested:
    """What a run's files say, pair by pair, in one order."""

    ids: tuple[str, ...]
    users: tuple[str, ...]
    cells: tuple[tuple[str, str], ...]
    """Dimension and level of each pair."""
    base: tuple[float, ...]
    right: tuple[float, ...]
    """acc@0 of a pair, 0 or 1; `base` is before training."""
    own_over_another: tuple[float, ...]
    """acc@0 with the person's own values minus that with another person's."""
    another_level: float
    """Mean of that over the pairs for which the other person states another level."""
    perplexity: float
    """Of the neutral text, over the base model's."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One of LEVERS over its seeds; differences are to the recipe's runs with the same seeds."""

    name: str
    seeds: tuple[int, ...]
    base: SeedEstimate
    acc: SeedEstimate
    levels: dict[str, SeedEstimate]
    cells: dict[str, SeedEstimate]
    """`diversity Low` -> acc@0, of cells with at least MIN_USERS people."""
    suppressed: dict[str, int]
    """People of the cells that are not shown."""
    own_over_another: SeedEstimate
    another_level: float
    perplexity: float
    difference: SeedEstimate | None


def read_run(folder: Path) -> Tested:
    """Raises UserError where a file is missing or damaged, or runs are of different pairs."""
    base, tuned, values, shuffled = (
        read_scores(folder / "scores" / f"{name}.jsonl")
        for name in (
            "base-in_domain",
            "tuned-in_domain",
            "tuned-in_domain-profile_values",
            "tuned-in_domain-profile_shuffled",
        )
    )
    ids = tuple(score.id for score in tuned)
    if any(tuple(score.id for score in one) != ids for one in (base, values, shuffled)):
        raise UserError(f"{folder / 'scores'}: the files are of different pairs.")
    groups = read_groups(folder / "groups" / "in_domain.jsonl")
    tags = [groups[name][2] for name in ids]
    path = folder / "metrics.jsonl"
    acc = ACCS[0].of
    return Tested(
        ids=ids,
        users=tuple(score.user_id for score in tuned),
        cells=tuple((tag["dimension"], tag["level"]) for tag in tags),
        base=tuple(acc(base)),
        right=tuple(acc(tuned)),
        own_over_another=tuple(np.subtract(acc(values), acc(shuffled)).tolist()),
        another_level=_value(path, "tuned", VALUES_OVER_SHUFFLED, LEVEL, "another"),
        perplexity=_value(path, "tuned", PERPLEXITY.name) / _value(path, "base", PERPLEXITY.name),
    )


def _value(path: Path, stage: str, metric: str, by: str = "", group: str = "") -> float:
    for row in read_rows(path):
        if (row.stage, row.metric, row.group_by, row.group) == (stage, metric, by, group):
            return row.value
    raise UserError(f"{path} has no {metric} of the {stage} model: was it measured?")


def summarise(name: str, runs: Mapping[int, Tested], recipe: Mapping[int, Tested]) -> Summary:
    """Summarise one lever's runs by seed. Raises UserError where they are of different pairs."""
    first = next(iter(runs.values()))
    if any(run.ids != first.ids for run in (*runs.values(), *recipe.values())):
        raise UserError(f"{name}: its runs were scored on different pairs.")
    cells = np.array([" ".join(cell) for cell in first.cells])
    levels = np.array([level for _, level in first.cells])
    users = np.array(first.users)
    right = np.array([run.right for run in runs.values()])

    def over(kept: np.ndarray) -> SeedEstimate:
        return over_seeds(right[:, kept].tolist(), users[kept].tolist(), "share")

    people = {str(cell): len(set(users[cells == cell])) for cell in dict.fromkeys(cells)}
    both = [seed for seed in runs if seed in recipe]
    return Summary(
        name=name,
        seeds=tuple(runs),
        base=over_seeds([run.base for run in runs.values()], first.users, "share"),
        acc=over(users != ""),
        levels={level: over(levels == level) for level in sorted(set(levels.tolist()))},
        cells={cell: over(cells == cell) for cell, n in people.items() if n >= MIN_USERS},
        suppressed={cell: n for cell, n in people.items() if n < MIN_USERS},
        own_over_another=over_seeds(
            [run.own_over_another for run in runs.values()], first.users, "difference"
        ),
        another_level=float(np.mean([run.another_level for run in runs.values()])),
        perplexity=float(np.mean([run.perplexity for run in runs.values()])),
        difference=over_seeds(
            [np.subtract(runs[seed].right, recipe[seed].right).tolist() for seed in both],
            first.users,
            "difference",
        )
        if both and name != RECIPE
        else None,
    )


def validation_people(out: Path) -> Path:
    """Write the sample's validation people under other names, as no one may be tested who is
    validated on, and return the file."""
    records = json.loads(sample_root().joinpath("val.json").read_text("utf-8"))
    for record in records:
        record["id"], record["user_id"] = f"val-{record['id']}", f"val-{record['user_id']}"
    path = out / "validation_people.json"
    path.write_text(to_json(records), "utf-8")
    return path


def train(folder: Path, words: Sequence[str], threads: int) -> float:
    """Run `train.py` and return its seconds. Raises UserError with the end of its log if it
    fails."""
    began, log = time.perf_counter(), folder.with_suffix(".log")
    command = [sys.executable, str(ROOT / "train.py"), *words, f"run.dir={folder}"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with log.open("w") as written:
        done = subprocess.run(command, stdout=written, stderr=written, env=environment, check=False)
    if done.returncode:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
        raise UserError(f"{folder.name} failed; the end of {log}:\n{end}")
    return time.perf_counter() - began


def show(summaries: Sequence[Summary], console: Console) -> None:
    table = Table(title="acc@0 in %, differences in points", title_justify="left")
    for column in (
        "runs", "seeds", "acc@0", "against the recipe", "High", "Low", "lowest cell",
        "own over another's", "another level", "perplexity",
    ):  # fmt: skip
        table.add_column(column, justify="left" if column in ("runs", "lowest cell") else "right")
    for one in summaries:
        cells = [(found.mean, found.n, cell) for cell, found in one.cells.items()]
        mean, n, cell = min(cells, default=(0.0, 0, ""))
        table.add_row(
            one.name,
            str(len(one.seeds)),
            _text(one.acc),
            _text(one.difference, "+") if one.difference else "",
            *(
                f"{100 * one.levels[level].mean:.1f}" if level in one.levels else "-"
                for level in ("High", "Low")
            ),
            f"{cell} {100 * mean:.1f} (n {n})" if cell else "-",
            _text(one.own_over_another, "+"),
            f"{100 * one.another_level:+.1f}",
            f"x {one.perplexity:.3f}",
        )
    console.print(table)
    first = summaries[0]
    console.print(f"base: {_text(first.base)}; cells of fewer than {MIN_USERS} people, not shown:")
    console.print(", ".join(f"{cell} ({n})" for cell, n in first.suppressed.items()) or "none")


def _text(found: SeedEstimate, sign: str = "") -> str:
    """Show a mean with the interval over people and, where there are several, over seeds."""
    bounds = found.both or found.people
    mean = f"{100 * found.mean:{sign}.1f}"
    return f"{mean} [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]" if bounds else mean


def main(
    out: Path,
    seeds: str = "12",
    only: Annotated[str, typer.Option(help="Some of: " + ", ".join(LEVERS))] = ",".join(LEVERS),
    jobs: Annotated[int, typer.Option(help="Runs at once.", min=1)] = 1,
    validation: Annotated[
        bool, typer.Option("--validation", help="Test the validation people.")
    ] = False,
    override: Annotated[list[str] | None, typer.Option("-o", help="For every run.")] = None,
    figures: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Others are compared with the recipe, if it is one of `only`. Levers are left out under the
    first seed alone."""
    numbers, names = [int(seed) for seed in seeds.split(",")], only.split(",")
    if unknown := [name for name in names if name not in LEVERS]:
        raise UserError(f"--only {unknown[0]}: must be some of {', '.join(LEVERS)}.")
    out.mkdir(parents=True, exist_ok=True)
    tested = [f"data.test={validation_people(out)}"] if validation else []
    wanted = {
        (name, seed): [
            "experiment=person", "evals.profiles=[values,shuffled]", f"seed={seed}",
            *LEVERS[name], *tested, *(override or []),
        ]
        for name in names
        for seed in (numbers if name == RECIPE else numbers[:1])
    }  # fmt: skip
    folders = {key: out / f"{key[0]}-{key[1]}" for key in wanted}
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        running = {
            key: pool.submit(train, folders[key], words, threads) for key, words in wanted.items()
        }
        for key, run in running.items():
            print(f"{folders[key]}: {run.result():.0f} s", flush=True)
    runs = {key: read_run(folder) for key, folder in folders.items()}
    by_name = {
        name: {seed: run for (of, seed), run in runs.items() if of == name} for name in names
    }
    summaries = [summarise(name, found, by_name.get(RECIPE, {})) for name, found in by_name.items()]
    show(summaries, Console(width=170))
    if figures:
        figures.write_text(to_json([asdict(one) for one in summaries], indent=2), "utf-8")


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        sys.exit(f"\n{error}")
