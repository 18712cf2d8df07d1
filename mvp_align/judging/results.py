"""Labels, metric rows and printed lines from a run's judgements.

    labels/<stage>-<set>-<rules>.jsonl   id, user_id, label (W, L, TIE or null), unscored (why null)
    values/<stage>-<set>.jsonl           id, user_id, values {metric: 1.0 for W, 0.0 for others,
                                         null without a label}

PAA rows in `metrics.jsonl` are replaced and all others kept. `notes.json` records for the report
who judged the answers and what was left out.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from mvp_align.errors import UserError
from mvp_align.judging.answer_sets import AnswerSet
from mvp_align.judging.labels import Label, Rules, judge_label, over_thresholds, panel_labels
from mvp_align.judging.verdicts import Judgement, Scores, Verdict, judgement_file, read_judgements
from mvp_align.metrics.agreement import kappas, label_alpha, score_alpha
from mvp_align.metrics.intervals import Estimate
from mvp_align.metrics.labelled import GRID, PAA, PRESET, Labelled
from mvp_align.metrics.names import base_metric
from mvp_align.metrics.paa import labelled_mean, paa_lift, paa_rows
from mvp_align.metrics.rows import Row, read_rows, row, write_rows
from mvp_align.runs.pair_files import PairValues, keep_values
from mvp_align.runtime.json_files import from_json, read_json_lines, write_json, write_json_lines

Panels = list[list[Verdict | None]]
"""For each answer, each judge's verdict."""


def write_results(
    run: Path, sets: Sequence[AnswerSet], files: Sequence[str], rules: Rules, metric: str
) -> list[Labelled]:
    """Label the judges' verdicts by `rules`, and write and print labels, rows and notes.

    `files` are the judges' parts of file names. Returns all answers. Raises UserError if a file is
    missing or covers other answers.
    """
    judges = [name.partition("-")[0] for name in files]
    rows: list[Row] = []
    notes: list[str] = []
    labelled: dict[tuple[str, str], list[Labelled]] = {}
    for subject in sets:
        judgements = [_read_judged(run, subject, judge) for judge in files]
        panels: Panels = [
            [one.verdict for one in answer] for answer in zip(*judgements, strict=True)
        ]
        answers = _labels_of(judgements, panel_labels(panels, rules), judges)
        labelled[subject.stage, subject.set] = answers
        _write_labels(
            run / "labels" / f"{subject.stage}-{subject.set}-{metric.removeprefix('paa/')}.jsonl",
            answers,
        )
        keep_values(
            run / "values" / f"{subject.stage}-{subject.set}.jsonl",
            [metric],
            map(_won(metric), answers),
        )
        rows += _set_rows(subject, answers, metric)
        rows += _agreement_rows(subject, panels, judges, rules, metric)
        if rules.ask == "scores":
            rows += _grid_rows(subject, answers, panels, rules, metric)
        base = labelled.get(("base", subject.set))
        if subject.stage != "base" and base is not None and (lift := paa_lift(base, answers)):
            rows.append(row(subject.stage, subject.set, f"{metric}_lift", lift))
        notes += [
            *_notes_of(subject, judges, judgements, answers, metric),
            *_kappa_notes(subject, panels, judges, rules, metric),
        ]
    _replace_metric(run / "metrics.jsonl", rows, metric)
    replace_notes(run / "notes.json", notes, f"{metric}, ")
    _show(rows, notes, metric)
    return [one for answers in labelled.values() for one in answers]


def _read_judged(run: Path, subject: AnswerSet, judge: str) -> list[Judgement]:
    """Read a judge's file. Raises UserError if it covers other answers than `subject`."""
    path = judgement_file(run, subject.stage, subject.set, judge)
    judgements = read_judgements(path)
    if [one.id for one in judgements] != [case.pair.id for case in subject.cases]:
        raise UserError(
            f"{path} is about other answers than those in answers/: judge again (replies are kept)."
        )
    return judgements


