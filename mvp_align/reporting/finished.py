"""Read what a finished run measured on whole sets, from metrics.jsonl and pair by pair."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvp_align.errors import UserError
from mvp_align.metrics.metric import LIFT
from mvp_align.metrics.names import VERSUS, is_derived
from mvp_align.metrics.opa import CEILING, PROMPT_FREE
from mvp_align.metrics.profile_ablation import CHOICES_PREFIX, PREFIX
from mvp_align.metrics.rows import Row, read_rows
from mvp_align.metrics.score_rows import pair_values
from mvp_align.metrics.table import BASELINES, CHANGES, SCORED, metric_named
from mvp_align.reporting.results import unique
from mvp_align.runs.pair_files import read_groups, read_scores, read_values
from mvp_align.runs.run_folder import RunFolder
from mvp_align.schema import PairScore

Scores = Mapping[tuple[str, str], Sequence[PairScore]]
"""(stage, set) -> scores; `in_domain-prompt_free` is the set without its prompts."""

MeasuredPairs = Mapping[tuple[str, str], Sequence[tuple[str, str]]]
"""(stage, set) -> (id, user) of the pairs that were scored, or of all where nothing was."""

Key = tuple[str, str, str]
"""(set, metric, stage), where the stage is `base`, `tuned` or `lift`."""

STAGES = ("base", "tuned")
LIFTED = "lift"
FREE = "-prompt_free"


@dataclass(frozen=True, slots=True)
class PairMetric:
    """Values of one metric, pair by pair, with ids and users in the same order."""

    ids: tuple[str, ...]
    users: tuple[str, ...]
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished run: its rows, of which pairs they are, and all that it kept pair by pair."""

    folder: Path
    rows: Sequence[Row]
    measured: MeasuredPairs
    pairs: Mapping[Key, PairMetric]

    def whole_set_rows(self) -> dict[Key, Row]:
        """Return the rows of whole sets: means and their lifts, without other derived metrics.

        The ceiling is excluded, because it is a property of the pairs.
        """
        whole = [
            row
            for row in self.rows
            if row.stage in STAGES and not row.group_by and "/" not in row.set
        ]
        means = {row.metric for row in whole if _is_mean(row.metric)} - {CEILING.name}
        found: dict[Key, Row] = {}
        for row in whole:
            of = row.metric.removesuffix(LIFT)
            if row.metric in means:
                found[row.set, row.metric, row.stage] = row
            elif of in means:
                found[row.set, of, LIFTED] = row
        return found


def _is_mean(metric: str) -> bool:
    """Return whether `metric` is a base metric, or what one profile adds over another."""
    if metric.startswith((PREFIX, CHOICES_PREFIX)) and VERSUS in metric:
        return metric.endswith(LIFT) and not metric.endswith(LIFT + LIFT)
    return not is_derived(metric)


def read_finished(folder: Path) -> Finished:
    """Read what a run measured.

    Raises UserError if a file is missing, empty or damaged, or if the pair files belong to another
    run than metrics.jsonl, so that recomputed metrics differ.
    """
    files = RunFolder(folder, resumed=False, writes=False)
    rows = read_rows(files.metrics)
    subjects = _subjects(rows)
    if not subjects:
        raise UserError(f"{files.metrics} has no results of a whole set.")
    scores = _read_all_scores(files, rows)
    measured = {key: pairs_of(found) for key, found in scores.items()}
    for stage, name in subjects:
        if (stage, name) not in scores and files.groups(name).is_file():
            lines = read_groups(files.groups(name)).values()
            measured[stage, name] = [(id, user) for id, user, _ in lines]
    finished = Finished(folder, rows, measured, _pair_metrics(files, scores, subjects))
    rows_by_key = finished.whole_set_rows()
    added_since = {
        *(metric.name for metric in SCORED),
        *(metric.name for metric in CHANGES),
    }.difference(row.metric for row in rows)
    for key, metric in finished.pairs.items():
        found = sum(metric.values) / len(metric.values)
        if key not in rows_by_key:
            # only `mvp-align stats` writes it, or the run is older than the metric
            fits = key[2] == LIFTED or key[1].startswith("own/") or key[1] in added_since
            if not fits:
                raise UserError(
                    f"{files.metrics} has no {key[1]} of {key[2]} {key[0]}, and the run's files"
                    " have: run it again."
                )
        elif not math.isclose(rows_by_key[key].value, found, rel_tol=1e-9, abs_tol=1e-9):
            raise UserError(
                f"{files.metrics} says {rows_by_key[key].value:g} for {key[1]} of {key[2]}"
                f" {key[0]}, and scores/ or values/ says {found:g}: files of two runs. Run it"
                " again."
            )
    return finished


def _read_all_scores(files: RunFolder, rows: Sequence[Row]) -> Scores:
    """Of every set and stage that `rows` have scores of: none where answers alone were measured."""
    names = {metric.name for metric in (*SCORED, *BASELINES)}
    subjects = _subjects([row for row in rows if row.metric in names])
    scores: dict[tuple[str, str], list[PairScore]] = {}
    pairs: dict[str, list[tuple[str, str]]] = {}
    for stage, name in subjects:
        for subject in (name, f"{name}{FREE}"):
            path = files.scores(stage, subject)
            if not path.is_file():
                raise UserError(f"{path}: no such file.")
            scores[stage, subject] = read_scores(path)
            if not scores[stage, subject]:
                raise UserError(f"{path} holds no scores.")
            if pairs_of(scores[stage, subject]) != pairs.setdefault(
                name, pairs_of(scores[stage, subject])
            ):
                raise UserError(f"{path} is of other pairs than the other scores of {name}.")
    return scores


def _subjects(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return the stages and sets that rows are about."""
    return unique(
        (row.stage, row.set) for row in rows if row.stage in STAGES and "/" not in row.set
    )


def _pair_metrics(
    files: RunFolder, scores: Scores, subjects: Sequence[tuple[str, str]]
) -> dict[Key, PairMetric]:
    """What the run's files hold pair by pair: the metrics of `scores`, those of `values/`, and
    their lifts."""
    found: dict[Key, PairMetric] = {}
    for stage, name in subjects:
        if (stage, name) in scores:
            base = scores.get(("base", name)) if stage == "tuned" else None
            values = pair_values(scores[stage, name], base)
            values[PROMPT_FREE.name] = PROMPT_FREE.of(scores[stage, f"{name}{FREE}"])
            ids, users = zip(*pairs_of(scores[stage, name]), strict=True)
            found |= {
                (name, metric, stage): PairMetric(ids, users, x) for metric, x in values.items()
            }
        lines = read_values(files.values(stage, name))
        for metric in unique(metric for line in lines for metric in line.values):
            measured = [
                (line.id, line.user_id, line.values[metric])
                for line in lines
                if metric in line.values
            ]
            ids, users, x = zip(*measured, strict=True)
            found[name, metric, stage] = PairMetric(ids, users, x)
    lifts = {}
    for (name, metric, stage), now in found.items():
        before = found.get((name, metric, "base"))
        if (
            stage == "tuned"
            and before is not None
            and before.ids == now.ids
            and metric_named(metric).lifted
        ):
            change = [x - y for x, y in zip(now.values, before.values, strict=True)]
            lifts[name, metric, LIFTED] = PairMetric(now.ids, now.users, change)
    return found | lifts


def pairs_of(scores: Sequence[PairScore]) -> list[tuple[str, str]]:
    return [(score.id, score.user_id) for score in scores]
