"""Request missing replies from judges, several at a time.

Stops when all replies are there or no more can be had.
"""

import asyncio
import random
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tqdm.auto import tqdm

from mvp_align.generation.client import ChatClient
from mvp_align.generation.patience import Patience
from mvp_align.generation.response import CallFailed
from mvp_align.judging.judges import Judge
from mvp_align.judging.prompts import Request
from mvp_align.judging.store import ReplyStore
from mvp_align.runtime import preemption

GRACE_SECONDS = 10
"""Time for requests in flight after a stop request, since they may already be paid for."""


@dataclass
class RunStats:
    """Counts and failures from requesting one judge's replies."""

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


@dataclass
class Round:
    """State of requesting one judge's replies."""

    judge: Judge
    requests: Mapping[str, Request]
    store: ReplyStore
    stop: asyncio.Event
    patience: Patience
    stats: RunStats = field(default_factory=RunStats)


def ask_judges(
    todo: Sequence[tuple[Judge, Mapping[str, Request]]], store: ReplyStore, replied: Container[str]
) -> list[RunStats]:
    """Send each judge its requests (by key), and keep the replies.

    `replied` holds the names of judges that already replied to other requests.

    Raises:
        Preempted: on a stop request, after giving requests in flight time to finish.
        UserError: if it is pointless to go on.
    """
    return asyncio.run(run_rounds(todo, store, replied))


async def run_rounds(
    todo: Sequence[tuple[Judge, Mapping[str, Request]]], store: ReplyStore, replied: Container[str]
) -> list[RunStats]:
    stop = asyncio.Event()
    rounds = [
        Round(judge, requests, store, stop, Patience(replied=judge.name in replied))
        for judge, requests in todo
        if requests
    ]
    # not a TaskGroup, which would cancel requests to other judges when one judge fails
    ended = await asyncio.gather(
        *(ask_judge(one, place) for place, one in enumerate(rounds)), return_exceptions=True
    )
    if preemption.request:
        raise preemption.Preempted(preemption.request.reason)
    for failure in ended:
        if failure is not None:
            raise failure
    outcome = {one.judge.name: one.stats for one in rounds}
    return [outcome.get(judge.name, RunStats()) for judge, _ in todo]


async def ask_judge(one: Round, place: int) -> None:
    """Send one judge's requests by several workers that share one iterator.

    There are more workers than requests allowed in flight, because some wait before a retry. The
    order is random, so that requests that always fail are not the first ones of every run.
    """
    waiting = iter(random.sample(list(one.requests.items()), len(one.requests)))
    async with ChatClient(one.judge.endpoint) as client:
        with tqdm(
            total=len(one.requests), desc=one.judge.name, unit="reply", position=place
        ) as bar:
            count = min(2 * one.judge.endpoint.concurrency, len(one.requests))
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
    waiting: Iterator[tuple[str, Request]],
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


async def send_request(one: Round, client: ChatClient, key: str, request: Request) -> None:
    stats, model = one.stats, one.judge.endpoint.model
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
