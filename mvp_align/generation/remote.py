"""Answers of a model behind an OpenAI-compatible endpoint: the server applies its own chat template
and ends its answers."""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tqdm.auto import tqdm

from mvp_align.config import Generation
from mvp_align.errors import UserError
from mvp_align.generation.answers import Drafts, Generated
from mvp_align.generation.client import ChatClient
from mvp_align.generation.endpoint import Endpoint
from mvp_align.generation.patience import Patience
from mvp_align.generation.response import CallFailed, Reply
from mvp_align.runtime import preemption
from mvp_align.schema import PromptedPair

LEFT_OUT = ("temperature", "seed")
"""Parameters that need not be sent."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where answers come from, and which parameters it takes."""

    endpoint: Endpoint
    max_tokens: str = "max_tokens"
    """What it calls the limit of an answer's tokens."""
    left_out: tuple[str, ...] = ()
    """What is not sent to it, out of LEFT_OUT."""

    def parameters(self, settings: Generation, seed: int) -> dict[str, float | int]:
        """What is sent beside the prompt. `seed` is a request that not every server heeds."""
        sent = {
            "temperature": settings.temperature,
            self.max_tokens: settings.max_new_tokens,
            "seed": seed,
        }
        return {name: value for name, value in sent.items() if name not in self.left_out}


@dataclass(frozen=True, slots=True)
class RemoteAnswers:
    """The answers that came, in the order of the prompts, and why the others did not: pair id ->
    reason."""

    answers: list[Generated]
    failures: dict[str, str] = field(default_factory=dict)
    given_up: str = ""
    """Why the server was not asked any further; empty where it was."""


def generate_remotely(
    endpoint: Endpoint,
    prompts: Sequence[PromptedPair],
    parameters: Mapping[str, float | int],
    *,
    drafts: Drafts,
    label: str = "generating",
) -> RemoteAnswers:
    """An answer to each prompt, each a user's turn of its own; kept in `drafts` as they come, and
    not asked for again. `parameters` are sent with each (`Server.parameters`).

    A request that fails for good leaves its pair without an answer, and is made again by the next
    call. Raises UserError where nothing can come of further requests, and Preempted where the
    process is asked to stop.
    """
    keys = [_remote_key(endpoint, prompt, parameters) for prompt in prompts]
    failures, given_up = asyncio.run(ask_all(endpoint, prompts, keys, parameters, drafts, label))
    if preemption.request:
        raise preemption.Preempted(preemption.request.reason)
    answers = [drafts.known[key] for key in keys if key in drafts]
    return RemoteAnswers(answers, failures, given_up)


def _remote_key(
    endpoint: Endpoint, prompt: PromptedPair, parameters: Mapping[str, float | int]
) -> str:
    """All that a request consists of."""
    parts = [endpoint.base_url, endpoint.model, prompt.id, prompt.prompt, *parameters.items()]
    return hashlib.sha256(json.dumps(parts, allow_nan=False).encode()).hexdigest()


async def ask_all(
    endpoint: Endpoint,
    prompts: Sequence[PromptedPair],
    keys: Sequence[str],
    parameters: Mapping[str, float | int],
    drafts: Drafts,
    label: str,
) -> tuple[dict[str, str], str]:
    """Pair id -> why there is no answer, and why the server was given up, if it was."""
    waiting = iter(
        [(key, prompt) for key, prompt in zip(keys, prompts, strict=True) if key not in drafts]
    )
    known = sum(key in drafts for key in keys)
    failures: dict[str, str] = {}
    hopeless: list[UserError] = []
    patience = Patience(heard=known > 0)
    with tqdm(total=len(keys), initial=known, desc=label, unit="answer") as bar, drafts:
        async with ChatClient(endpoint) as client:

            async def ask_once(key: str, prompt: PromptedPair) -> None:
                try:
                    reply = await client.complete(
                        [{"role": "user", "content": prompt.prompt}], parameters
                    )
                except CallFailed as failed:
                    failures[prompt.id] = failed.words
                    patience.failure(failed)
                except UserError as error:
                    hopeless.append(error)
                else:
                    patience.reply()
                    if problem := reply.said.withheld:
                        failures[prompt.id] = problem
                    else:
                        drafts.add({key: answer_in(reply, prompt)})

            async def work(*, first: bool) -> None:
                if not first:
                    await patience.settled.wait()
                try:
                    for key, prompt in waiting:  # shared by all workers: each takes the next one
                        if hopeless or patience.given_up or preemption.request:
                            return  # what is under way may be paid for already: it is waited for
                        await ask_once(key, prompt)
                        bar.update()
                finally:
                    patience.settled.set()

            await asyncio.gather(
                *(work(first=number == 0) for number in range(endpoint.concurrency))
            )
    if hopeless:
        raise hopeless[0]
    return failures, patience.given_up


def answer_in(reply: Reply, prompt: PromptedPair) -> Generated:
    """A server that names no reason for its end is taken to have finished."""
    said = reply.said
    return Generated(
        prompt.id, prompt.user_id, said.text, reply.completion_tokens, finished=not said.cut
    )
