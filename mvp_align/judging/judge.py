"""`mvp-align judge`: from a run's answers to replies, verdicts, labels, and rows of metrics.jsonl.

Replies are stored before anything else happens to them. Verdicts are parsed from them again in
every run. Labels depend only on the verdict files, so `relabel` needs neither a judge nor its
replies.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import typer

from mvp_align.errors import UserError
from mvp_align.generation.asking import RunStats, ask_models
from mvp_align.generation.completion import Completion, Unparsed
from mvp_align.generation.cost import confirm_cost, estimate, token_counter, usage_summary
from mvp_align.generation.reply_store import open_store
from mvp_align.judging.answer_sets import AnswerSet, answer_sets
from mvp_align.judging.judges import SEMANTIC, Judge, read_judge
from mvp_align.judging.labels import PRESETS, check_votes
from mvp_align.judging.prompts import JudgedAnswer, Request, merge_verdicts, requests_for
from mvp_align.judging.protocol import JudgingProtocol
from mvp_align.judging.results import write_results
from mvp_align.judging.verdicts import (
    Judgement,
    Nearness,
    judgement_file,
    write_judgements,
)
from mvp_align.metrics.labelled import Labelled
from mvp_align.runs.stored_config import read_config
from mvp_align.schema import PreferencePair

DATE = re.compile(r"-(\d{4}-\d\d-\d\d|\d{4,8})$")
LIMIT_USD = 5.0
"""Maximum cost in USD without asking for confirmation."""
HINTS = {
    "max_tokens": (
        "In the judge's file, max_tokens_parameter: max_completion_tokens renames that parameter."
    ),
    "temperature": "In the judge's file, temperature: null leaves it out.",
}
"""Remedies, by a word in the server's refusal."""
CUT_HINT = (
    "For longer replies raise max_tokens (yes_no_tokens) in the judge's file: reasoning counts as"
    " well."
)


@dataclass(frozen=True, slots=True)
class Question:
    """One answer and the requests for its verdict, by key, or why it cannot be judged."""

    case: JudgedAnswer
    requests: Mapping[str, Request] = field(default_factory=dict)
    problem: str = ""


def judge_run(
    run: Path,
    judges: Sequence[Judge],
    protocol: JudgingProtocol,
    replies: Path,
    *,
    limit_usd: float,
    yes: bool,
) -> None:
    """Have all judges judge all answers of the run.

    Writes `judgements/`, `labels/` and the rows of PAA. Raises UserError, and Preempted if the
    process is asked to stop; every reply received so far is kept.
    """
    sets = answer_sets(run, read_config(run))
    _warn_of_same_model(judges, sets)
    questions = {
        judge.name: [
            [_question_of(case, judge, protocol) for case in subject.cases] for subject in sets
        ]
        for judge in judges
    }
    wanted = {
        judge.name: {
            key: request
            for part in questions[judge.name]
            for one in part
            for key, request in one.requests.items()
        }
        for judge in judges
    }
    unanswered: dict[str, str] = {}
    with open_store(replies) as store:
        known = store.known(key for requests in wanted.values() for key in requests)
        count = token_counter(run)
        confirm_cost(
            [
                estimate(one, one.longest(protocol.rules.ask), wanted[one.name], known, count)
                for one in judges
            ],
            limit_usd,
            yes=yes,
            task="Judging",
        )
        todo = [
            (
                judge,
                {key: request for key, request in wanted[judge.name].items() if key not in known},
            )
            for judge in judges
        ]
        for judge, requests in todo:
            if requests:
                judge.endpoint.key()  # report a missing key before any request is sent
        replied = {
            judge.name for judge in judges if not known.keys().isdisjoint(wanted[judge.name])
        }
        outcomes = ask_models(todo, store, replied)
        for judge, asked in zip(judges, outcomes, strict=True):
            unanswered |= asked.unanswered
            typer.echo(usage_summary(judge, asked))
        known |= store.known(key for _, requests in todo for key in requests)
    for judge in judges:
        longest = judge.longest(protocol.rules.ask)
        for subject, part in zip(sets, questions[judge.name], strict=True):
            found = [_judgement_of(question, known, unanswered, longest) for question in part]
            write_judgements(
                judgement_file(run, subject.stage, subject.set, protocol.file_name(judge.name)),
                found,
            )
    answers = write_results(
        run,
        sets,
        [protocol.file_name(judge.name) for judge in judges],
        protocol.rules,
        protocol.metric,
    )
    _check_outcome(
        {judge.name: asked for judge, asked in zip(judges, outcomes, strict=True)},
        answers,
        protocol,
    )


def _check_outcome(
    asked: Mapping[str, RunStats], answers: Sequence[Labelled], protocol: JudgingProtocol
) -> None:
    """Raise UserError if we gave up on a judge (by name), or if no answer has a label.

    The message quotes the server.
    """
    labelled = any(one.label for one in answers)
    problems = {
        name: f"was not asked any further: {one.given_up}"
        for name, one in asked.items()
        if one.given_up
    }
    if not labelled:
        silent = {name: one for name, one in asked.items() if one.words and not one.replies}
        for name, one in silent.items():
            problems.setdefault(
                name,
                f"replied to none of {len(one.unanswered):,} requests:"
                f" {'; '.join(one.words.values())}",
            )
    if problems:
        sentences = [f"{name} {problem.rstrip('.')}." for name, problem in problems.items()]
        hints = [
            hint for word, hint in HINTS.items() if any(word in sentence for sentence in sentences)
        ]
        kept = "All replies are kept: see to the server, then run the same command again."
        raise UserError(" ".join([*sentences, *hints, kept]))
    if not labelled:
        hint = f" {CUT_HINT}" * any("cut at" in one.unscored for one in answers)
        raise UserError(
            f"{protocol.metric}: not one answer has a label, for the reasons above.{hint}"
        )


