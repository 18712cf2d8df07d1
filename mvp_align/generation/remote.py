"""Answers of a model behind an OpenAI-compatible endpoint: the server applies its own chat template and ends its answers."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from tqdm.auto import tqdm

from mvp_align import preemption
from mvp_align.config import Generation
from mvp_align.errors import UserError
from mvp_align.generation.answers import Drafts, Generated
from mvp_align.judging.client import CallFailed, ChatClient, Endpoint, Reply
from mvp_align.schema import PromptedPair


@dataclass(frozen=True, slots=True)
class Asked:
    """The answers that came, in the order of the prompts, and why the others did not: pair id -> reason."""

    answers: list[Generated]
    failures: dict[str, str] = field(default_factory=dict)


def generate_remotely(
    endpoint: Endpoint,
    prompts: Sequence[PromptedPair],
    settings: Generation,
    seed: int,
    *,
    drafts: Drafts,
    label: str = "generating",
) -> Asked:
    """An answer to each prompt, each a user's turn of its own; kept in `drafts` as they come, and not asked for again.

    A request that fails for good leaves its pair without an answer, and is made again by the next call. Raises UserError
    where nothing can come of further requests, and Preempted where the process is asked to stop.
    """
    keys = [remote_key(endpoint, prompt, settings, seed) for prompt in prompts]
    failures = asyncio.run(ask_all(endpoint, prompts, keys, settings, seed, drafts, label))
    if preemption.request:
        raise preemption.Preempted(preemption.request.reason)
    answers = [drafts.known[key] for key in keys if key in drafts]
    return Asked(answers, failures)


def remote_key(endpoint: Endpoint, prompt: PromptedPair, settings: Generation, seed: int) -> str:
    """All that a request consists of."""
    parts = [endpoint.base_url, endpoint.model, prompt.id, prompt.prompt, *parameters(settings, seed).items()]
    return hashlib.sha256(json.dumps(parts, allow_nan=False).encode()).hexdigest()


def parameters(settings: Generation, seed: int) -> dict[str, float | int]:
    """`seed` is a request that not every server heeds."""
    return {"temperature": settings.temperature, "max_tokens": settings.max_new_tokens, "seed": seed}


async def ask_all(
    endpoint: Endpoint,
    prompts: Sequence[PromptedPair],
    keys: Sequence[str],
    settings: Generation,
    seed: int,
    drafts: Drafts,
    label: str,
) -> dict[str, str]:
    waiting = iter([(key, prompt) for key, prompt in zip(keys, prompts, strict=True) if key not in drafts])
    known = sum(key in drafts for key in keys)
    failures: dict[str, str] = {}
    hopeless: list[UserError] = []
    with tqdm(total=len(keys), initial=known, desc=label, unit="answer") as bar, drafts:
        async with ChatClient(endpoint) as client:

            async def work() -> None:
                for key, prompt in waiting:  # shared by all workers: each takes the next one
                    if hopeless or preemption.request:  # what is under way may be paid for already: it is waited for
                        return
                    try:
                        turn = {"role": "user", "content": prompt.prompt}
                        reply = await client.complete([turn], parameters(settings, seed))
                        drafts.add({key: answer_in(reply, prompt)})
                    except CallFailed as failed:
                        failures[prompt.id] = failed.reason
                    except UserError as error:
                        hopeless.append(error)
                    bar.update()

            await asyncio.gather(*(work() for _ in range(endpoint.concurrency)))
    if hopeless:
        raise hopeless[0]
    return failures


def answer_in(reply: Reply, prompt: PromptedPair) -> Generated:
    """A server that names no reason for its end is taken to have finished."""
    return Generated(
        prompt.id, prompt.user_id, reply.text, reply.completion_tokens, finished=reply.finish_reason != "length"
    )
