"""Finished runs that differ by nothing but their seed, found, checked and taken together."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mvp_align.errors import UserError
from mvp_align.evaluation.names import LIFT, kind_of
from mvp_align.evaluation.opa import chosen_shifts, pair_values, users_of
from mvp_align.evaluation.rows import Row, read_rows
from mvp_align.evaluation.seeds import SeedEstimate, over_seeds
from mvp_align.json_files import from_json
from mvp_align.reporting.results import CEILING, unique
from mvp_align.reporting.run_folder import FREE_TO_CHANGE, RunFolder, read_scores, settings
from mvp_align.schema import PairScore

Scores = Mapping[tuple[str, str], Sequence[PairScore]]
"""(stage, set) -> scores; `in_domain-prompt_free` is the set without its prompts."""

STAGES = ("base", "tuned")
FREE = "-prompt_free"
WHO = ("recipe", "model.name", "data.name", "prompt.name")
"""What a configuration is called by where there is nothing to tell it from."""


@dataclass(frozen=True, slots=True)
class SeedRun:
    """One run folder whose config could be read."""

    folder: Path
    seed: int
    done: bool
    config: Mapping[str, object]
    """The settings that make its numbers, the seed left out."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One metric of one stage (`base`, `tuned`, or `lift`: tuned minus base, pair by pair) of one set, over the seeds."""

    set: str
    metric: str
    stage: str
    estimate: SeedEstimate


@dataclass(slots=True)
class Group:
    """The runs of one configuration. `summaries` is empty where none of them has ended."""

    label: str
    seeds: list[int] = field(default_factory=list)
    summaries: list[Summary] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Runs that are unfinished, broken or missing, and what makes the finished ones hard to compare."""
    ceilings: dict[str, float] = field(default_factory=dict)
    """Set -> the acc@0 that a model which ignores who is asking cannot pass."""


def aggregate(words: Sequence[str], expected: Sequence[int] = ()) -> tuple[list[Group], list[str]]:
    """A group for each configuration among the run folders that `words` name, and what is wrong with the other folders.

    A word is a run folder, a folder of run folders, or a pattern of either. `expected` are the seeds that each group
    should have. Raises UserError where a word names nothing, no run has ended, one seed comes twice, or runs of a group
    were scored on different pairs.
    """
    runs: list[SeedRun] = []
    broken: list[str] = []
    for folder in run_folders(words):
        try:
            runs.append(read_run(folder))
        except UserError as error:
            broken.append(f"{folder}: broken. {error}")
    parts: dict[str, list[SeedRun]] = defaultdict(list)
    for run in runs:
        parts[json.dumps(run.config, sort_keys=True, default=str, allow_nan=False)].append(run)
    names = labels([members[0].config for members in parts.values()])
    groups = [group_of(label, members, expected) for label, members in zip(names, parts.values(), strict=True)]
    if not any(group.seeds for group in groups):
        lines = [*broken, *(problem for group in groups for problem in group.problems)]
        raise UserError("\n".join(["There is no finished run to take together:", *(f"  - {line}" for line in lines)]))
    return groups, broken


def run_folders(words: Sequence[str]) -> list[Path]:
    """The run folders that `words` name, each once. Raises UserError where a word names none."""
    found: list[Path] = []
    for word in words:
        path = Path(word)
        matching = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        folders = [path] if path.is_dir() else [match for match in matching if match.is_dir()]
        if not folders:
            raise UserError(f"{word}: neither a folder nor a pattern that matches one.")
        found += [run for folder in folders for run in runs_in(folder)]
    return list({folder.resolve(): folder for folder in found}.values())


def runs_in(folder: Path) -> list[Path]:
    """`folder` itself, or the folders in it where it holds runs and is none."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    is_run = (folder / "config.yaml").is_file() or not any((path / "config.yaml").is_file() for path in inside)
    return [folder] if is_run else inside


