"""Check every pair of a file: by its texts, and by a judge where there is one.

What is found is a reason to look, in `findings.jsonl` of a folder; the records stay as they are.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from mvp_align import __version__
from mvp_align.construction.pair_checks import PairFinding, text_findings
from mvp_align.construction.pair_judging import PairQuestion, check_prompt_sha256, pair_question
from mvp_align.construction.pair_records import PairRecord, read_records
from mvp_align.construction.tally import Tally
from mvp_align.data.readers import ColumnNames
from mvp_align.errors import UserError
from mvp_align.generation.asking import RunStats, ask_models
from mvp_align.generation.completion import Completion, Unparsed
from mvp_align.generation.cost import confirm_cost, estimate, tokens_by_bytes, usage_summary
from mvp_align.generation.reply_store import open_store
from mvp_align.judging.judges import Judge
from mvp_align.runtime.json_files import read_json_lines, write_json, write_json_lines

FINDINGS, VERIFIED = "findings.jsonl", "verify.json"
TEXT_CHECKS = ("answer", "alike", "repeated", "length", "language", "person")
JUDGED_CHECKS = ("contrast", "unsafe")
"""Checks that only a judge makes; it also gives findings of answer, language and person."""
WITHOUT_JUDGE = (
    "Not checked without --judge: whether the answers answer the question, whether they differ in"
    " what the person stated, whether one is unsafe."
)
BY_JUDGE = (
    "contrast and unsafe are the judge's word alone, which is no safety review: it misses harm that"
    " it does not know as such."
)


@dataclass
class JudgedPairs:
    """What a judge found, by the pair's id, and the pairs without a verdict."""

    findings: dict[str, list[PairFinding]]
    unjudged: dict[str, str]


def verify_records(
    source: str,
    format: str,
    out: Path,
    judge: Judge | None,
    columns: ColumnNames | None = None,
    *,
    limit_usd: float,
    yes: bool,
) -> list[str]:
    """Check all pairs, and write what was found to `out`. Return the counts as lines to print.

    Raises UserError for records that cannot be read, or where a judge gave no verdict at all, and
    Preempted if the process is asked to stop; every reply so far is kept in `out`.
    """
    read, records = read_records(source, format, columns)
    found = text_findings(read, records)
    judged = JudgedPairs({}, {})
    if judge is not None:
        judged = judge_pairs(records, judge, out, limit_usd=limit_usd, yes=yes)
    rows = [
        {
            "id": one.pair.id,
            "record_sha256": one.sha256,
            "findings": [asdict(f) for f in (*texts, *judged.findings.get(one.pair.id, ()))],
            "judged": one.pair.id in judged.findings,
        }
        for one, texts in zip(records, found, strict=True)
    ]
    write_json_lines(out / FINDINGS, rows)
    counts = _counts(rows, judged=judge is not None)
    flagged = sum(bool(row["findings"]) for row in rows)
    left_out = Tally()
    for name, reason in judged.unjudged.items():
        left_out.add(reason, name)
    write_json(
        out / VERIFIED,
        {
            "made_by": f"mvp-align {__version__}",
            "source": source,
            "format": read.format,
            "records_sha256": read.sha256,
            "pairs": len(records),
            "with_findings": flagged,
            "pairs_by_check": counts,
            "judge": judge and {
                "name": judge.name,
                "model": judge.endpoint.model,
                "prompt_sha256": check_prompt_sha256(),
                "judged": len(judged.findings),
                "not_judged": left_out.rows(),
            },
        },
    )  # fmt: skip
    lines = [f"{source}: {len(records):,} pairs, {flagged:,} with findings"]
    lines += [f"  {check:9} {count:,}" for check, count in counts.items()]
    if judge is None:
        lines.append(WITHOUT_JUDGE)
    else:
        lines.append(f"{judge.name} judged {len(judged.findings):,} of {len(records):,} pairs")
        lines += [f"  {row['count']:,} not judged: {row['reason']}" for row in left_out.rows()]
        lines.append(BY_JUDGE)
    return [*lines, f"{out / FINDINGS}: what was found, pair by pair"]


def _counts(rows: Sequence[Mapping[str, Any]], *, judged: bool) -> dict[str, int]:
    """Return how many pairs each check that was made holds something against."""
    found = Counter(check for row in rows for check in {f["check"] for f in row["findings"]})
    return {check: found[check] for check in (*TEXT_CHECKS, *(JUDGED_CHECKS if judged else ()))}


def judge_pairs(
    records: Sequence[PairRecord], judge: Judge, out: Path, *, limit_usd: float, yes: bool
) -> JudgedPairs:
    """Have the judge look at each pair that states preferences. Raises as `verify_records`."""
    questions: dict[str, PairQuestion] = {}
    result = JudgedPairs({}, {})
    for one in records:
        try:
            questions[one.pair.id] = pair_question(one.pair, judge)
        except Unparsed as problem:
            result.unjudged[one.pair.id] = str(problem)
    keys = {name: one.request.key(judge.endpoint.model) for name, one in questions.items()}
    requests = {keys[name]: one.request for name, one in questions.items()}
    longest = judge.longest("scores")
    with open_store(out / "replies.sqlite") as store:
        known = store.known(requests)
        cost = estimate(judge, longest, requests, known, tokens_by_bytes)
        confirm_cost([cost], limit_usd, yes=yes, task="Judging")
        missing = {key: request for key, request in requests.items() if key not in known}
        asked = RunStats()
        if missing:
            judge.endpoint.key()  # report a missing key before any request is sent
            (asked,) = ask_models([(judge, missing)], store, {judge.name} if known else set())
            known |= store.known(missing)
    typer.echo(usage_summary(judge, asked))
    if asked.given_up:
        raise UserError(
            f"{judge.name} was not asked any further: {asked.given_up.rstrip('.')}. All replies are"
            " kept: see to the server, then run the same command again."
        )
    for name, question in questions.items():
        _take_reply(result, name, question, known.get(keys[name]), asked, keys[name], longest)
    if not result.findings:
        reasons = "; ".join(sorted(set(result.unjudged.values())))
        raise UserError(f"{judge.name} gave no verdict on any pair: {reasons}.")
    return result


def _take_reply(
    result: JudgedPairs,
    name: str,
    question: PairQuestion,
    reply: Completion | None,
    asked: RunStats,
    key: str,
    longest: int | None,
) -> None:
    if reply is None:
        result.unjudged[name] = f"no reply: {asked.unanswered.get(key, 'not asked')}"
        return
    try:
        result.findings[name] = question.findings(reply.whole_text(longest))
    except Unparsed as problem:
        result.unjudged[name] = str(problem)


def read_findings(out: Path, records: Sequence[PairRecord]) -> dict[str, list[str]]:
    """Return what `out` holds of these very records, by id; of changed records there is nothing.

    Raises UserError if the file is damaged.
    """
    if not (out / FINDINGS).is_file():
        return {}
    rows = read_json_lines(
        out / FINDINGS,
        lambda row: (row["id"], row["record_sha256"], [f["found"] for f in row["findings"]]),
        what="finding",
        remedy="`mvp-align data verify` writes it again.",
    )
    same = {one.pair.id: one.sha256 for one in records}
    return {name: found for name, sha256, found in rows if same.get(name) == sha256}
