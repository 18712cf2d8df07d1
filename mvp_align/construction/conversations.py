"""Conversations joined with the people who had them, one after another in bounded memory."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import polars as pl

from mvp_align.construction.people import People, Person
from mvp_align.construction.population import Population, TurnColumns, table_path
from mvp_align.construction.tables import Row, scan_table, table_rows
from mvp_align.construction.tally import Tally

REPLIES = ("model", "assistant")
"""Roles of a model's turns."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A message, by the person or by a model."""

    by_person: bool
    text: str
    score: float | None
    """What the person gave a model's message; None without a number."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a person asked, and what came of it, in order."""

    id: str
    person: Person
    opening: str
    turns: tuple[Turn, ...]

    @property
    def later_messages(self) -> list[str]:
        """The person's messages after the first."""
        return [turn.text for turn in self.turns if turn.by_person][1:]


class JoinedConversations:
    """The conversations of people that are `known`, in the file's order; iterating counts anew.

    `rows`, `left_out` and `silent` are of the last iteration, once that has ended. With a `limit`,
    later rows are not looked at. Raises UserError where the table lacks a column, and on the way
    where a line is broken.
    """

    def __init__(self, population: Population, people: People, limit: int | None) -> None:
        self.population, self.people, self.limit = population, people, limit
        self.table = self._joined()
        self.rows, self.left_out = 0, Tally()
        self.silent = 0
        """People without a conversation here."""

    def __iter__(self) -> Iterator[Conversation]:
        self.rows, self.left_out = 0, Tally()
        seen: set[str] = set()
        speakers: set[str] = set()
        path = table_path(self.population.conversations)
        for row in table_rows(self.table, path):
            if self.limit is not None and self.rows >= self.limit:
                break
            self.rows += 1
            name = row["conversation_id"] or ""
            problem = self._problem(row, name, seen)
            seen.add(name)
            if problem:
                self.left_out.add(problem, name or f"row {self.rows}")
                continue
            conversation = self._conversation(row)
            if problem := _unusable(conversation, has_turns=bool(row.get("turns"))):
                self.left_out.add(problem, name)
                continue
            speakers.add(conversation.person.user_id)
            yield conversation
        self.silent = len(self.people.known) - len(speakers)

    def _joined(self) -> pl.LazyFrame:
        """Return each conversation with `known` (whether its person is) and `reason` (why not)."""
        columns = {
            name: column
            for name, column in asdict(self.population.conversation).items()
            if column is not None
        }
        keys = tuple(key for key in asdict(self.population.turn).values() if key is not None)
        lists = {"turns": keys} if "turns" in columns else {}
        reasons = self.people.reasons
        users = pl.LazyFrame(
            {
                "user_id": [*self.people.known, *reasons],
                "known": [True] * len(self.people.known) + [False] * len(reasons),
                "reason": [None] * len(self.people.known) + [*reasons.values()],
            },
            schema={"user_id": pl.String, "known": pl.Boolean, "reason": pl.String},
        )
        table = scan_table(table_path(self.population.conversations), columns, lists)
        return table.join(users, on="user_id", how="left", maintain_order="left")

    def _problem(self, row: Row, name: str, seen: set[str]) -> str:
        if not name.strip():
            return "no conversation_id"
        if name in seen:
            return "an earlier row has the same conversation_id"
        if not (row["user_id"] or "").strip():
            return "no user_id"
        if row["known"] is None:
            return "its person is not in the survey"
        return "" if row["known"] else f"its person is left out: {row['reason']}"

    def _conversation(self, row: Row) -> Conversation:
        turns = tuple(_turns(row.get("turns") or (), self.population.turn))
        opening = row["opening_prompt"] or next((turn.text for turn in turns if turn.by_person), "")
        return Conversation(
            row["conversation_id"], self.people.known[row["user_id"]], opening, turns
        )


def _unusable(conversation: Conversation, *, has_turns: bool) -> str:
    """Return why nothing can be made of a conversation. Misnamed keys of turns show here, too."""
    if not conversation.opening.strip():
        return "no opening prompt"
    if has_turns and not any(turn.by_person and turn.text.strip() for turn in conversation.turns):
        return "its turns hold no message of the person"
    return ""


def _turns(rows: Iterable[Row | None], keys: TurnColumns) -> Iterator[Turn]:
    """Yield the messages of people and models; other roles (system, tool) have no part here."""
    for row in rows:
        if row is None:
            continue
        role, text = row.get(keys.role), row.get(keys.content) or ""
        if role == "user" or role in REPLIES:
            score = row.get(keys.score) if keys.score is not None else None
            yield Turn(role == "user", str(text), _number(score))


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