def read_run(folder: Path) -> SeedRun:
    path = folder / "config.yaml"
    try:
        config = settings(OmegaConf.load(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, so it is no run folder.") from None
    except (OmegaConfBaseException, yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    seed = config.pop("seed", None)
    if not isinstance(seed, int):
        raise UserError(f"{path} names no seed.")
    kept = {key: value for key, value in config.items() if not key.startswith(FREE_TO_CHANGE)}
    return SeedRun(folder, seed, (folder / "DONE").is_file(), kept)


def labels(configs: Sequence[Mapping[str, object]]) -> list[str]:
    """`prompt.name=paper`, `prompt.name=preference`: each configuration by what sets it apart from the others.

    Where a choice of a group of settings differs (`prompt.name`), what it brings along (`prompt.template`) is left out.
    """
    keys = sorted({key for config in configs for key in config})
    differing = [key for key in keys if len({str(config.get(key)) for config in configs}) > 1]
    if not differing:
        return [" ".join(str(config[key]) for key in WHO if key in config) for config in configs]
    chosen = {key.removesuffix("name") for key in differing if key.endswith(".name")}
    short = [key for key in differing if key.endswith(".name") or not key.startswith(tuple(chosen))]
    made = [" ".join(f"{key}={config.get(key)}" for key in short) for config in configs]
    if len(set(made)) == len(made):
        return made
    return [" ".join(f"{key}={config.get(key)}" for key in differing) for config in configs]


def group_of(label: str, runs: Sequence[SeedRun], expected: Sequence[int]) -> Group:
    group = Group(label)
    scored: dict[Path, Scores] = {}
    for run in sorted(runs, key=lambda run: (run.seed, str(run.folder))):
        if not run.done:
            group.problems.append(f"seed {run.seed}: unfinished ({run.folder} has no DONE).")
            continue
        try:
            rows = read_rows(run.folder / "metrics.jsonl")
            scored[run.folder] = checked_scores(run.folder, rows)
        except (UserError, OSError, UnicodeDecodeError) as error:
            group.problems.append(f"seed {run.seed}: broken. {error}")
            continue
        if run.seed in group.seeds:
            first = list(scored)[group.seeds.index(run.seed)]
            raise UserError(
                f"Seed {run.seed} of the same configuration comes twice, and would count twice: {first} and "
                f"{run.folder}. Name one of them."
            )
        group.seeds.append(run.seed)
        group.ceilings |= {row.set: row.value for row in rows if row.metric == CEILING}
    known = {run.seed for run in runs}
    group.problems += [f"seed {seed}: missing." for seed in expected if seed not in known]
    if scored:
        refuse_other_pairs(scored)
        group.problems += unlike_inputs(list(scored))
        group.summaries = summaries(list(scored.values()))
    return group


def checked_scores(folder: Path, rows: Sequence[Row]) -> Scores:
    """The scores of every set and stage that `rows` speak of. Raises UserError where a file is missing, empty, damaged,
    or of another run than metrics.jsonl: its metrics then come out differently."""
    files = RunFolder(folder, resumed=False, writes=False)
    whole = {(row.stage, row.set, row.metric): row.value for row in rows if not row.group_by and "/" not in row.set}
    if not whole:
        raise UserError(f"{files.metrics} has no results of a whole set.")
    scores: dict[tuple[str, str], list[PairScore]] = {}
    pairs: dict[str, list[tuple[str, str]]] = {}
    for stage, name in unique_pairs(rows):
        for subject in (name, f"{name}{FREE}"):
            path = files.scores(stage, subject)
            if not path.is_file():
                raise UserError(f"{path}: no such file.")
            scores[stage, subject] = read_scores(path)
            if not scores[stage, subject]:
                raise UserError(f"{path} holds no scores.")
            if pairs_of(scores[stage, subject]) != pairs.setdefault(name, pairs_of(scores[stage, subject])):
                raise UserError(f"{path} is of other pairs than the other scores of {name}.")
        for metric, values in {**pair_values(scores[stage, name]), **free_values(scores, stage, name)}.items():
            told, found = whole.get((stage, name, metric), math.nan), sum(values) / len(values)
            if not math.isclose(told, found, rel_tol=1e-9, abs_tol=1e-9):
                raise UserError(
                    f"{files.metrics} says {told:g} for {metric} of {stage} {name}, and scores/ says {found:g}: "
                    "files of two runs. Run it again."
                )
    return scores


def unique_pairs(rows: Sequence[Row]) -> list[tuple[str, str]]:
    scored = (row for row in rows if row.metric.startswith("opa/"))  # the neutral text's perplexity is no set of pairs
    return list(dict.fromkeys((row.stage, row.set) for row in scored if row.stage in STAGES and "/" not in row.set))


def free_values(scores: Scores, stage: str, name: str) -> dict[str, list[float]]:
    return {"opa/prompt_free": [float(score.margin > 0) for score in scores[stage, f"{name}{FREE}"]]}


def pairs_of(scores: Sequence[PairScore]) -> list[tuple[str, str]]:
    return [(score.id, score.user_id) for score in scores]


def refuse_other_pairs(scored: Mapping[Path, Scores]) -> None:
    (first_folder, first), *others = scored.items()
    for folder, scores in others:
        for key in {**first, **scores}:
            if pairs_of(first.get(key, ())) != pairs_of(scores.get(key, ())):
                raise UserError(
                    f"{first_folder} and {folder} were scored on different pairs of {key[1]}, so they cannot be averaged "
                    "pair by pair. (Without data.test, the seed decides who is held out: set data.test.)"
                )


def unlike_inputs(folders: Sequence[Path]) -> list[str]:
    """What went into the runs (environment.json's hashes of data, base model and prompt) where it was not the same."""
    hashes: dict[str, set[str]] = defaultdict(set)
    for folder in folders:
        try:
            known = from_json((folder / "environment.json").read_text(encoding="utf-8"))["hashes"]
        except (OSError, ValueError, KeyError, TypeError):
            return [f"{folder / 'environment.json'} cannot be read: nobody checked that the runs had the same inputs."]
        for name, value in known.items():
            hashes[name].add(str(value))
    return [
        f"{name} was not the same in all runs: its hashes differ." for name, seen in hashes.items() if len(seen) > 1
    ]


def summaries(runs: Sequence[Scores]) -> list[Summary]:
    """Every metric of every set, of base, tuned and their difference, over runs on the same pairs in the same order."""
    found: list[Summary] = []
    for name in unique(name for _, name in runs[0] if not name.endswith(FREE)):
        values = {stage: [values_of(run, stage, name) for run in runs] for stage in STAGES if (stage, name) in runs[0]}
        if len(values) == len(STAGES):
            values["lift"] = [lifts(base, tuned) for base, tuned in zip(values["base"], values["tuned"], strict=True)]
        users = users_of(next(scores for (_, known), scores in runs[0].items() if known == name))
        for metric in unique(metric for by_seed in values.values() for metric in by_seed[0]):
            for stage, by_seed in values.items():
                if metric in by_seed[0]:
                    kind = kind_of(f"{metric}{LIFT}" if stage == "lift" else metric)
                    estimate = over_seeds([one[metric] for one in by_seed], users, kind)
                    found.append(Summary(name, metric, stage, estimate))
    return found


def values_of(run: Scores, stage: str, name: str) -> dict[str, list[float]]:
    values = {**pair_values(run[stage, name]), **free_values(run, stage, name)}
    if stage == "tuned" and ("base", name) in run:
        values["opa/chosen_shift"] = chosen_shifts(run["tuned", name], run["base", name])
    return values


def lifts(base: Mapping[str, Sequence[float]], tuned: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {metric: [now - before for before, now in zip(base[metric], tuned[metric], strict=True)] for metric in base}