def _labels_of(
    judgements: Sequence[Sequence[Judgement]], labels: Sequence[Label | None], judges: Sequence[str]
) -> list[Labelled]:
    answers = []
    for label, by_judge in zip(labels, zip(*judgements, strict=True), strict=True):
        missing = [
            f"{judge}: {one.unscored}"
            for judge, one in zip(judges, by_judge, strict=True)
            if one.verdict is None
        ]
        answers.append(Labelled(by_judge[0].id, by_judge[0].user_id, label, "; ".join(missing)))
    return answers


def _write_labels(path: Path, answers: Sequence[Labelled]) -> None:
    path.parent.mkdir(exist_ok=True)
    write_json_lines(path, map(asdict, answers))


def read_labels(path: Path) -> list[Labelled]:
    """A file of `labels/`, in its order. Raises UserError naming the line that is no label."""
    return read_json_lines(
        path,
        _label_of,
        what="label of an answer",
        remedy="Run mvp-align judge RUN --relabel: nobody is asked.",
    )


def _label_of(line: Any) -> Labelled:
    found = Labelled(**line)
    if found.label not in ("W", "L", "TIE", None):
        raise ValueError(f"field 'label': {found.label!r} is none of W, L, TIE and null")
    return found


def _set_rows(subject: AnswerSet, answers: Sequence[Labelled], metric: str) -> list[Row]:
    """Return PAA of the set and its groups, and of each UF-P-4 user type as its own set."""
    rows = paa_rows(subject.stage, subject.set, metric, answers, subject.groups, subject.min_users)
    types: Mapping[str, str | None] = {
        name: tags.get("user_type") for name, tags in subject.groups.items()
    }
    for user_type in sorted({name for name in types.values() if name is not None}):
        part = [one for one in answers if types[one.id] == user_type]
        rows += paa_rows(
            subject.stage, f"{subject.set}/{user_type}", metric, part, {}, subject.min_users
        )
    return rows


def _won(metric: str) -> Callable[[Labelled], PairValues]:
    """Return a function that maps an answer to 1 if its label is W, and 0 for another label."""

    def values(one: Labelled) -> PairValues:
        return PairValues(
            one.id, one.user_id, {} if one.label is None else {metric: PAA.of([one])[0]}
        )

    return values


def _labels_by_judge(
    panels: Panels, judges: Sequence[str], rules: Rules
) -> dict[str, list[Label | None]]:
    return {
        judge: [
            None if (said := panel[place]) is None else judge_label(said, rules) for panel in panels
        ]
        for place, judge in enumerate(judges)
    }


def _agreement_rows(
    subject: AnswerSet, panels: Panels, judges: Sequence[str], rules: Rules, metric: str
) -> list[Row]:
    """Return Krippendorff's alpha of several judges.

    It is computed on their labels (L < TIE < W), and on their scores of the model's answer.
    """
    if len(judges) < 2:
        return []
    alphas = {
        "alpha": label_alpha(_labels_by_judge(panels, judges, rules), order=("L", "TIE", "W"))
    }
    if rules.ask == "scores":
        scores = {
            judge: [
                found.model if isinstance(found := panel[place], Scores) else None
                for panel in panels
            ]
            for place, judge in enumerate(judges)
        }
        alphas["alpha_scores"] = score_alpha(scores)
    users = len({case.pair.user_id for case in subject.cases})
    return [
        row(
            subject.stage,
            subject.set,
            f"{metric}/{name}",
            Estimate(alpha, None, None, len(panels), users),
        )
        for name, alpha in alphas.items()
        if alpha is not None
    ]


def _kappa_notes(
    subject: AnswerSet, panels: Panels, judges: Sequence[str], rules: Rules, metric: str
) -> list[str]:
    """Describe Cohen's kappa of each two judges' labels."""
    return [
        f"{metric}, {subject.stage} {subject.set}: {' and '.join(found.judges)} agree on"
        f" {found.agreement:.1%} of {found.items:,} answers, kappa"
        f" {'undefined' if found.kappa is None else f'{found.kappa:.2f}'}."
        for found in kappas(_labels_by_judge(panels, judges, rules))
        if found.agreement is not None
    ]


