"""Run folders to compare, made by the writers of real runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mvp_align.config import Config
from mvp_align.metrics.opa import ACC, PROMPT_FREE
from mvp_align.metrics.rows import write_rows
from mvp_align.metrics.score_rows import score_rows
from mvp_align.runs.curve_points import CurvePoint, write_curves
from mvp_align.runs.lock import release
from mvp_align.runs.pair_files import PairTexts, write_groups, write_texts
from mvp_align.runs.run_folder import RunFolder, open_run
from mvp_align.schema import PairScore

Compose = Callable[..., Config]
GENDERS, LEVELS = ("Female", "Male"), ("High", "Low")


def scores_of(margins: Mapping[str, float], users: Mapping[str, str]) -> list[PairScore]:
    """Scores of answers with 10 and 20 tokens, so that sums and means differ."""
    return [
        PairScore(id, users[id], -20.0, (-2.0 - margin) * 20, 10, 20)
        for id, margin in margins.items()
    ]


def drawn_margins(seed: int, ids: Sequence[str], shift: float = 0.0) -> dict[str, float]:
    random = np.random.default_rng(seed)
    return {id: float(shift + random.normal()) for id in ids}


def users_of_ids(ids: Sequence[str], pairs: int = 4) -> dict[str, str]:
    """People with `pairs` pairs each, by the number in the id."""
    return {id: f"user{int(id.strip('p')) // pairs}" for id in ids}


def compared_run(
    compose: Compose,
    folder: Path,
    tuned: Mapping[str, float],
    *overrides: str,
    base: Mapping[str, float] | None = None,
    users: Mapping[str, str] | None = None,
    tags: Mapping[str, Mapping[str, str]] | None = None,
    questions: Mapping[str, str] | None = None,
    texts: bool = True,
    data_sha256: str = "abc",
    curves: Sequence[CurvePoint] = (),
    done: bool = True,
    set_name: str = "in_domain",
) -> Path:
    """Write a run of pairs with these margins by id, in nats a token."""
    who = users or users_of_ids(list(tuned))
    config = compose("run.name=compared", *overrides)
    config.run.dir = str(folder)
    run = open_run(folder, config)
    scores = scores_of(tuned, who)
    before = scores_of(base, who) if base else None
    for stage, found in (("tuned", scores), ("base", before)):
        if found:
            run.write_scores(stage, set_name, found)
            run.write_scores(stage, f"{set_name}-prompt_free", found)
    known = tags or {id: usual_tags(who[id], place) for place, id in enumerate(tuned)}
    write_groups(run.groups(set_name), [(id, who[id], known[id]) for id in tuned])
    if texts:
        asked = questions or {}
        write_texts(
            run.texts(set_name),
            [
                PairTexts(id, who[id], asked.get(id, f"What of {id}?"), {}, "Yes.", "No.")
                for id in tuned
            ],
        )
    groups = {id: dict(known[id]) for id in tuned}
    rows = score_rows("tuned", set_name, scores, groups, before, min_users=5)
    if before:
        rows += score_rows("base", set_name, before, groups, min_users=5)
    rows += [
        replace(row, metric=PROMPT_FREE.name)
        for row in rows
        if row.metric == ACC and not row.group_by
    ]
    write_rows(run.metrics, rows)
    hashes = {"data/test": data_sha256, "base_model": "def"}
    run.write_json(run.environment_json, {"time": "2026-11-28T20:00:00+00:00", "hashes": hashes})
    if curves:
        write_curves(run.curves, curves)
    if done:
        run.finish()
    else:
        release(folder)
    return folder


def usual_tags(user: str, place: int) -> dict[str, str]:
    return {
        "gender": GENDERS[int(user.strip("user")) % 2],
        "dimension": ("safety", "fluency")[place % 2],
        "level": LEVELS[place // 2 % 2],
    }


def files_of(folder: Path, stage: str = "tuned") -> Path:
    return RunFolder(folder, resumed=False, writes=False).scores(stage, "in_domain")
