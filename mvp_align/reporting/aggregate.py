"""Find finished runs that differ only in their seed, check them, and aggregate them."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.metrics.metric import LIFT
from mvp_align.metrics.names import kind_of
from mvp_align.metrics.opa import CEILING
from mvp_align.metrics.rows import Row
from mvp_align.metrics.seeds import SeedEstimate, over_means, over_seeds
from mvp_align.reporting.finished import (
    LIFTED,
    STAGES,
    Finished,
    Key,
    MeasuredPairs,
    read_finished,
)
from mvp_align.reporting.results import unique
from mvp_align.runs.stored_config import FREE_TO_CHANGE, settings
from mvp_align.runtime.json_files import from_json

WHO = ("recipe", "model.name", "data.name", "prompt.name")
"""The settings that label a configuration if there is nothing to compare it with."""


@dataclass(frozen=True, slots=True)
class SeedRun:
    """A run folder with a readable config."""

    folder: Path
    seed: int
    done: bool
    config: Mapping[str, object]
    """The settings that affect its numbers, without the seed."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One metric of one stage of one set, over the seeds.

    The stage is `base`, `tuned`, or `lift`, which is tuned minus base, pair by pair.
    """

    set: str
    metric: str
    stage: str
    estimate: SeedEstimate


@dataclass(slots=True)
class Group:
    """The runs of one configuration. `summaries` is empty if none has finished."""

    label: str
    seeds: list[int] = field(default_factory=list)
    summaries: list[Summary] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Unfinished, broken or missing runs, and what makes finished ones hard to compare."""
    ceilings: dict[str, float] = field(default_factory=dict)
    """Set -> upper limit of acc@0 for a model that ignores who is asking."""
    folders: list[Path] = field(default_factory=list)
    """Of the finished runs, in the order of `seeds`."""


def aggregate(words: Sequence[str], expected: Sequence[int] = ()) -> tuple[list[Group], list[str]]:
    """Group the run folders that `words` name by configuration, and list problems of other folders.

    A word is a run folder, a folder of run folders, or a pattern for either. `expected` are the
    seeds that each group should have. Raises UserError if a word matches nothing, no run has
    finished, a seed occurs twice, or runs of a group were scored on different pairs.
    """
    runs: list[SeedRun] = []
    broken: list[str] = []
    for folder in run_folders(words):
        try:
            runs.append(_read_run(folder))
        except UserError as error:
            broken.append(f"{folder}: broken. {error}")
    parts: dict[str, list[SeedRun]] = defaultdict(list)
    for run in runs:
        parts[json.dumps(run.config, sort_keys=True, default=str, allow_nan=False)].append(run)
    names = labels([members[0].config for members in parts.values()])
    groups = [
        _group_of(label, members, expected)
        for label, members in zip(names, parts.values(), strict=True)
    ]
    if not any(group.seeds for group in groups):
        lines = [*broken, *(problem for group in groups for problem in group.problems)]
        raise UserError(
            "\n".join(
                ["There is no finished run to take together:", *(f"  - {line}" for line in lines)]
            )
        )
    return groups, broken


def run_folders(words: Sequence[str]) -> list[Path]:
    """Return the distinct run folders that `words` name. Raises UserError if a word names none."""
    found: list[Path] = []
    for word in words:
        path = Path(word)
        folders = [path] if path.is_dir() else _matching(path)
        if not folders:
            raise UserError(f"{word}: neither a folder nor a pattern that matches one.")
        found += [run for folder in folders for run in _runs_in(folder)]
    return list({folder.resolve(): folder for folder in found}.values())


def _matching(pattern: Path) -> list[Path]:
    found = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
    return sorted(path for path in found if path.is_dir())


def _runs_in(folder: Path) -> list[Path]:
    """Return the run folders in `folder`, or `folder` itself if it holds none or is a run."""
    inside = sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    is_run = (folder / "config.yaml").is_file() or not any(
        (path / "config.yaml").is_file() for path in inside
    )
    return [folder] if is_run else inside


def _read_run(folder: Path) -> SeedRun:
    config = settings_of_run(folder)
    seed = config.pop("seed", None)
    if not isinstance(seed, int):
        raise UserError(f"{folder / 'config.yaml'} names no seed.")
    return SeedRun(folder, seed, (folder / "DONE").is_file(), config)


