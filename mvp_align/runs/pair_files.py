"""Files of a run with a line a pair: its scores, whose it is and what it is broken down by, its
texts, and metrics other than OPA's.

`scores/<stage>-<set>.jsonl`: sums of log-probs in nats, tokens, the margin in nats a token.
`groups/<set>.jsonl`: `{"id", "user_id", "groups": {"gender": "Female", ...}, "value_blind": 1.0}`;
the last says what the best model that ignores who is asking gets right of the pair
(`data.ceiling.majority_shares`), where people disagree at all.
`texts/<set>.jsonl`: `{"id", "user_id", "question", "profile": {"age": "...", ...}, "chosen",
"rejected"}`, so that a finished run is read without its data.
`values/<stage>-<set>.jsonl`: `{"id", "user_id", "values": {"paa/dvb_judge": 1.0, ...}}`; a metric
that is absent or null was not measured for that pair, which is then left out of the metric and
counted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from mvp_align.metrics.groups import Tags
from mvp_align.runtime.json_files import read_json_lines, write_json_lines
from mvp_align.schema import PairScore, PreferencePair, is_finite

T = TypeVar("T")

BLIND = "value_blind"

GroupLine = tuple[str, str, Tags]
"""Id of the pair, id of its user, groups."""


@dataclass(frozen=True, slots=True)
class PairValues:
    """What a pair was measured at, by metric."""

    id: str
    user_id: str
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PairTexts:
    """A pair as people read it. `question` is below what was said before it (`asked`).

    `profile` says who asks, without what the record leaves open: the fields of `schema.Profile`,
    the stated values as `preference`, and a profile in free text as `text`.
    """

    id: str
    user_id: str
    question: str
    profile: Mapping[str, str]
    chosen: str
    rejected: str


def texts_of(pair: PreferencePair) -> PairTexts:
    profile = asdict(pair.profile) if pair.profile else {}
    profile |= {"preference": pair.preference, "text": pair.profile_text}
    given = {name: text for name, text in profile.items() if text.strip()}
    return PairTexts(pair.id, pair.user_id, pair.asked, given, pair.chosen, pair.rejected)


def write_texts(path: Path, texts: Iterable[PairTexts]) -> None:
    """Raises UserError where the disk is full."""
    _write_lines(path, map(asdict, texts))


def read_texts(path: Path) -> dict[str, PairTexts]:
    """By the pair's id. Raises UserError where the file is missing, or naming the line that is of
    another shape."""
    found = _read_lines(path, _texts_of, "Restore the file, or evaluate the adapter again.")
    return {one.id: one for one in found}


def _texts_of(id: str, user_id: str, line: Mapping[str, Any]) -> PairTexts:
    texts = PairTexts(**line)
    for name in ("question", "chosen", "rejected"):
        if not isinstance(getattr(texts, name), str):
            raise TypeError(f"field '{name}': a text belongs there")
    profile = texts.profile
    if not isinstance(profile, dict) or not all(isinstance(one, str) for one in profile.values()):
        raise TypeError("field 'profile': an object of texts belongs there")
    return texts


def write_groups(
    path: Path, lines: Iterable[GroupLine], blind: Mapping[str, float] | None = None
) -> None:
    """Write whose each pair is, its groups and, where `blind` has the pair's id, `value_blind`.

    Raises UserError where the disk is full.
    """
    _write_lines(
        path,
        (
            {"id": id, "user_id": user, "groups": dict(groups)}
            | ({BLIND: blind[id]} if blind and id in blind else {})
            for id, user, groups in lines
        ),
    )


def read_blind(path: Path) -> dict[str, float]:
    """Return `value_blind` of the pairs of a groups file that have it, by id.

    Raises UserError where the file is missing, or naming the line that is of another shape.
    """
    found = _read_lines(path, _blind_of, "Restore the file, or evaluate the adapter again.")
    return {id: share for id, share in found if share is not None}


def _blind_of(id: str, user_id: str, line: Mapping[str, Any]) -> tuple[str, float | None]:
    share = line.get(BLIND)
    if share not in (None, 0, 0.5, 1):
        raise ValueError(f"field '{BLIND}': {share!r} is none of 0, 0.5 and 1")
    return id, share


def write_values(path: Path, lines: Iterable[PairValues]) -> None:
    """Raises UserError where the disk is full."""
    _write_lines(
        path, ({"id": one.id, "user_id": one.user_id, "values": dict(one.values)} for one in lines)
    )


def keep_values(path: Path, metrics: Sequence[str], measured: Iterable[PairValues]) -> None:
    """Put the values of `metrics` in place of earlier ones, beside those of other metrics; pairs
    that are not among `measured` go. Raises UserError where the disk is full, or the file is of
    another shape."""
    others = {
        one.id: {metric: value for metric, value in one.values.items() if metric not in metrics}
        for one in read_values(path)
    }
    write_values(
        path,
        (
            PairValues(one.id, one.user_id, {**others.get(one.id, {}), **one.values})
            for one in measured
        ),
    )


def _write_lines(path: Path, objects: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_lines(path, objects)


def read_groups(path: Path) -> dict[str, GroupLine]:
    """By the pair's id. Raises UserError where the file is missing, or naming the line that is of
    another shape."""
    lines = _read_lines(
        path,
        _groups_of,
        "Nobody knows without it who asked what. Evaluate the adapter again to have one: python"
        " evaluate.py adapter=RUN/adapter ...",
    )
    return {line[0]: line for line in lines}


def _groups_of(id: str, user_id: str, line: Mapping[str, Any]) -> GroupLine:
    groups = line["groups"]
    if not isinstance(groups, dict) or not all(isinstance(name, str) for name in groups.values()):
        raise TypeError("field 'groups': an object of texts belongs there")
    return id, user_id, groups


def read_values(path: Path) -> list[PairValues]:
    """In the file's order; none where there is no such file. Raises UserError naming the line that
    is of another shape."""
    if not path.is_file():
        return []
    return _read_lines(path, _values_of, "Restore the file, or delete it and judge again.")


def _values_of(id: str, user_id: str, line: Mapping[str, Any]) -> PairValues:
    values = line["values"]
    if not isinstance(values, dict):
        raise TypeError("field 'values': an object of numbers belongs there")
    known = {metric: value for metric, value in values.items() if value is not None}
    for metric, value in known.items():
        if not is_finite(value):
            raise ValueError(f"field 'values': {metric} is {value!r} where a number belongs")
    return PairValues(id, user_id, known)


def _read_lines(
    path: Path, made: Callable[[str, str, Mapping[str, Any]], T], remedy: str
) -> list[T]:
    """Objects with the texts `id` and `user_id`, each id once."""
    seen: set[str] = set()

    def parse(line: Any) -> T:
        id, user = line["id"], line["user_id"]
        if not isinstance(id, str) or not isinstance(user, str):
            raise TypeError("'id' and 'user_id' must be texts")
        if id in seen:
            raise ValueError(f"pair {id} comes twice")
        seen.add(id)
        return made(id, user, line)

    return read_json_lines(path, parse, what="line of a pair", remedy=remedy)


def write_scores(path: Path, scores: Iterable[PairScore]) -> None:
    """Raises UserError where the disk is full."""
    _write_lines(path, ({**asdict(score), "margin": score.margin} for score in scores))


def read_scores(path: Path) -> list[PairScore]:
    """A file of `scores/`, in its order. Raises UserError naming the line that is no score."""
    return read_json_lines(
        path,
        _score_of,
        what="score of a pair",
        remedy="Restore the file, or score the pairs again: an unfinished run does once the file is"
        " deleted, a finished one's adapter by python evaluate.py adapter=RUN/adapter ...",
    )


def _score_of(line: Any) -> PairScore:
    """The margin follows from the rest, and is not read."""
    del line["margin"]
    return PairScore(**line)
