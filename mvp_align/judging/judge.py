"""`mvp-align judge`: answers of a run -> replies -> verdicts -> labels -> rows of `metrics.jsonl`.

Replies are kept before anything is made of them, verdicts are re-read from them at each run, and
labels are made of the verdicts' files alone, so that other rules need neither a judge nor its
replies (`relabel`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import typer

from mvp_align.errors import UserError
from mvp_align.generation.completion import Said
from mvp_align.judging.answer_sets import AnswerSet, answer_sets
from mvp_align.judging.asking import RunStats, ask
from mvp_align.judging.cost import consent, estimate, spent, token_counter
from mvp_align.judging.judges import SEMANTIC, Judge, read_judge
from mvp_align.judging.labels import PRESETS, Rules, check_votes
from mvp_align.judging.prompts import JudgedAnswer, Request, merged, requests_for
from mvp_align.judging.results import write_results
from mvp_align.judging.store import open_store
from mvp_align.judging.verdicts import (
    Judgement,
    Nearness,
    Unparsed,
    Verdict,
    judgement_file,
    write_judgements,
)
from mvp_align.metrics.labelled import Labelled
from mvp_align.runs.stored_config import read_config
from mvp_align.schema import PreferencePair

DATE = re.compile(r"-(\d{4}-\d\d-\d\d|\d{4,8})$")
LIMIT_USD = 5.0
"""Above it, somebody is asked first."""
HINTS = {
    "max_tokens": (
        "In the judge's file, max_tokens_parameter: max_completion_tokens renames that parameter."
    ),
    "temperature": "In the judge's file, temperature: null leaves it out.",
}
"""What helps, by a word of a refusal."""
CUT_HINT = (
    "For longer replies raise max_tokens (yes_no_tokens) in the judge's file: reasoning counts as"
    " well."
)


@dataclass(frozen=True, slots=True)
class JudgingProtocol:
    """How judges are asked, and what is made of what they say."""

    rules: Rules
    blind: bool = False
    swap: bool = False

    @property
    def options(self) -> str:
        return "-blind" * self.blind + "-swap" * self.swap

    @property
    def metric(self) -> str:
        """Other ways of asking measure something else, so they have names of their own."""
        return f"paa/{self.rules.name}{self.options}"

    def file_name(self, judge: str) -> str:
        """What stands for the judge in the name of its file: judgements do not depend on the rules,
        but on the question."""
        return judge + ("-yes_no" if self.rules.ask == "yes_no" else "") + self.options


@dataclass(frozen=True, slots=True)
class Question:
    """One answer and the requests that its verdict takes, by key; or why it cannot be judged."""

    case: JudgedAnswer
    requests: Mapping[str, Request] = field(default_factory=dict)
    problem: str = ""


def judge_run(
    run: Path,
    judges: Sequence[Judge],
    way: JudgingProtocol,
    replies: Path,
    *,
    limit_usd: float,
    yes: bool,
) -> None:
    """Have all answers of the run judged by all judges, and write `judgements/`, `labels/` and the
    rows of PAA.

    Raises UserError, and Preempted where the process is asked to stop; every reply that came is
    kept.
    """
    sets = answer_sets(run, read_config(run))
    _warn_of_same_model(judges, sets)
    questions = {
        judge.name: [[_question_of(case, judge, way) for case in subject.cases] for subject in sets]
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
        consent(
            [estimate(one, way.rules.ask, wanted[one.name], known, count) for one in judges],
            limit_usd,
            yes,
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
                judge.endpoint.key()  # a missing one is told before anybody is asked
        heard = {judge.name for judge in judges if not known.keys().isdisjoint(wanted[judge.name])}
        outcomes = ask(todo, store, heard)
        for judge, asked in zip(judges, outcomes, strict=True):
            unanswered |= asked.unanswered
            typer.echo(spent(judge, asked))
        known |= store.known(key for _, requests in todo for key in requests)
    for judge in judges:
        longest = judge.longest(way.rules.ask)
        for subject, part in zip(sets, questions[judge.name], strict=True):
            found = [_judgement_of(question, known, unanswered, longest) for question in part]
            write_judgements(
                judgement_file(run, subject.stage, subject.set, way.file_name(judge.name)), found
            )
    answers = write_results(
        run, sets, [way.file_name(judge.name) for judge in judges], way.rules, way.metric
    )
    _check_outcome(
        {judge.name: asked for judge, asked in zip(judges, outcomes, strict=True)}, answers, way
    )


def _check_outcome(
    asked: Mapping[str, RunStats], answers: Sequence[Labelled], way: JudgingProtocol
) -> None:
    """Raise UserError where a judge (by name) was given up, in its server's words, and where no
    answer has a label."""
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
        raise UserError(f"{way.metric}: not one answer has a label, for the reasons above.{hint}")


def _question_of(case: JudgedAnswer, judge: Judge, way: JudgingProtocol) -> Question:
    try:
        requests = requests_for(
            case,
            way.rules.ask,
            judge.parameters(way.rules.ask),
            blind=way.blind,
            swap=way.swap,
        )
    except Unparsed as problem:
        return Question(case, problem=str(problem))
    return Question(case, {request.key(judge.endpoint.model): request for request in requests})


def _judgement_of(
    question: Question,
    known: Mapping[str, Said],
    unanswered: Mapping[str, str],
    longest: int | None,
) -> Judgement:
    """The verdict in the replies to one question, each of at most `longest` tokens, or why there is
    none."""
    pair, keys = question.case.pair, tuple(question.requests)
    verdicts, problem = [], question.problem
    for key, request in question.requests.items():
        said = known.get(key)
        if said is None:
            problem = problem or f"no reply: {unanswered.get(key, 'not asked')}"
            continue
        try:
            verdicts.append(_verdict_in(said, request, longest))
        except Unparsed as error:
            problem = problem or str(error)
    kept = tuple(key for key in keys if key in known)
    if problem:
        return Judgement(pair.id, pair.user_id, None, problem, kept)
    return Judgement(pair.id, pair.user_id, merged(verdicts), replies=kept)


def _verdict_in(said: Said, request: Request, longest: int | None) -> Verdict:
    """Raises Unparsed. A reply that was cut or stopped is none even where it holds a verdict: it
    might have gone on to take it back."""
    if said.withheld:
        raise Unparsed(said.withheld)
    alone = " in its reasoning" if said.reasoned and not said.text.strip() else ""
    if said.cut:
        raise Unparsed(
            (f"cut at {longest} tokens" if longest else "cut at the server's token limit") + alone
        )
    if alone:
        raise Unparsed("nothing behind its reasoning")
    return request.parse(said.text)


def judge_semantically(run: Path, way: JudgingProtocol) -> None:
    """The same with nearness in meaning in the judge's place: no network, and no judge of values
    either."""
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
    _check_outcome({}, write_results(run, sets, [SEMANTIC], way.rules, way.metric), way)


def nearness(pairs: Sequence[PreferencePair], answers: Sequence[str]) -> list[Nearness]:
    """Of each answer to its pair's two references, by MiniLM."""
    from mvp_align.modeling.embedder import cosines

    texts = [answer.strip() for answer in answers]
    to_w = cosines(texts, [pair.chosen for pair in pairs])
    to_l = cosines(texts, [pair.rejected for pair in pairs])
    return [
        Nearness(*near) if text else Nearness(0.0, 0.0)
        for text, *near in zip(texts, to_w, to_l, strict=True)
    ]