def settings_of_run(folder: Path) -> dict[str, object]:
    """Return the settings that affect a run's numbers, by their dotted keys.

    Raises UserError if there is no config.yaml, or it cannot be read.
    """
    path = folder / "config.yaml"
    try:
        config = settings(OmegaConf.load(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, so it is no run folder.") from None
    except (OmegaConfBaseException, yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    # a setting that the run's version did not know had its default
    known = settings(OmegaConf.structured(Config), resolve=False) | config
    return {
        key: value
        for key, value in known.items()
        if not key.startswith(FREE_TO_CHANGE) and (key != "seed" or key in config)
    }


def labels(configs: Sequence[Mapping[str, object]]) -> list[str]:
    """Label each configuration by what differs from the others, like `prompt.name=paper`.

    If the choice of a config group differs (`prompt.name`), the settings that come with it
    (`prompt.template`) are left out.
    """
    differing = differing_settings(configs)
    if not differing:
        return [" ".join(str(config[key]) for key in WHO if key in config) for config in configs]
    chosen = {key.removesuffix("name") for key in differing if key.endswith(".name")}
    short = [key for key in differing if key.endswith(".name") or not key.startswith(tuple(chosen))]
    made = [" ".join(f"{key}={config.get(key)}" for key in short) for config in configs]
    if len(set(made)) == len(made):
        return made
    return [" ".join(f"{key}={config.get(key)}" for key in differing) for config in configs]


def differing_settings(configs: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the keys, sorted, that not all configurations have with one value."""
    keys = sorted({key for config in configs for key in config})
    return [key for key in keys if len({str(config.get(key)) for config in configs}) > 1]


def _group_of(label: str, runs: Sequence[SeedRun], expected: Sequence[int]) -> Group:
    group = Group(label)
    found: list[Finished] = []
    for run in sorted(runs, key=lambda run: (run.seed, str(run.folder))):
        if not run.done:
            group.problems.append(f"seed {run.seed}: unfinished ({run.folder} has no DONE).")
            continue
        try:
            finished = read_finished(run.folder)
        except (UserError, OSError, UnicodeDecodeError) as error:
            group.problems.append(f"seed {run.seed}: broken. {error}")
            continue
        if run.seed in group.seeds:
            first = found[group.seeds.index(run.seed)].folder
            raise UserError(
                f"Seed {run.seed} of the same configuration comes twice, and would count twice:"
                f" {first} and {run.folder}. Name one of them."
            )
        group.seeds.append(run.seed)
        group.folders.append(run.folder)
        group.ceilings |= {
            row.set: row.value
            for row in finished.rows
            if row.metric == CEILING.name and not row.group_by
        }
        found.append(finished)
    known = {run.seed for run in runs}
    group.problems += [f"seed {seed}: missing." for seed in expected if seed not in known]
    if found:
        _refuse_other_pairs({run.folder: run.measured for run in found})
        group.problems += _unlike_inputs([run.folder for run in found])
        group.summaries, left_out = _summaries(found, group.seeds)
        group.problems += left_out
    return group


def _refuse_other_pairs(measured: Mapping[Path, MeasuredPairs]) -> None:
    (first_folder, first), *others = measured.items()
    for folder, pairs in others:
        for key in {**first, **pairs}:
            if first.get(key, []) != pairs.get(key, []):
                raise UserError(
                    f"{first_folder} and {folder} were scored on different pairs of {key[1]}, so"
                    " they cannot be averaged pair by pair. (Without data.test, the seed decides"
                    " who is held out: set data.test.)"
                )


def _unlike_inputs(folders: Sequence[Path]) -> list[str]:
    """Report inputs that differ between runs.

    Compares environment.json's hashes of data, base model and prompt.
    """
    hashes: dict[str, set[str]] = defaultdict(set)
    for folder in folders:
        try:
            known = from_json((folder / "environment.json").read_text(encoding="utf-8"))["hashes"]
        except (OSError, ValueError, KeyError, TypeError):
            return [
                f"{folder / 'environment.json'} cannot be read: nobody checked that the runs had"
                " the same inputs."
            ]
        for name, value in known.items():
            hashes[name].add(str(value))
    return [
        f"{name} was not the same in all runs: its hashes differ."
        for name, seen in hashes.items()
        if len(seen) > 1
    ]


def _summaries(runs: Sequence[Finished], seeds: Sequence[int]) -> tuple[list[Summary], list[str]]:
    """Summarise every metric that all runs have, for base, tuned and lift, and list the others.

    Works pair by pair if the runs kept values for the same pairs. Otherwise (perplexity, KL, PAA
    with different unlabelled answers) it uses each run's mean, and there is no interval over users.
    """
    rows_by_run = [run.whole_set_rows() for run in runs]
    keys = unique(
        key for run, rows in zip(runs, rows_by_run, strict=True) for key in (*run.pairs, *rows)
    )
    found: list[Summary] = []
    left_out: list[str] = []
    for key in _in_order(keys):
        name, metric, stage = key
        if estimate := _over_runs(key, runs, rows_by_run):
            found.append(Summary(name, metric, stage, estimate))
            continue
        lack = [
            str(seed)
            for seed, run, rows in zip(seeds, runs, rows_by_run, strict=True)
            if key not in rows and key not in run.pairs
        ]
        why = (
            f"seed {', '.join(lack)} has none"
            if lack
            else "it is not of the same pairs under all seeds"
        )
        left_out.append(f"{metric} of {stage} {name}: left out, because {why}.")
    return found, left_out


def _over_runs(
    key: Key, runs: Sequence[Finished], rows_by_run: Sequence[Mapping[Key, Row]]
) -> SeedEstimate | None:
    """Return a metric over all runs, or None if some lack it."""
    _, metric, stage = key
    kind = kind_of(f"{metric}{LIFT}" if stage == LIFTED else metric)
    measured = [run.pairs[key] for run in runs if key in run.pairs]
    if len(measured) == len(runs) and len({one.ids for one in measured}) == 1:
        return over_seeds([one.values for one in measured], measured[0].users, kind)
    rows = [of[key] for of in rows_by_run if key in of]
    if len(rows) < len(runs):
        return None
    return over_means([row.value for row in rows], [(row.n, row.users) for row in rows], kind)


def _in_order(keys: Sequence[Key]) -> list[Key]:
    """Sort keys by set and metric, in order of appearance, then base, tuned, lift."""
    sets, metrics = unique(name for name, _, _ in keys), unique(metric for _, metric, _ in keys)
    stages = (*STAGES, LIFTED)
    return sorted(
        keys, key=lambda key: (sets.index(key[0]), metrics.index(key[1]), stages.index(key[2]))
    )