def _grid_rows(
    subject: AnswerSet, answers: Sequence[Labelled], panels: Panels, rules: Rules, metric: str
) -> list[Row]:
    """Return PAA by thresholds, as groups `10,0` to `30,10` of `win_over_l,win_within_w`."""
    rows = []
    for (over_l, within_w), labels in over_thresholds(panels, rules).items():
        relabelled = [
            Labelled(one.id, one.user_id, label)
            for one, label in zip(answers, labels, strict=True)
            if label is not None
        ]
        if found := labelled_mean(PAA, relabelled):
            group = ("win_over_l,win_within_w", f"{over_l:g},{within_w:g}")
            rows.append(
                row(subject.stage, subject.set, GRID.name.replace(PRESET, metric), found, *group)
            )
    return rows


def _notes_of(
    subject: AnswerSet,
    judges: Sequence[str],
    judgements: Sequence[Sequence[Judgement]],
    answers: Sequence[Labelled],
    metric: str,
) -> list[str]:
    """Describe who judged, and what the numbers leave out and why."""
    start = f"{metric}, {subject.stage} {subject.set}"
    cut = f"; {subject.cut:,} of the answers were cut at the token limit" if subject.cut else ""
    labelled, total = sum(one.label is not None for one in answers), len(answers)
    share_judged = f"{labelled:,} of {total:,}" if labelled < total else f"{total:,}"
    notes = [f"{start}: {share_judged} answers judged by {', '.join(judges)}{cut}."]
    for judge, judged in zip(judges, judgements, strict=True):
        counted = Counter(one.unscored for one in judged if one.verdict is None)
        if counted:
            reasons = ", ".join(
                f"{number:,} ({reason})" for reason, number in counted.most_common()
            )
            notes.append(f"{start}: {counted.total():,} unscored by {judge}: {reasons}.")
    return notes


def _replace_metric(path: Path, rows: Sequence[Row], metric: str) -> None:
    """Replace all rows of `metric`, its parts, and what was derived from either.

    Raises UserError.
    """
    others = read_rows(path) if path.is_file() else []
    known = [(one, base_metric(one.metric)) for one in others]
    kept = [one for one, base in known if base != metric and not base.startswith(f"{metric}/")]
    write_rows(path, [*kept, *rows])


def replace_notes(path: Path, notes: Sequence[str], start: str) -> None:
    """Replace the notes that begin with `start`; what else the file holds stays. Raises
    UserError."""
    try:
        known = from_json(path.read_text("utf-8")) if path.is_file() else {"notes": []}
        kept = [note for note in known["notes"] if not note.startswith(start)]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} holds no notes of a run: delete it, and run the command again."
        ) from None
    write_json(path, known | {"notes": [*kept, *notes]})


def _show(rows: Sequence[Row], notes: Sequence[str], metric: str) -> None:
    """Print one line per set, then the notes."""
    found = {(one.stage, one.set, one.metric): one for one in rows if not one.group_by}
    for stage, set_name in dict.fromkeys((one.stage, one.set) for one in rows):
        parts = {
            name: found.get((stage, set_name, f"{metric}{name}")) for name in ("", "/loss", "/tie")
        }
        around = {
            name: found[stage, set_name, f"{metric}/{name}"] for name in ("coverage", "low", "high")
        }
        covered = around["coverage"]
        line = f"{stage} {set_name}: {metric} " + (
            _percent(parts[""]) if parts[""] else "has no label to go by"
        )
        if parts["/loss"] and parts["/tie"]:
            line += f", loss {parts['/loss'].value:.1%}, tie {parts['/tie'].value:.1%}"
        line += f"; {covered.value:.1%} of {covered.n:,} labelled"
        if covered.value < 1:
            line += (
                f", so from {around['low'].value:.1%} (all others lost) to"
                f" {around['high'].value:.1%} (all won)"
            )
        typer.echo(line)
    for note in notes:
        typer.echo(note)


def _percent(one: Row) -> str:
    interval = (
        f" [{100 * one.low:.1f}, {100 * one.high:.1f}]"
        if one.low is not None and one.high is not None
        else ""
    )
    return f"{one.value:.1%}{interval}"
