"""From a survey and conversations to records that a chat model wrote.

The records are a function of the tables, the prompt and the replies that are kept, so a build that
was killed ends with the same records, and a second one asks nothing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import typer

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
from mvp_align.construction.writing import WritingTask, written_pairs
from mvp_align.errors import UserError
from mvp_align.generation.asking import RunStats, ask_models
from mvp_align.generation.chat_request import ChatRequest
from mvp_align.generation.completion import Completion, Unparsed
from mvp_align.generation.cost import (
    CostEstimate,
    confirm_cost,
    estimate,
    tokens_by_bytes,
    usage_summary,
)
from mvp_align.generation.reply_store import ReplyStore, open_store

BATCH = 1024
"""Conversations whose requests are in memory at once."""
NO_VALUES = "no dimension is High or Low for its person, so no answer fits better"


@dataclass
class Writing:
    """A build under way: what was asked, what came of it, and what was left out."""

    task: WritingTask
    store: ReplyStore
    asked: RunStats = field(default_factory=RunStats)
    replied: set[str] = field(default_factory=set)
    """The writer's name, once it has replied to a request of this build."""
    wanted: int = 0
    """Conversations that a reply is wanted to."""
    unwritable: Tally = field(default_factory=Tally)
    replies: Tally = field(default_factory=Tally)
    pairs: Tally = field(default_factory=Tally)
    seen: set[str] = field(default_factory=set)
    """Person and request of conversations so far."""

    def requests_of(
        self, batch: Iterable[Conversation]
    ) -> tuple[list[tuple[Conversation, str]], dict[str, ChatRequest]]:
        """Return the conversations to write about, each with its request's key, and the requests.

        People who want the same of the same conversation share a request.
        """
        wanted, requests = [], {}
        for conversation in batch:
            if not conversation.person.preference:
                self.unwritable.add(NO_VALUES, conversation.id)
                continue
            request = self.task.request(conversation)
            key = request.key(self.task.writer.endpoint.model)
            asked = f"{key[:32]} {conversation.person.user_id}"
            if asked in self.seen:
                self.unwritable.add("its person said the same before", conversation.id)
                continue
            self.seen.add(asked)
            wanted.append((conversation, key))
            requests[key] = request
        return wanted, requests

    def records(self, conversations: Iterable[Conversation]) -> Iterator[dict[str, Any]]:
        """Yield the records, asking for replies as they are needed.

        Raises UserError where it is pointless to go on, and Preempted.
        """
        for batch in _batches(conversations):
            wanted, requests = self.requests_of(batch)
            self.wanted += len(wanted)
            known = self._replies_to(requests)
            for conversation, key in wanted:
                yield from self._records_of(conversation, key, known.get(key))

    def _replies_to(self, requests: dict[str, ChatRequest]) -> dict[str, Completion]:
        known = self.store.known(requests)
        writer = self.task.writer
        if known:
            self.replied.add(writer.name)
        missing = {key: request for key, request in requests.items() if key not in known}
        if missing:
            (stats,) = ask_models([(writer, missing)], self.store, self.replied)
            self.asked.add(stats)
            if stats.given_up:
                raise UserError(
                    f"{writer.name} was not asked any further: {stats.given_up.rstrip('.')}. All"
                    " replies are kept: see to the server, then run the same command again."
                )
            known |= self.store.known(missing)
        return known

    def _records_of(
        self, conversation: Conversation, key: str, reply: Completion | None
    ) -> Iterator[dict[str, Any]]:
        if reply is None:
            reason = self.asked.unanswered.get(key, "not asked")
            self.replies.add(f"no reply: {reason}", conversation.id)
            return
        task = self.task
        try:
            pairs = written_pairs(
                reply.whole_text(task.writer.max_tokens),
                task.questions,
                lambda reason: self.pairs.add(reason, conversation.id),
            )
        except Unparsed as problem:
            self.replies.add(str(problem), conversation.id)
            return
        provenance = {
            "made": "generated",
            "conversation_id": conversation.id,
            "model": task.writer.endpoint.model,
            "prompt_sha256": task.sha256,
            "reply": key,
        }
        for place, pair in pairs:
            yield record(
                conversation.person,
                f"{conversation.id}-{place}",
                pair.question,
                (pair.answer_w, pair.answer_l),
                provenance,
            )


def build_pairs(
    population: Population,
    task: WritingTask,
    out: Path,
    replies: Path,
    *,
    limit: int | None,
    limit_usd: float,
    yes: bool,
) -> list[str]:
    """Have the task's writer write pairs, and keep them in `out`.

    Return what was made and left out, as lines to print. Raises UserError where it is pointless to
    go on or no pair comes of it, and Preempted if the process is asked to stop; every reply so far
    is kept in `replies`.
    """
    writer = task.writer
    identity = {
        "made": "generated",
        **population_identity(population),
        "model": writer.endpoint.model,
        "prompt_sha256": task.sha256,
        "questions": task.questions,
        "parameters": writer.parameters_up_to(writer.max_tokens),
    }
    conversations = JoinedConversations(population, read_people(population), limit)
    begin_build(out, identity)
    with open_store(replies) as store:
        cost = _total_cost(conversations, task, store)
        if cost is not None:
            confirm_cost([cost], limit_usd, yes=yes, task="Writing")
            if cost.requests:
                writer.endpoint.key()  # report a missing key before any request is sent
        writing = Writing(task, store)
        count, sha256 = write_records(out, writing.records(conversations))
    typer.echo(usage_summary(writer, writing.asked))
    made = {
        "conversations_written_about": writing.wanted,
        "records": count,
        "records_sha256": sha256,
    }
    left_out = {
        "unwritable": writing.unwritable,
        "replies": writing.replies,
        "pairs": writing.pairs,
    }
    lines = write_summary(out, identity, conversations, made, left_out)
    lines += writing.unwritable.lines()
    good = writing.wanted - writing.replies.total
    lines += [f"replies: {writing.wanted:,} wanted, {good:,} with pairs"]
    lines += writing.replies.lines()
    lines += [f"pairs: {good * task.questions:,} asked of these, {count:,} kept"]
    lines += writing.pairs.lines()
    if not count:
        raise NoRecords("\n".join([*lines, "Not one pair came of it, for the reasons above."]))
    return [*lines, f"{out / RECORDS}: {count:,} pairs"]


def _total_cost(
    conversations: JoinedConversations, task: WritingTask, store: ReplyStore
) -> CostEstimate | None:
    """Return the cost of what is not kept yet; None if there is nothing to write about."""
    total: CostEstimate | None = None
    scratch = Writing(task, store)
    for batch in _batches(conversations):
        _, requests = scratch.requests_of(batch)
        one = estimate(
            task.writer, task.writer.max_tokens, requests, store.known(requests), tokens_by_bytes
        )
        total = one if total is None else total + one
    return total


def _batches(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    waiting = iter(conversations)
    while batch := list(islice(waiting, BATCH)):
        yield batch