def _question_of(case: JudgedAnswer, judge: Judge, protocol: JudgingProtocol) -> Question:
    try:
        requests = requests_for(
            case,
            protocol.rules.ask,
            judge.parameters(protocol.rules.ask),
            blind=protocol.blind,
            swap=protocol.swap,
        )
    except Unparsed as problem:
        return Question(case, problem=str(problem))
    return Question(case, {request.key(judge.endpoint.model): request for request in requests})


def _judgement_of(
    question: Question,
    known: Mapping[str, Completion],
    unanswered: Mapping[str, str],
    longest: int | None,
) -> Judgement:
    """Return the verdict from the replies to one question, or why there is none.

    Each reply has at most `longest` tokens.
    """
    pair, keys = question.case.pair, tuple(question.requests)
    verdicts, problem = [], question.problem
    for key, request in question.requests.items():
        completion = known.get(key)
        if completion is None:
            problem = problem or f"no reply: {unanswered.get(key, 'not asked')}"
            continue
        try:
            verdicts.append(request.parse(completion.whole_text(longest)))
        except Unparsed as error:
            problem = problem or str(error)
    kept = tuple(key for key in keys if key in known)
    if problem:
        return Judgement(pair.id, pair.user_id, None, problem, kept)
    return Judgement(pair.id, pair.user_id, merge_verdicts(verdicts), replies=kept)


def judge_semantically(run: Path, protocol: JudgingProtocol) -> None:
    """Judge the run by MiniLM similarity instead of a judge.

    This needs no network, and does not judge values.
    """
    sets = answer_sets(run, read_config(run))
    for subject in sets:
        near = nearness(
            [case.pair for case in subject.cases], [case.answer for case in subject.cases]
        )
        found = [
            Judgement(case.pair.id, case.pair.user_id, verdict)
            for case, verdict in zip(subject.cases, near, strict=True)
        ]
        write_judgements(judgement_file(run, subject.stage, subject.set, SEMANTIC), found)
    _check_outcome(
        {}, write_results(run, sets, [SEMANTIC], protocol.rules, protocol.metric), protocol
    )


def nearness(pairs: Sequence[PreferencePair], answers: Sequence[str]) -> list[Nearness]:
    """Return each answer's similarity to its pair's two references, by MiniLM."""
    from mvp_align.modeling.embedder import cosines

    texts = [answer.strip() for answer in answers]
    to_w = cosines(texts, [pair.chosen for pair in pairs])
    to_l = cosines(texts, [pair.rejected for pair in pairs])
    return [
        Nearness(*near) if text else Nearness(0.0, 0.0)
        for text, *near in zip(texts, to_w, to_l, strict=True)
    ]


def judge_answers(run: Path, judge: str) -> None:
    """Judge a run's answers as `evals.judge` asks.

    That is by one judge and the benchmark's rules, or by similarity (`semantic`).
    """
    if judge == SEMANTIC:
        judge_semantically(run, JudgingProtocol(PRESETS[SEMANTIC]))
    else:
        protocol = JudgingProtocol(PRESETS["dvb_judge"])
        judge_run(
            run,
            [read_judge(judge)],
            protocol,
            run / "replies.sqlite",
            limit_usd=LIMIT_USD,
            yes=False,
        )


def relabel(run: Path, judges: Sequence[str], protocol: JudgingProtocol) -> None:
    """Compute labels and rows by other rules from existing judgements, without any request.

    Uses the judgements of `judges`, or of all that judged by this protocol. Raises UserError if
    there are none.
    """
    sets = answer_sets(run, read_config(run))
    names = [protocol.file_name(judge) for judge in judges or _judges_of(run, sets[0], protocol)]
    check_votes(protocol.rules, len(names))
    _check_outcome({}, write_results(run, sets, names, protocol.rules, protocol.metric), protocol)


def _judges_of(run: Path, subject: AnswerSet, protocol: JudgingProtocol) -> list[str]:
    """Return who judged these answers by this protocol, according to the files.

    Names of judges contain no hyphen.
    """
    start = judgement_file(run, subject.stage, subject.set, "").stem
    names = [
        path.stem.removeprefix(start)
        for path in sorted((run / "judgements").glob(f"{start}*.jsonl"))
    ]
    judges = [
        name.partition("-")[0]
        for name in names
        if name == protocol.file_name(name.partition("-")[0])
    ]
    found = [judge for judge in judges if (judge == SEMANTIC) == (protocol.rules.ask == "nearness")]
    if not found:
        raise UserError(
            f"{run / 'judgements'}: nobody judged {subject.stage} {subject.set} in the way of"
            f" {protocol.metric} yet."
        )
    return found


def _warn_of_same_model(judges: Sequence[Judge], sets: Sequence[AnswerSet]) -> None:
    for judge in judges:
        judged = sorted(
            {subject.model for subject in sets if same_model(judge.endpoint.model, subject.model)}
        )
        for model in judged:
            typer.echo(
                f"Warning: {judge.name} judges answers of {model}, which is itself: models favour"
                " their own.",
                err=True,
            )


def same_model(one: str, other: str) -> bool:
    """Compare the last parts of two model names, ignoring a date at the end."""
    first, second = (
        DATE.sub("", name.rstrip("/").rpartition("/")[2].lower()) for name in (one, other)
    )
    return first == second != ""
