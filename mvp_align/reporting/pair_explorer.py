"""The table of pairs in a run's page: numbers of all, and the texts of those worth reading first.

The page holds one JSON object of columns, which `pairs.js` shows:

    sets, set        titles, and the set of each pair as an index of it
    ids, users       of each pair
    stages, margins  stages that were scored; stage -> margins in nats/token, null where not scored
    columns          {"name", "groups", "of"}: what pairs are broken down by, and the group of each
                     pair as an index of `groups`, -1 where it has none
    texts            place of the pair -> question, profile, chosen, rejected, answers
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from mvp_align.metrics.variables import VARIABLES
from mvp_align.reporting.run_pairs import STAGES, SetPairs, in_words, read_set_pairs

MOST_TEXTS = 1_000
TEXT_BYTES = 2_500_000
"""Bytes of JSON that the texts in the page may have, so that it can be mailed."""
WORST = 10
"""Rows of the table for print, and for readers without JavaScript."""
EXCERPT = 280
PERSONAL = ("level", "user_type", "region", "birth_country")
"""Columns that say something of a person; `dimension` is of the question."""
LABEL_NAMES = {"W": "won", "TIE": "tied", "L": "lost", None: "no label"}

_compact = partial(json.dumps, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class PrintedPair:
    """A row of the table that needs no JavaScript. Margins are in nats/token."""

    id: str
    set: str
    excerpt: str
    margins: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class PairExplorer:
    """The pairs of a run as its page shows them."""

    stages: Sequence[str]
    coverage: str
    """Of how many pairs the texts are there, and where the others are."""
    notes: Sequence[str]
    worst: Sequence[PrintedPair]
    data: Markup
    """JSON that stands safely in a script element."""


def explore_pairs(
    run_dir: Path, titles: Mapping[str, str], *, texts: bool = True
) -> PairExplorer | None:
    """Return the pairs of the sets in `titles` (name -> title); None where the run keeps none.

    Without `texts` there are ids and numbers alone: no word of a person, and nothing that says who
    they are. Raises UserError naming a damaged file.
    """
    found = (read_set_pairs(run_dir, name, texts=texts) for name in titles)
    sets = [one for one in found if one is not None]
    if not sets:
        return None
    places = [(number, place) for number, one in enumerate(sets) for place in range(len(one.ids))]
    shown = _texts_in_page(sets, places)
    stages = [stage for stage in STAGES if any(stage in one.margins for one in sets)]
    data = {
        "sets": [titles[one.name] for one in sets],
        "set": [number for number, _ in places],
        "ids": list(chain.from_iterable(one.ids for one in sets)),
        "users": list(chain.from_iterable(one.users for one in sets)),
        "stages": stages,
        "margins": {stage: _margins(sets, stage) for stage in stages},
        "columns": [*_group_columns(sets, texts=texts), *_label_columns(sets)],
        "texts": shown,
    }
    return PairExplorer(
        stages,
        _coverage(sets, len(shown), len(places), texts=texts),
        [
            f"Some judges’ reasons are not shown: {why}"
            for one in sets
            for answered in one.stages.values()
            for why in answered.unread
        ],
        [_printed(sets[number], place, titles, stages) for number, place in _worst(sets)],
        htmlsafe_json_dumps(data, dumps=_compact),
    )


def _margins(sets: Sequence[SetPairs], stage: str) -> list[float | None]:
    """Five digits, which keep the sign: a pair is right where its margin is above 0."""
    found: list[float | None] = []
    for one in sets:
        scored = one.margins.get(stage)
        found += [float(f"{x:.5g}") for x in scored] if scored else [None] * len(one.ids)
    return found


def _group_columns(sets: Sequence[SetPairs], *, texts: bool) -> Iterator[dict[str, Any]]:
    for variable in VARIABLES:
        if variable.name == "dimension" or (texts and variable.name in PERSONAL):
            name = variable.name
            yield from _column(
                variable.label,
                [one.groups.get(id, {}).get(name) for one in sets for id in one.ids],
            )


def _label_columns(sets: Sequence[SetPairs]) -> Iterator[dict[str, Any]]:
    """A column for each stage's answers and rules."""
    keys = {
        (stage, rules): None
        for one in sets
        for stage, answered in one.stages.items()
        for rules in answered.labels
    }
    for stage, rules in keys:
        said = []
        for one in sets:
            labels = one.stages[stage].labels.get(rules, {}) if stage in one.stages else {}
            said += [LABEL_NAMES[labels[id].label] if id in labels else None for id in one.ids]
        yield from _column(f"{stage} answer, paa/{rules}", said)


def _column(name: str, of: Sequence[str | None]) -> Iterator[dict[str, Any]]:
    groups = sorted({group for group in of if group is not None})
    numbers = {group: number for number, group in enumerate(groups)}
    if groups:
        yield {
            "name": name,
            "groups": groups,
            "of": [-1 if group is None else numbers[group] for group in of],
        }


