"""What comes of a review: the records that were accepted, and how far reviewers agree."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mvp_align import __version__
from mvp_align.construction.decisions import Decision, read_decisions, standing
from mvp_align.construction.pair_records import PairRecord, Texts
from mvp_align.data.formats import FORMATS
from mvp_align.data.readers import ReadPairs
from mvp_align.errors import UserError
from mvp_align.metrics.agreement import kappas, label_alpha
from mvp_align.runtime.json_files import write_json, write_json_lines

REVIEWED, REVIEW = "reviewed.jsonl", "review.json"


def write_reviewed(read: ReadPairs, records: Sequence[PairRecord], out: Path) -> list[str]:
    """Write the records on which all who decided agree to `reviewed.jsonl`, and counts beside it.

    Return the counts as lines to print. A record stays as it is but for edited texts and
    `provenance.review`, which has the decisions. Where nothing was accepted there is no
    `reviewed.jsonl`. Raises UserError where it would replace the source.
    """
    source, target = read.source, out / REVIEWED
    if Path(source).exists() and target.exists() and target.samefile(source):
        raise UserError(f"{source}: reviewed records would replace it: name another --out.")
    decided, stale = _decided(out, records)
    kept, fate = [], Counter[str]()
    for record in records:
        own = [found[record.pair.id] for found in decided.values() if record.pair.id in found]
        outcomes = {one.outcome(record) for one in own}
        if not own:
            fate["undecided"] += 1
        elif len(outcomes) > 1:
            fate["reviewers differ"] += 1
        elif (texts := outcomes.pop()) is None:
            fate["rejected"] += 1
        else:
            fate["kept as edited" if texts != record.texts else "kept as they are"] += 1
            kept.append(_reviewed(record, texts, own, FORMATS[read.format].texts))
    if kept:
        write_json_lines(target, kept)
    else:
        target.unlink(missing_ok=True)
    agreement = _agreement(decided)
    write_json(
        out / REVIEW,
        {
            "made_by": f"mvp-align {__version__}",
            "source": source,
            "format": read.format,
            "pairs": len(records),
            **fate,
            "decisions_about_other_records": stale,
            "reviewers": {name: _choices(found) for name, found in decided.items()},
            "agreement": agreement,
        },
    )
    lines = [f"{source}: {len(records):,} pairs"]
    lines += [f"  {count:,} {what}" for what, count in fate.items()]
    if stale:
        lines.append(f"  {stale:,} decisions are about records that are not there or were changed")
    lines += _reviewer_lines(decided, agreement)
    return [*lines, f"{target}: {len(kept):,} records" if kept else "No pair was accepted yet."]


def _decided(
    out: Path, records: Sequence[PairRecord]
) -> tuple[dict[str, dict[str, Decision]], int]:
    """Return each person's standing decisions, by id, and how many are about other records."""
    found = {name: standing(own, records) for name, own in read_decisions(out).items()}
    return (
        {name: kept for name, (kept, _) in found.items() if kept},
        sum(stale for _, stale in found.values()),
    )


def _reviewed(
    record: PairRecord, texts: Texts, decisions: Sequence[Decision], keys: Sequence[str]
) -> dict[str, Any]:
    given = record.value.get("provenance")
    earlier = given if isinstance(given, dict) else {"given": given} if given else {}
    review: dict[str, Any] = {
        "record_sha256": record.sha256,
        "decisions": [one.model_dump(include={"reviewer", "decision", "at"}) for one in decisions],
    }
    before = dict(zip(keys, record.texts, strict=True))
    after = dict(zip(keys, texts, strict=True))
    if changed := {key: text for key, text in before.items() if after[key] != text}:
        review["before"] = changed
    return {**record.value, **after, "provenance": {**earlier, "review": review}}


def _choices(found: Mapping[str, Decision]) -> dict[str, int]:
    counts = Counter(one.decision for one in found.values())
    return {choice: counts[choice] for choice in ("accept", "edit", "reject")}


def _agreement(decided: Mapping[str, Mapping[str, Decision]]) -> dict[str, Any] | None:
    """Return Krippendorff's alpha and each two reviewers' kappa of accept, edit and reject."""
    if len(decided) < 2:
        return None
    ids = sorted({name for found in decided.values() for name in found})
    labels = {
        who: [found[name].decision if name in found else None for name in ids]
        for who, found in decided.items()
    }
    shared = sum(sum(name in found for found in decided.values()) > 1 for name in ids)
    return {
        "pairs_of_several": shared,
        "alpha": label_alpha(labels),
        "by_two": [asdict(one) for one in kappas(labels)],
    }


def _reviewer_lines(
    decided: Mapping[str, Mapping[str, Decision]], agreement: Mapping[str, Any] | None
) -> list[str]:
    lines = []
    for name, found in decided.items():
        counts = ", ".join(f"{choice} {count:,}" for choice, count in _choices(found).items())
        lines.append(f"{name}: {counts}")
    if agreement is None:
        return lines
    lines.append(
        f"agreement on {agreement['pairs_of_several']:,} pairs that several decided:"
        f" Krippendorff's alpha {_shown(agreement['alpha'])}"
    )
    for two in agreement["by_two"]:
        lines.append(
            f"  {' and '.join(two['judges'])}: the same in {_shown(two['agreement'])} of"
            f" {two['items']:,}, Cohen's kappa {_shown(two['kappa'])}"
        )
    return lines


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
