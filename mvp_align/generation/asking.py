"""Request missing replies from chat models, several at a time.

Stops when all replies are there or no more can be had.
"""

import asyncio
import random
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tqdm.auto import tqdm

from mvp_align.generation.chat_model import ChatModel
from mvp_align.generation.chat_request import ChatRequest
from mvp_align.generation.client import ChatClient
from mvp_align.generation.patience import Patience
from mvp_align.generation.reply_store import ReplyStore
from mvp_align.generation.response import CallFailed
from mvp_align.runtime import preemption

GRACE_SECONDS = 10
"""Time for requests in flight after a stop request, since they may already be paid for."""


@dataclass
class RunStats:
    """Counts and failures from requesting one model's replies."""

    replies: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    """Replies for which the server reported no token counts."""
    unanswered: dict[str, str] = field(default_factory=dict)
    """Key -> why there is no reply."""
    words: dict[str, str] = field(default_factory=dict)
    """Each of these reasons -> its first occurrence with the server's own words."""
    given_up: str = ""
    """Why we stopped sending requests; empty if we did not."""

    def add(self, later: "RunStats") -> None:
        """Count what came of later requests in."""
        self.replies += later.replies
        self.prompt_tokens += later.prompt_tokens
        self.completion_tokens += later.completion_tokens
        self.uncounted += later.uncounted
        self.unanswered |= later.unanswered
        self.words = later.words | self.words
        self.given_up = self.given_up or later.given_up


@dataclass
class Round:
    """State of requesting one model's replies."""

    model: ChatModel
    requests: Mapping[str, ChatRequest]
    store: ReplyStore
    stop: asyncio.Event
    patience: Patience
    stats: RunStats = field(default_factory=RunStats)


def ask_models(
    todo: Sequence[tuple[ChatModel, Mapping[str, ChatRequest]]],
    store: ReplyStore,
    replied: Container[str],
) -> list[RunStats]:
    """Send each model its requests (by key), and keep the replies.

    `replied` holds the names of models that already replied to other requests.

    Raises:
        Preempted: on a stop request, after giving requests in flight time to finish.
        UserError: if it is pointless to go on.
    """
    return asyncio.run(run_rounds(todo, store, replied))


async def run_rounds(
    todo: Sequence[tuple[ChatModel, Mapping[str, ChatRequest]]],
    store: ReplyStore,
    replied: Container[str],
) -> list[RunStats]:
    stop = asyncio.Event()
    rounds = [
        Round(model, requests, store, stop, Patience(replied=model.name in replied))
        for model, requests in todo
        if requests
    ]
    # not a TaskGroup, which would cancel requests to other models when one model fails
    ended = await asyncio.gather(
        *(ask_model(one, place) for place, one in enumerate(rounds)), return_exceptions=True
    )
    if preemption.request:
        raise preemption.Preempted(preemption.request.reason)
    for failure in ended:
        if failure is not None:
            raise failure
    outcome = {one.model.name: one.stats for one in rounds}
    return [outcome.get(model.name, RunStats()) for model, _ in todo]


async def ask_model(one: Round, place: int) -> None:
    """Send one model's requests by several workers that share one iterator.

    There are more workers than requests allowed in flight, because some wait before a retry. The
    order is random, so that requests that always fail are not the first ones of every run.
    """
    waiting = iter(random.sample(list(one.requests.items()), len(one.requests)))
    async with ChatClient(one.model.endpoint) as client:
        with tqdm(
            total=len(one.requests), desc=one.model.name, unit="reply", position=place
        ) as bar:
            count = min(2 * one.model.endpoint.concurrency, len(one.requests))
            workers = [
                run_worker(one, client, waiting, bar, first=number == 0) for number in range(count)
            ]
            await wait_for_workers({asyncio.create_task(worker) for worker in workers}, one.stop)


async def wait_for_workers(workers: set[asyncio.Task[None]], stop: asyncio.Event) -> None:
    """Wait for the workers. After a failure or a stop request, give the others time to finish."""
    pending, deadline, failure = workers, float("inf"), None
    while pending:
        done, pending = await asyncio.wait(
            pending, timeout=0.1, return_when=asyncio.FIRST_EXCEPTION
        )
        failure = failure or next((error for task in done if (error := task.exception())), None)
        if failure or preemption.request:
            stop.set()
        if stop.is_set() and deadline == float("inf"):
            deadline = time.monotonic() + GRACE_SECONDS
        if time.monotonic() > deadline:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            break
    if failure:
        raise failure


async def run_worker(
    one: Round,
    client: ChatClient,
    waiting: Iterator[tuple[str, ChatRequest]],
    bar: "tqdm[None]",
    *,
    first: bool,
) -> None:
    """Run one worker. All but the first wait until it is clear whether the server replies."""
    if not first:
        await one.patience.settled.wait()
    try:
        for key, request in waiting:
            if one.stop.is_set() or one.patience.given_up:
                return
            await send_request(one, client, key, request)
            bar.update()
    finally:
        one.patience.settled.set()


async def send_request(one: Round, client: ChatClient, key: str, request: ChatRequest) -> None:
    stats, model = one.stats, one.model.endpoint.model
    try:
        reply = await client.complete(request.messages, request.parameters, request.schema)
    except CallFailed as failed:
        one.store.log(key, model, failed.failures)
        stats.unanswered[key] = failed.reason
        stats.words.setdefault(failed.reason, failed.words)
        one.patience.record_failure(failed)
        stats.given_up = one.patience.given_up
    else:
        one.store.add(key, model, reply)  # first of all: it may have cost money
        one.patience.record_reply()
        stats.replies += 1
        stats.prompt_tokens += reply.prompt_tokens or 0
        stats.completion_tokens += reply.completion_tokens or 0
        stats.uncounted += reply.prompt_tokens is None or reply.completion_tokens is None
