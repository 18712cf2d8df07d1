"""Pairs of real preferences: two replies to one prompt whose scores by the person differ.

No model writes anything here. Only replies to a conversation's first message count: a later
message leans on what was said before, which a record's question does not show.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from mvp_align.construction.conversations import Conversation, JoinedConversations
from mvp_align.construction.people import read_people
from mvp_align.construction.population import Population
from mvp_align.construction.records import (
    RECORDS,
    NoRecords,
    begin_build,
    population_identity,
    record,
    write_records,
    write_summary,
)
from mvp_align.construction.tally import Tally
from mvp_align.errors import UserError


def build_score_pairs(
    population: Population, out: Path, margin: float, limit: int | None = None
) -> list[str]:
    """Write all pairs of first replies whose scores are at least `margin` apart.

    Return what was made and left out, as lines to print. Raises UserError where no pair comes of
    it.
    """
    if population.turn.score is None or population.conversation.turns is None:
        raise UserError("Scores as pairs need columns for `turns` and their `score`.")
    identity = {"made": "scores", "margin": margin, **population_identity(population)}
    conversations = JoinedConversations(population, read_people(population), limit)
    begin_build(out, identity)
    replies, pairs = Tally(), Tally()
    seen: Counter[str] = Counter()
    records = (
        pair
        for conversation in conversations
        for pair in _pairs_of(conversation, margin, replies, pairs, seen)
    )
    count, sha256 = write_records(out, records)
    made = {
        "replies": seen["replies"],
        "prompts": seen["prompts"],
        "records": count,
        "records_sha256": sha256,
    }
    lines = write_summary(out, identity, conversations, made, {"replies": replies, "pairs": pairs})
    lines += [f"replies: {seen['replies']:,}", *replies.lines()]
    lines += [f"pairs of two replies to one prompt: {seen['pairs']:,}", *pairs.lines()]
    if not count:
        raise NoRecords("\n".join([*lines, "Not one pair came of it, for the reasons above."]))
    return [*lines, f"{out / RECORDS}: {count:,} pairs of {seen['prompts']:,} prompts"]


def _pairs_of(
    conversation: Conversation, margin: float, replies: Tally, pairs: Tally, seen: Counter[str]
) -> Iterator[dict[str, Any]]:
    scored = _first_replies(conversation, replies, seen)
    found = 0
    for (one, text), (other, other_text) in combinations(enumerate(scored), 2):
        seen["pairs"] += 1
        (better, chosen), (worse, rejected) = sorted(
            ((one, text), (other, other_text)), key=lambda reply: -reply[1][1]
        )
        name = f"{conversation.id}-{better}-{worse}"
        if chosen[0].strip() == rejected[0].strip():
            pairs.add("both replies are the same", name)
        elif chosen[1] - rejected[1] < margin:
            pairs.add(f"scores less than {margin:g} apart", name)
        else:
            found += 1
            provenance: dict[str, str | float] = {
                "made": "scores",
                "conversation_id": conversation.id,
                "score_w": chosen[1],
                "score_l": rejected[1],
            }
            yield record(
                conversation.person,
                name,
                conversation.opening,
                (chosen[0], rejected[0]),
                provenance,
            )
    seen["prompts"] += found > 0


def _first_replies(
    conversation: Conversation, replies: Tally, seen: Counter[str]
) -> list[tuple[str, float]]:
    """Return text and score of the replies to the first message, in order."""
    scored: list[tuple[str, float]] = []
    messages = 0
    for turn in conversation.turns:
        if turn.by_person:
            messages += 1
            continue
        seen["replies"] += 1
        if messages > 1:
            replies.add("to a later message, which leans on what was said before", conversation.id)
        elif not turn.text.strip():
            replies.add("empty", conversation.id)
        elif turn.score is None:
            replies.add("no score", conversation.id)
        else:
            scored.append((turn.text, turn.score))
    return scored
