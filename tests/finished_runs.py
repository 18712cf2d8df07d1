"""Folders of finished runs, made by the writers of real ones from pairs and margins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mvp_align.config import Config, Data, Model, Prompt
from mvp_align.evaluation.eval_sets import EvalSet, set_rows
from mvp_align.generation.answers import Generated, answers_path, write_answers
from mvp_align.judging.answer_sets import AnswerSet
from mvp_align.judging.labels import PRESETS
from mvp_align.judging.prompts import JudgedAnswer
from mvp_align.judging.results import write_results
from mvp_align.judging.verdicts import Judgement, Scores, judgement_file, write_judgements
from mvp_align.metrics.groups import with_region
from mvp_align.metrics.regions import load_regions
from mvp_align.metrics.rows import Row, read_rows, write_rows
from mvp_align.metrics.variables import tags_of
from mvp_align.runs.pair_files import texts_of, write_groups, write_texts
from mvp_align.runs.run_folder import RunFolder, open_run
from mvp_align.schema import PairScore, PreferencePair, Profile

HOSTILE = "<script>alert(1)</script></script><img src=x onerror=alert(2)> & {{ 7*7 }}"
COUNTRIES = ("Peru", "France", "Kenya", "Japan", "India", "Chile", "Ghana", "Nepal")


@dataclass(frozen=True)
class Measured:
    """A set of a run: its pairs, and margins by stage [pairs]; nothing was scored without any."""

    pairs: Sequence[PreferencePair]
    margins: Mapping[str, Sequence[float]] = field(default_factory=dict)
    answers: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    """By stage [pairs]; None where the pair was not asked."""


def made_pairs(count: int, *, people: int = 8, countries: Sequence[str] = COUNTRIES) -> list[Any]:
    """Pairs of people who differ in country, dimension and level."""
    dimensions = ("safety", "fluency", "creativity")
    pairs = []
    for number in range(count):
        person = number % people
        country = countries[person % len(countries)]
        profile = Profile("25-34", "Female", "Student", "School", "Single", country)
        groups = {
            "dimension": dimensions[number % 3],
            "level": ("High", "Low")[number // 3 % 2],
            "birth_country": country,
            "gender": "Female",
        }
        pairs.append(
            PreferencePair(
                f"p{number}",
                f"u{person}",
                f"Question {number}: which of these is the better one?",
                f"The fitting answer to {number}.",
                f"The contradicting answer to {number}.",
                profile=profile,
                preference="High safety, Low fluency.",
                groups=groups,
            )
        )
    return pairs


def drawn_margins(count: int, seed: int = 12) -> dict[str, list[float]]:
    random = np.random.default_rng(seed)
    base = random.normal(0, 0.6, count)
    return {"base": base.tolist(), "tuned": (base + random.normal(0.3, 0.5, count)).tolist()}


def finish_run(
    folder: Path, sets: Mapping[str, Measured], *, name: str = "a run", min_users: int = 5
) -> RunFolder:
    """Write what a run of that name leaves that measured `sets`."""
    config = Config(
        recipe="lora_dpo",
        model=Model("tiny", "somewhere/tiny"),
        data=Data(name="files"),
        prompt=Prompt("paper", "{question}"),
    )
    config.run.name = name
    run = open_run(folder, config)
    rows = [row for name, one in sets.items() for row in _scored(run, name, one, min_users)]
    write_rows(run.metrics, rows)
    run.write_json(run.notes, {"notes": []})
    for name, one in sets.items():
        _answered(run, name, one)
    run.finish()
    return run


def _scored(run: RunFolder, name: str, one: Measured, min_users: int) -> list[Row]:
    tags = with_region([tags_of(pair) for pair in one.pairs], load_regions("authors"))
    groups = {pair.id: tag for pair, tag in zip(one.pairs, tags, strict=True)}
    write_groups(run.groups(name), [(pair.id, pair.user_id, groups[pair.id]) for pair in one.pairs])
    write_texts(run.texts(name), map(texts_of, one.pairs))
    subject = EvalSet(name, [], [], groups, {}, over_limit=0, merged=0)
    rows: list[Row] = []
    base: list[PairScore] | None = None
    for stage, margins in one.margins.items():
        scores = [
            PairScore(pair.id, pair.user_id, 10 * (margin - 2), -20.0, 10, 10)
            for pair, margin in zip(one.pairs, margins, strict=True)
        ]
        run.write_scores(stage, name, scores)
        run.write_scores(stage, f"{name}-prompt_free", scores)
        rows += set_rows(subject, stage, scores, scores, base, min_users=min_users)
        base = scores
    return rows


def _answered(run: RunFolder, name: str, one: Measured) -> None:
    """Answers, one judge's verdicts, and the labels of `dvb_judge`. Every third has no verdict."""
    sets = []
    for stage, answers in one.answers.items():
        asked = zip(one.pairs, answers, strict=True)
        both = [(pair, text) for pair, text in asked if text is not None]
        write_answers(
            answers_path(run.path, stage, name),
            [Generated(pair.id, pair.user_id, text, 7, finished=True) for pair, text in both],
            {"model": "tiny"},
        )
        verdicts = [
            Judgement(pair.id, pair.user_id, None, "refused")
            if number % 3 == 2
            else Judgement(
                pair.id, pair.user_id, Scores(80, 20, 85 - 60 * (number % 3), reason=text)
            )
            for number, (pair, text) in enumerate(both)
        ]
        write_judgements(judgement_file(run.path, stage, name, "judge-1"), verdicts)
        cases = [JudgedAnswer(pair, text) for pair, text in both]
        groups = {pair.id: tags_of(pair) for pair in one.pairs}
        sets.append(AnswerSet(stage, name, cases, 0, "tiny", groups, 5))
    if sets:
        write_results(run.path, sets, ["judge-1"], PRESETS["dvb_judge"], "paa/dvb_judge")
        assert read_rows(run.metrics)