def judge_answers(run: Path, judge: str) -> None:
    """What `evals.judge` asks for at the end of a run: by one judge and the benchmark's rules, or
    semantically."""
    if judge == SEMANTIC:
        judge_semantically(run, JudgingProtocol(PRESETS[SEMANTIC]))
    else:
        way = JudgingProtocol(PRESETS["dvb_judge"])
        judge_run(
            run, [read_judge(judge)], way, run / "replies.sqlite", limit_usd=LIMIT_USD, yes=False
        )


def relabel(run: Path, judges: Sequence[str], way: JudgingProtocol) -> None:
    """Labels and rows by other rules, from the judgements that are there (of `judges`, or of all
    that judged this way); nobody is asked anything. Raises UserError where there are none."""
    sets = answer_sets(run, read_config(run))
    names = [way.file_name(judge) for judge in judges or _judges_of(run, sets[0], way)]
    check_votes(way.rules, len(names))
    _check_outcome({}, write_results(run, sets, names, way.rules, way.metric), way)


def _judges_of(run: Path, subject: AnswerSet, way: JudgingProtocol) -> list[str]:
    """Who judged these answers in this way, going by the files. Names of judges hold no hyphen."""
    start = judgement_file(run, subject.stage, subject.set, "").stem
    names = [
        path.stem.removeprefix(start)
        for path in sorted((run / "judgements").glob(f"{start}*.jsonl"))
    ]
    judges = [
        name.partition("-")[0] for name in names if name == way.file_name(name.partition("-")[0])
    ]
    found = [judge for judge in judges if (judge == SEMANTIC) == (way.rules.ask == "nearness")]
    if not found:
        raise UserError(
            f"{run / 'judgements'}: nobody judged {subject.stage} {subject.set} in the way of"
            f" {way.metric} yet."
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
    """By the last part of the name, whoever serves it, and without the date that may end it."""
    first, second = (
        DATE.sub("", name.rstrip("/").rpartition("/")[2].lower()) for name in (one, other)
    )
    return first == second != ""


def check_protocol(way: JudgingProtocol, judges: Sequence[str]) -> None:
    """Raise UserError where these judges cannot be asked in this way."""
    if way.rules.ask != "scores" and (way.blind or way.swap):
        raise UserError(
            f"--blind and --swap are about two references; {way.rules.name} shows a judge one, or"
            " none."
        )
    if SEMANTIC in judges and len(judges) > 1:
        raise UserError(f"--judge {SEMANTIC} is no model that scores, so it judges alone.")
    if judges and (SEMANTIC in judges) != (way.rules.ask == "nearness"):
        raise UserError(
            f"--judge {SEMANTIC} and rules that go by nearness (--preset semantic) belong together."
        )
