"""One person's review: which pairs, in which order, and what the page shows and sends."""

import hashlib
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from pydantic import BaseModel, ConfigDict

from mvp_align.construction.decisions import Choice, Decision, DecisionLog, standing
from mvp_align.construction.pair_records import PairRecord, Texts
from mvp_align.schema import PreferencePair


class SentDecision(BaseModel):
    """What the page sends: the number of a pair, what was decided, and its texts if edited."""

    model_config = ConfigDict(strict=True, extra="forbid")
    number: int
    decision: Choice
    texts: list[str] | None = None


def queue(
    records: Sequence[PairRecord], findings: Mapping[str, Sequence[str]], sample: int | None
) -> list[PairRecord]:
    """Return the pairs to decide on, those with findings first.

    A `sample` is drawn by the hashes of the records, so that two people get the same one.
    """
    chosen = list(records)
    if sample is not None:
        drawn = sorted(chosen, key=lambda one: hashlib.sha256(one.sha256.encode()).digest())
        names = {one.pair.id for one in drawn[:sample]}
        chosen = [one for one in chosen if one.pair.id in names]
    return sorted(chosen, key=lambda one: not findings.get(one.pair.id))


class ReviewSession:
    """The state behind the page. Requests come in several threads."""

    def __init__(
        self, queued: Sequence[PairRecord], findings: Mapping[str, Sequence[str]], log: DecisionLog
    ) -> None:
        self.queued, self.findings, self._log = queued, findings, log
        self._standing = standing(log.decisions, queued)[0]
        self._lock = Lock()

    def overview(self) -> dict[str, Any]:
        """Return what is decided of each pair, in order, as an object for the page."""
        with self._lock:
            decided = [self._standing.get(one.pair.id) for one in self.queued]
        return {
            "reviewer": self._log.path.stem,
            "decisions": [one.decision if one else None for one in decided],
        }

    def pair(self, number: int) -> dict[str, Any]:
        """Return a pair as an object for the page. Raises ValueError if there is none."""
        record = self._record(number)
        with self._lock:
            decision = self._standing.get(record.pair.id)
        edited = decision.texts if decision else None
        return {
            "number": number,
            "id": record.pair.id,
            "person": person_lines(record.pair),
            "texts": edited or list(record.texts),
            "findings": list(self.findings.get(record.pair.id, ())),
            "decision": decision.decision if decision else None,
        }

    def decide(self, sent: object) -> dict[str, Any]:
        """Keep a decision that the page sent, and return the pair as it now stands.

        Raises ValueError if it is none, and UserError if the disk is full.
        """
        wanted = SentDecision.model_validate(sent)
        record = self._record(wanted.number)
        texts = _edited(wanted, record)
        choice: Choice = (
            "accept" if wanted.decision == "edit" and texts is None else wanted.decision
        )
        with self._lock:
            kept: Decision = self._log.add(record, choice, texts)
            if choice == "withdraw":
                self._standing.pop(record.pair.id, None)
            else:
                self._standing[record.pair.id] = kept
        return self.pair(wanted.number)

    def _record(self, number: int) -> PairRecord:
        if not 0 <= number < len(self.queued):
            raise ValueError(f"there is no pair {number}")
        return self.queued[number]


def person_lines(pair: PreferencePair) -> list[tuple[str, str]]:
    """Return what was said before the question, and of the person who asks, each with its name."""
    lines = [(f"{turn.role} before", turn.content) for turn in pair.before]
    lines += [("stated", pair.preference), ("profile", pair.profile_text)]
    lines += [(name.replace("_", " "), value) for name, value in pair.groups.items()]
    return [(name, value) for name, value in lines if value.strip()]


def _edited(sent: SentDecision, record: PairRecord) -> Texts | None:
    """Return edited texts, None if nothing was changed. Raises ValueError if they are no pair."""
    if (sent.texts is None) != (sent.decision != "edit"):
        raise ValueError("an edit, and nothing else, comes with texts")
    if sent.texts is None or tuple(sent.texts) == record.texts:
        return None
    if len(sent.texts) != 3 or not all(text.strip() for text in sent.texts):
        raise ValueError("the question and both answers must say something")
    question, fitting, contradicting = sent.texts
    if fitting.strip() == contradicting.strip():
        raise ValueError("both answers say the same")
    # half a character raises UnicodeEncodeError, which is a ValueError
    "".join(sent.texts).encode()
    return question, fitting, contradicting
