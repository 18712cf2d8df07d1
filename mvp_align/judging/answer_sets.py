"""Load a run's generated answers with the pairs that they answer.

The pairs are read again from the run's data.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mvp_align.config import Config
from mvp_align.data.load import load_data
from mvp_align.data.sets import SETS
from mvp_align.errors import UserError
from mvp_align.generation.answers import read_answers
from mvp_align.judging.prompts import JudgedAnswer
from mvp_align.metrics.groups import Tags, with_region
from mvp_align.metrics.regions import load_regions
from mvp_align.metrics.variables import tags_of
from mvp_align.schema import PreferencePair


@dataclass(frozen=True, slots=True)
class AnswerSet:
    """Answers of one stage (base, tuned, step-N) to one set, in the file's order.

    `cut` counts answers that reached the token limit.
    """

    stage: str
    set: str
    cases: list[JudgedAnswer]
    cut: int
    model: str
    """The model that generated the answers, by `answers/<stage>-<set>.json`; empty if unknown."""
    groups: Mapping[str, Tags]
    """By pair id."""
    min_users: int
    """Groups with fewer users are counted but not shown."""


def answer_sets(run: Path, config: Config) -> list[AnswerSet]:
    """Read every file of `answers/`.

    Raises UserError if there is none, or if an answer's pair is not in the run's data.
    """
    files = sorted((run / "answers").glob("*.jsonl"))
    if not files:
        raise UserError(
            f"{run / 'answers'} holds no answers to judge. Generate them first: mvp-align generate"
            f" {run}."
        )
    data = load_data(config)
    pairs = {name: {pair.id: pair for pair in found} for name, found in data.by_set.items()}
    regions = load_regions(config.evals.regions)
    return [_read_set(path, pairs, regions, config.evals.min_users) for path in files]


def _read_set(
    path: Path,
    pairs: Mapping[str, Mapping[str, PreferencePair]],
    regions: Mapping[str, str],
    min_users: int,
) -> AnswerSet:
    set_name = next((name for name in SETS if path.stem.endswith(f"-{name}")), None)
    if set_name is None:
        raise UserError(
            f"{path}: its name must end in {' or '.join(f'-{name}.jsonl' for name in SETS)}."
        )
    known, seen, cases, cut = pairs.get(set_name, {}), set(), [], 0
    for number, answer in enumerate(read_answers(path), start=1):
        if answer.id not in known:
            raise UserError(
                f"{path}, line {number}: id '{answer.id}' is no pair of {set_name} as the run's"
                " config.yaml describes it. Run the command from where the run was started, with"
                " the same data files."
            )
        if answer.id in seen:
            raise UserError(
                f"{path}, line {number}: id '{answer.id}' is there twice. Generate the answers"
                " again."
            )
        seen.add(answer.id)
        cases.append(JudgedAnswer(known[answer.id], answer.answer))
        cut += not answer.finished
    tags = with_region([tags_of(case.pair) for case in cases], regions)
    groups = {case.pair.id: tag for case, tag in zip(cases, tags, strict=True)}
    stage = path.stem.removesuffix(f"-{set_name}")
    return AnswerSet(stage, set_name, cases, cut, _model_of(path), groups, min_users)


def _model_of(path: Path) -> str:
    try:
        return str(json.loads(path.with_suffix(".json").read_text("utf-8"))["model"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
