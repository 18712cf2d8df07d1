"""What a run's folder holds of each pair of a set: margins, groups, texts, answers and verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mvp_align.errors import UserError
from mvp_align.generation.answers import Generated, answers_path, read_answers
from mvp_align.judging.results import read_labels
from mvp_align.judging.verdicts import Judgement, Nearness, Scores, YesNo, read_judgements
from mvp_align.metrics.groups import Tags
from mvp_align.metrics.labelled import Labelled
from mvp_align.runs.pair_files import PairTexts, read_groups, read_scores, read_texts
from mvp_align.runs.run_folder import RunFolder

STAGES = ("base", "tuned")


@dataclass(frozen=True, slots=True)
class StageAnswers:
    """What one stage answered to a set and what was said of it, by the pair's id."""

    answers: Mapping[str, Generated]
    labels: Mapping[str, Mapping[str, Labelled]]
    """Name of the rules -> labels."""
    judgements: Mapping[str, Mapping[str, Judgement]]
    """Judge, and how it was asked where not in the usual way (`judging.protocol`) -> verdicts."""
    unread: Sequence[str]
    """Why judges' verdicts are missing, where a file cannot be read."""


@dataclass(frozen=True, slots=True)
class SetPairs:
    """The pairs of one set, in the order of its files."""

    name: str
    ids: Sequence[str]
    users: Sequence[str]
    margins: Mapping[str, Sequence[float]]
    """Stage -> margins [pairs], nats/token. Empty where nothing was scored."""
    groups: Mapping[str, Tags]
    texts: Mapping[str, PairTexts] = field(default_factory=dict)
    """Empty where the run keeps none."""
    stages: Mapping[str, StageAnswers] = field(default_factory=dict)


def read_set_pairs(run_dir: Path, name: str, *, texts: bool) -> SetPairs | None:
    """Return the pairs of a set; None where the run keeps nothing of single ones.

    Without `texts`, what people wrote, models answered and judges said is not read. Raises
    UserError naming a file that is damaged, or whose pairs are others than those that were scored.
    """
    run = RunFolder(run_dir, resumed=False, writes=False)
    groups = read_groups(run.groups(name)) if run.groups(name).is_file() else {}
    people = {id: user for id, user, _ in groups.values()}
    margins = {}
    for stage in STAGES:
        if (path := run.scores(stage, name)).is_file():
            scores = read_scores(path)
            people = people or {score.id: score.user_id for score in scores}
            _check_same(path, {score.id: score.user_id for score in scores}, people)
            by_id = {score.id: score.margin for score in scores}
            margins[stage] = [by_id[id] for id in people]
    if not people:
        return None
    found = {}
    if texts and run.texts(name).is_file():
        found = read_texts(run.texts(name))
        _check_same(run.texts(name), {one.id: one.user_id for one in found.values()}, people)
    return SetPairs(
        name=name,
        ids=[*people],
        users=[*people.values()],
        margins=margins,
        groups={id: tags for id, _, tags in groups.values()},
        texts=found,
        stages={
            stage: _read_stage(run_dir, stage, name, texts=texts)
            for stage in STAGES
            if answers_path(run_dir, stage, name).is_file()
        },
    )


def _check_same(path: Path, found: Mapping[str, str], people: Mapping[str, str]) -> None:
    if found != people:
        other = next(id for id in (*found, *people) if found.get(id) != people.get(id))
        raise UserError(
            f"{path} is of other pairs or people than groups/ and scores/, as of pair {other}:"
            " files of two runs. Evaluate the adapter again."
        )


def _read_stage(run_dir: Path, stage: str, name: str, *, texts: bool) -> StageAnswers:
    answers = read_answers(answers_path(run_dir, stage, name)) if texts else []
    labels = {
        rules: {one.id: one for one in read_labels(path)}
        for rules, path in _files_of(run_dir / "labels", stage, name)
    }
    judgements, unread = {}, []
    for judge, path in _files_of(run_dir / "judgements", stage, name) if texts else ():
        try:
            judgements[judge] = {one.id: one for one in read_judgements(path)}
        except UserError as error:  # of an earlier version: the page must open all the same
            unread.append(str(error))
    return StageAnswers({one.id: one for one in answers}, labels, judgements, unread)


def _files_of(folder: Path, stage: str, name: str) -> list[tuple[str, Path]]:
    """Return files `<stage>-<set>-<what>.jsonl` with what they are of, in the order of names."""
    start = f"{stage}-{name}-"
    return [
        (path.stem.removeprefix(start), path) for path in sorted(folder.glob(f"{start}*.jsonl"))
    ]


def in_words(judgement: Judgement) -> str:
    """Say what a judge found of an answer, and why where it gave a reason."""
    match judgement.verdict:
        case None:
            return f"no verdict: {judgement.unscored}"
        case YesNo(yes=yes):
            return f"{'matches' if yes else 'does not match'} the fitting answer"
        case Nearness(to_w=to_w, to_l=to_l):
            return f"cosine {to_w:.2f} to the fitting answer, {to_l:.2f} to the contradicting one"
        case Scores() as scores:
            parts = [
                f"{scores.model:g} of 100; the fitting answer {scores.w:g}, the contradicting one"
                f" {scores.l:g}"
            ]
            if scores.violations:
                parts.append(f"breaks: {', '.join(scores.violations)}")
            return ". ".join([*parts, scores.reason] if scores.reason else parts)