def _reading_order(sets: Sequence[SetPairs]) -> list[tuple[int, int]]:
    """Set and place of each pair, those worth reading first: the `_orders` of all sets in turns."""
    orders = [
        [(number, place) for place in order]
        for number, one in enumerate(sets)
        for order in _orders(one)
    ]
    in_turns = chain.from_iterable(zip_longest(*orders))
    return list(dict.fromkeys(where for where in in_turns if where is not None))


def _orders(one: SetPairs) -> Iterator[list[int]]:
    """Places by the lowest margin, by the highest, by how far it moved, and by the hash of the id,
    which begins with the same pairs in every run on the set; pairs that were answered first."""
    places = range(len(one.ids))
    if last := _last_margins(one):
        yield sorted(places, key=last.__getitem__)
        yield sorted(places, key=last.__getitem__, reverse=True)
    if one.margins.keys() == {*STAGES}:
        both = zip(one.margins["base"], one.margins["tuned"], strict=True)
        moved = [abs(tuned - base) for base, tuned in both]
        yield sorted(places, key=moved.__getitem__, reverse=True)
    answered = {id for stage in one.stages.values() for id in stage.answers}
    hashes = [(id not in answered, sha256(id.encode()).digest()) for id in one.ids]
    yield sorted(places, key=hashes.__getitem__)


def _last_margins(one: SetPairs) -> Sequence[float]:
    return one.margins.get("tuned") or one.margins.get("base") or ()


def _texts_in_page(
    sets: Sequence[SetPairs], places: Sequence[tuple[int, int]]
) -> dict[int, dict[str, Any]]:
    """Return the texts of at most MOST_TEXTS pairs and TEXT_BYTES, by the pair's place in the page.

    A pair that no longer fits is passed over for shorter ones.
    """
    at = {where: place for place, where in enumerate(places)}
    shown: dict[int, dict[str, Any]] = {}
    left = TEXT_BYTES
    for number, place in _reading_order(sets):
        one = sets[number]
        if len(shown) == MOST_TEXTS:
            break
        if one.ids[place] in one.texts:
            entry = _entry(one, one.ids[place])
            size = len(htmlsafe_json_dumps(entry, dumps=_compact).encode())
            if size <= left:
                shown[at[number, place]] = entry
                left -= size
    return dict(sorted(shown.items()))


def _entry(one: SetPairs, id: str) -> dict[str, Any]:
    texts = one.texts[id]
    names = {variable.name: variable.label for variable in VARIABLES}
    names |= {"text": "profile", "preference": "states"}
    return {
        "question": texts.question,
        "profile": [[names.get(name, name), text] for name, text in texts.profile.items()],
        "chosen": texts.chosen,
        "rejected": texts.rejected,
        "answers": [
            {
                "stage": stage,
                "answer": answered.answers[id].answer,
                "cut": not answered.answers[id].finished,
                "said": [
                    *(
                        f"{rules}: {LABEL_NAMES[labels[id].label]}"
                        for rules, labels in answered.labels.items()
                        if id in labels
                    ),
                    *(
                        f"{judge}: {in_words(judged[id])}"
                        for judge, judged in answered.judgements.items()
                        if id in judged
                    ),
                ],
            }
            for stage, answered in one.stages.items()
            if id in answered.answers
        ],
    }


def _coverage(sets: Sequence[SetPairs], shown: int, pairs: int, *, texts: bool) -> str:
    if not texts:
        return (
            f"Ids and numbers of {pairs:,} pairs. Their texts and profiles are left out of this"
            " page."
        )
    without = [one for one in sets if not one.texts]
    if len(without) == len(sets):
        return (
            f"Ids and numbers of {pairs:,} pairs. The run keeps no texts/, because an earlier"
            " version made it: evaluate its adapter again to read its pairs here."
        )
    if shown == pairs:
        return f"All {pairs:,} pairs, with their texts."
    rest = (
        f"Numbers of all {pairs:,} pairs, texts of {shown:,}: in turns the lowest margin, the"
        " highest, the largest change, and one by the hash of its id, answered ones first. The"
        " rest lies in the run’s folder, in texts/."
    )
    if without:
        rest += f" Without texts there: {', '.join(one.name for one in without)}."
    return rest


def _worst(sets: Sequence[SetPairs]) -> list[tuple[int, int]]:
    lowest = sorted(
        (margin, number, place)
        for number, one in enumerate(sets)
        for place, margin in enumerate(_last_margins(one))
    )
    return [(number, place) for _, number, place in lowest[:WORST]]


def _printed(
    one: SetPairs, place: int, titles: Mapping[str, str], stages: Sequence[str]
) -> PrintedPair:
    id = one.ids[place]
    question = one.texts[id].question if id in one.texts else ""
    excerpt = f"{question[:EXCERPT]} …" if len(question) > EXCERPT else question
    margins = [one.margins[stage][place] if stage in one.margins else None for stage in stages]
    return PrintedPair(id, titles[one.name], excerpt, margins)
