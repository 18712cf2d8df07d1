"""The folder that a build leaves: `records.jsonl` in the benchmark's schema, and `build.json`."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mvp_align import __version__
from mvp_align.construction.conversations import JoinedConversations
from mvp_align.construction.people import FREE_TEXT, Person
from mvp_align.construction.population import Population, table_path
from mvp_align.construction.tally import Tally
from mvp_align.errors import UserError
from mvp_align.runtime.atomic import replacing
from mvp_align.runtime.json_files import to_json, write_json
from mvp_align.schema import DIMENSIONS

RECORDS, SUMMARY = "records.jsonl", "build.json"


class NoRecords(UserError):
    """Not one record came of it. The message has the counts and reasons."""


Provenance = Mapping[str, str | float]


def record(
    person: Person, name: str, question: str, answers: tuple[str, str], provenance: Provenance
) -> dict[str, Any]:
    """Return a record in the authors' schema, with `provenance` and the country's code added.

    `answers` are the fitting and the contradicting one.
    """
    profile = dict(person.profile)
    country = profile.pop("birth_country")
    return {
        "id": name,
        "question": question,
        "answer_w": answers[0],
        "answer_l": answers[1],
        "user_id": person.user_id,
        "stated_prefs": {score: getattr(person.values, score) for score in DIMENSIONS},
        **profile,
        "birth_country/region": country,
        "birth_country_iso3": person.country_code,
        **{text: person.free_text[text] for text in FREE_TEXT},
        "preference": person.preference,
        "provenance": dict(provenance),
    }


def population_identity(population: Population) -> dict[str, object]:
    """Return the SHA-256 (hex) of both tables' bytes, and what their columns are called."""
    hashes: dict[str, object] = {}
    for setting in ("survey", "conversations"):
        with table_path(getattr(population, setting)).open("rb") as file:
            hashes[setting] = hashlib.file_digest(file, "sha256").hexdigest()
    columns = asdict(population)
    return hashes | {name: columns[name] for name in ("person", "conversation", "turn")}


def begin_build(out: Path, identity: Mapping[str, object]) -> None:
    """Write down in `build.json` what is being built, before the first record.

    Raises UserError if `out` holds the records of another build, or other files of that name.
    """
    held: Mapping[str, object] = {}
    with suppress(OSError, ValueError, KeyError, TypeError):
        held = dict(json.loads((out / SUMMARY).read_text("utf-8"))["identity"])
    differing = [name for name in identity if held.get(name) != identity[name]]
    if differing and (out / RECORDS).exists():
        replies = out / "replies.sqlite"
        kept = f" Replies that are kept serve there too: --replies {replies}."
        raise UserError(
            f"{out} holds records that were built otherwise ({', '.join(differing)}): name another"
            f" --out.{kept if identity['made'] == 'generated' and replies.is_file() else ''}"
        )
    if differing:
        write_json(out / SUMMARY, {"identity": dict(identity), "finished": False})


def write_records(out: Path, records: Iterable[Mapping[str, Any]]) -> tuple[int, str]:
    """Replace `records.jsonl`, a line at a time. Return the count and the SHA-256 (hex) of it.

    Without a record there is no file. Raises whatever `records` raises, and UserError if the disk
    is full; an old file then stays.
    """
    count, digest = 0, hashlib.sha256()
    with replacing(out / RECORDS) as file:
        for one in records:
            line = (to_json(one) + "\n").encode()
            file.write(line)
            digest.update(line)
            count += 1
    if not count:
        (out / RECORDS).unlink()
    return count, digest.hexdigest()


def write_summary(
    out: Path,
    identity: Mapping[str, object],
    conversations: JoinedConversations,
    made: Mapping[str, object],
    left_out: Mapping[str, Tally],
) -> list[str]:
    """Write `build.json`, and return its counts as lines to print.

    `made` has the counts of what was made, `left_out` the tallies of its parts.
    """
    people = conversations.people
    write_json(
        out / SUMMARY,
        {
            "made_by": f"mvp-align {__version__}",
            "identity": dict(identity),
            "finished": True,
            "survey": {
                "rows": people.rows,
                "people": len(people.known),
                "left_out": people.left_out.rows(),
                "without_a_conversation": conversations.silent,
                "empty_cells_as_prefer_not_to_say": {k: n for k, n in people.unsaid.items() if n},
                "birth_countries_without_a_code": dict(people.no_country),
            },
            "conversations": {
                "limit": conversations.limit,
                "rows": conversations.rows,
                "left_out": conversations.left_out.rows(),
            },
            **made,
            "left_out": {name: tally.rows() for name, tally in left_out.items()},
        },
    )
    unsaid = ", ".join(f"{name} {count:,}" for name, count in people.unsaid.items() if count)
    countries = ", ".join(f"{name} ({count:,})" for name, count in people.no_country.items())
    used = conversations.rows - conversations.left_out.total
    return [
        f"survey: {people.rows:,} rows, {len(people.known):,} people",
        *people.left_out.lines(),
        *([f"  {conversations.silent:,} without a conversation"] if conversations.silent else []),
        *([f"  empty cells, now 'Prefer not to say': {unsaid}"] if unsaid else []),
        *([f"  birth countries that are none of ISO 3166's: {countries}"] if countries else []),
        f"conversations: {conversations.rows:,} rows, {used:,} used",
        *conversations.left_out.lines(),
    ]
