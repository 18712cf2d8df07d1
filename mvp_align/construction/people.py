"""Stage 1 and 3 of the benchmark: what a survey's people value, and their profiles.

Stated scores from 80 are High, up to 60 Low (`schema.level`); no model has a say in it.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from mvp_align.construction.population import Population, table_path
from mvp_align.construction.tables import Row, scan_table, table_rows
from mvp_align.construction.tally import Tally
from mvp_align.metrics.regions import NOT_SAID, iso3
from mvp_align.schema import DIMENSIONS, StatedValues

UNSAID = "Prefer not to say"
"""PRISM's word for no answer, which an empty cell becomes."""
PROFILE = (
    "age",
    "gender",
    "employment_status",
    "education",
    "marital_status",
    "english_proficiency",
    "birth_country",
)
FREE_TEXT = ("self_description", "system_string")
AGE_GROUPS = (
    (18, 24, "18-24 years old"),
    (25, 34, "25-34 years old"),
    (35, 44, "35-44 years old"),
    (45, 54, "45-54 years old"),
    (55, 64, "55-64 years old"),
    (65, 120, "65+ years old"),
)
"""PRISM's, from and to in years."""


@dataclass(frozen=True, slots=True)
class Person:
    """A person of the survey who said how much each of the seven dimensions matters."""

    user_id: str
    values: StatedValues
    profile: Mapping[str, str]
    """By PROFILE, in the survey's words or PRISM's."""
    free_text: Mapping[str, str]
    """By FREE_TEXT; empty where nothing was written."""
    country_code: str | None
    """ISO 3166-1 alpha-3 of the birth country; None where none is named."""

    @property
    def preference(self) -> str:
        return self.values.preference()


@dataclass(slots=True)
class People:
    """The people of a survey, by user_id, and who was left out."""

    known: dict[str, Person] = field(default_factory=dict)
    rows: int = 0
    left_out: Tally = field(default_factory=Tally)
    reasons: dict[str, str] = field(default_factory=dict)
    """user_id -> why that person was left out."""
    unsaid: Counter[str] = field(default_factory=Counter)
    """Profile field -> people of `known` whose cell was empty, and now says UNSAID."""
    no_country: Counter[str] = field(default_factory=Counter)
    """Birth countries of `known` that are no country's name or code."""


def read_people(population: Population) -> People:
    """Read the survey. Raises UserError where it cannot be read.

    Two rows with one user_id and different content are both left out: nobody can tell which holds.
    """
    path = table_path(population.survey)
    columns = {
        name: column for name, column in asdict(population.person).items() if column is not None
    }
    people, first, unclear = People(), {}, set()
    for number, row in enumerate(table_rows(scan_table(path, columns, {}), path), start=1):
        people.rows += 1
        user_id = row["user_id"] or ""
        if not user_id.strip():
            people.left_out.add("no user_id", f"row {number}")
        elif user_id not in first:
            first[user_id] = row
        elif first[user_id] == row:
            people.left_out.add("repeats an earlier row", user_id)
        else:
            unclear.add(user_id)
            _leave_out(people, user_id, "another row has the same user_id and says otherwise")
    for user_id, row in first.items():
        if user_id in unclear:
            _leave_out(people, user_id, "another row has the same user_id and says otherwise")
        else:
            _add_person(people, user_id, row)
    return people


def _leave_out(people: People, user_id: str, reason: str) -> None:
    people.left_out.add(reason, user_id)
    people.reasons[user_id] = reason


def _add_person(people: People, user_id: str, row: Row) -> None:
    scores = {name: stated_score(row[name]) for name in DIMENSIONS}
    wrong = [name for name, score in scores.items() if score is None]
    if wrong:
        unsaid = all(not (row[name] or "").strip() for name in wrong)
        what = "says nothing of" if unsaid else "no whole number from 0 to 100:"
        _leave_out(people, user_id, f"{what} {', '.join(wrong)}")
        return
    profile = {}
    for name in PROFILE:
        text = (row.get(name) or "").strip()
        people.unsaid[name] += not text
        profile[name] = (age_group(text) if name == "age" else text) or UNSAID
    country = profile["birth_country"]
    code = iso3(country)
    if code is None and country.casefold() not in NOT_SAID:
        people.no_country[country] += 1
    people.known[user_id] = Person(
        user_id,
        StatedValues(**{name: score for name, score in scores.items() if score is not None}),
        profile,
        {name: row.get(name) or "" for name in FREE_TEXT},
        code,
    )


def stated_score(text: str | None) -> int | None:
    """Return `95`, `95.0` and ` 95 ` as 95; None for what is no whole number from 0 to 100."""
    if not re.fullmatch(r"\d{1,3}(\.0+)?", (text or "").strip()):
        return None
    score = int(float(text or ""))
    return score if score <= 100 else None


def age_group(text: str) -> str:
    """Return PRISM's range for years (`27` or `27.0`); other texts as they are.

    Years below 18 or above 120 are in none of them, and stay as they are too.
    """
    if not re.fullmatch(r"\d{1,3}(\.0+)?", text):
        return text
    years = int(float(text))
    return next((words for low, high, words in AGE_GROUPS if low <= years <= high), text)
