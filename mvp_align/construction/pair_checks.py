"""What a pair's texts alone say against it.

A finding is a reason to look at a pair, no verdict: thresholds are our choice. Whether an answer
answers its question, whether the two differ in what they are meant to differ in, and whether one is
unsafe cannot be seen by counting words; `pair_judging` asks a judge.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from mvp_align.construction.pair_records import PairRecord
from mvp_align.construction.people import FREE_TEXT
from mvp_align.data.ceiling import comparison
from mvp_align.data.formats.record import names_person
from mvp_align.data.histories import normalised
from mvp_align.data.near_duplicates import NEAR, text_similarity
from mvp_align.data.overlaps import PartTexts
from mvp_align.data.parts import WHOLE, DataPart
from mvp_align.data.readers import ReadPairs
from mvp_align.metrics.regions import NOT_SAID
from mvp_align.schema import PreferencePair

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

LENGTH_RATIO = 1.5
"""Characters of the longer answer by those of the shorter, above which they are not alike."""
SURE = 0.9
"""Probability from which the language of a text counts as known. Short texts seldom reach it."""
RUN_OF_WORDS = 6
"""Consecutive words of a person's own text that are no coincidence in an answer."""
NOT_PERSONAL = ("dimension", "level", "persona", "user_type")
"""Groups that say something of the pair, not of the person."""
FITTING, CONTRADICTING = "the fitting answer", "the contradicting answer"


@dataclass(frozen=True, slots=True)
class PairFinding:
    """A reason to look at a pair: the check that gives it, and what was found."""

    check: str
    found: str


def text_findings(read: ReadPairs, records: Sequence[PairRecord]) -> list[list[PairFinding]]:
    """Return what is found in each record's texts, in the records' order."""
    repeats = _repeats(read)
    return [
        [*_answer_findings(one.pair), *repeats.get(one.pair.id, ()), *_person_findings(one)]
        for one in records
    ]


def _answers(pair: PreferencePair) -> tuple[tuple[str, str], tuple[str, str]]:
    return (FITTING, pair.chosen), (CONTRADICTING, pair.rejected)


def _answer_findings(pair: PreferencePair) -> Iterator[PairFinding]:
    """Yield what is wrong with the two answers by themselves, and beside the question."""
    for which, answer in _answers(pair):
        if not any(map(str.isalnum, answer)):
            yield PairFinding("answer", f"{which} has no word")
        elif text_similarity(answer, pair.question) >= NEAR:
            yield PairFinding("answer", f"{which} repeats the question")
    alike = text_similarity(pair.chosen, pair.rejected)
    if alike >= NEAR:
        yield PairFinding("alike", f"the answers are nearly the same ({_jaccard(alike)})")
    shorter, longer = sorted((len(pair.chosen), len(pair.rejected)))
    if longer > LENGTH_RATIO * shorter:
        which = FITTING if len(pair.chosen) > len(pair.rejected) else CONTRADICTING
        yield PairFinding("length", f"{which} is {longer / shorter:.1f} times as long as the other")
    asked = language_of(pair.question)
    for which, answer in _answers(pair):
        said = language_of(answer)
        if asked and said and asked != said:
            yield PairFinding("language", f"{which} is in '{said}', the question in '{asked}'")


@cache
def language_of(text: str) -> str:
    """Return the ISO 639 code of the text's language, or "" where it is not known for SURE."""
    code, _ = _identifier().classify(text)
    return "" if code in ("und", "zxx") else str(code)


@cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=SURE)


def _repeats(read: ReadPairs) -> dict[str, list[PairFinding]]:
    """Return what repeats an earlier pair, by id: of the same person exactly, of anybody nearly."""
    whole = PartTexts(DataPart(WHOLE, read.source, read.records, read))
    compared = list(whole.first)
    ids = [pair.id for pair in whole.first.values()]
    near = {compared[here]: (ids[there], how) for here, (there, how) in whole.near.items()}
    earlier: dict[object, str] = {}
    found: dict[str, list[PairFinding]] = {}
    for pair in read.pairs:
        first = earlier.setdefault((pair.user_id, comparison(pair)), pair.id)
        if first != pair.id:
            who = ", of the same person" if names_person(pair) else ""
            found[pair.id] = [PairFinding("repeated", f"the same texts as {first}{who}")]
        elif match := near.get(comparison(pair)):
            name, how = match
            found[pair.id] = [PairFinding("repeated", f"nearly {name} ({_jaccard(how)})")]
    return found


def _jaccard(similar: float) -> str:
    return f"Jaccard similarity {similar:.2f}"


def _person_findings(record: PairRecord) -> Iterator[PairFinding]:
    """Yield what an answer says of the person that the question does not."""
    pair = record.pair
    question = normalised(pair.question)
    phrases = [phrase for phrase in _phrases(pair) if not _holds(question, phrase)]
    asked = set(_word_runs([pair.question]))
    own = [str(record.value.get(key) or "") for key in FREE_TEXT]
    runs = set(_word_runs([pair.profile_text, *own])) - asked
    for which, answer in _answers(pair):
        said = normalised(answer)
        named = [phrase for phrase in phrases if _holds(said, phrase)]
        named += [" ".join(run) for run in dict.fromkeys(_word_runs([answer])) if run in runs][:1]
        for phrase in named:
            words = f"{which} says what only the person's record does: {phrase}"
            yield PairFinding("person", words)


def _phrases(pair: PreferencePair) -> list[str]:
    """Return a person's stated preferences, country, and what else takes several words to say.

    One word such as Single or Student says too little when an answer has it.
    """
    found = [normalised(part) for part in pair.preference.strip(" .").split(",")]
    for name, value in pair.groups.items():
        said = normalised(value)
        if name not in NOT_PERSONAL and said not in NOT_SAID and ("country" in name or " " in said):
            found.append(said)
    return [phrase for phrase in dict.fromkeys(found) if phrase]


def _holds(text: str, phrase: str) -> bool:
    return phrase in text and re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text) is not None


def _word_runs(texts: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Yield every RUN_OF_WORDS consecutive words of each text, without case and punctuation."""
    for text in texts:
        words = re.findall(r"\w+", normalised(text))
        yield from (
            tuple(words[start : start + RUN_OF_WORDS])
            for start in range(len(words) - RUN_OF_WORDS + 1)
        )
