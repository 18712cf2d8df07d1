"""Generate answers with a model behind an OpenAI-compatible endpoint.

The server applies its own chat template and stop tokens.
"""

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
from mvp_align.schema import ChatTurn, PromptedPair

LEFT_OUT = ("temperature", "seed")
"""Parameters that may be omitted."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server to generate answers, and the parameters that it accepts."""

    endpoint: Endpoint
    max_tokens: str = "max_tokens"
    """The server's name for the limit of new tokens."""
    left_out: tuple[str, ...] = ()
    """Parameters not to send, from LEFT_OUT."""
    name: str | None = None
    """What answers record in place of the address, if that is another one each time."""

    @property
    def recorded_as(self) -> str:
        return self.name or self.endpoint.base_url

    def parameters(self, settings: Generation, seed: int) -> dict[str, float | int]:
        """Return the parameters to send with each prompt. Not every server honours `seed`."""
        sent = {
            "temperature": settings.temperature,
            self.max_tokens: settings.max_new_tokens,
            "seed": seed,
        }
        return {name: value for name, value in sent.items() if name not in self.left_out}


@dataclass(frozen=True, slots=True)
class RemoteAnswers:
    """Answers in the order of the prompts, and failures: pair id -> reason."""

    answers: list[Generated]
    failures: dict[str, str] = field(default_factory=dict)
    given_up: str = ""
    """Why we stopped sending requests; empty if we did not."""


def generate_remotely(
    endpoint: Endpoint,
    prompts: Sequence[PromptedPair],
    parameters: Mapping[str, float | int],
    *,
    drafts: Drafts,
    label: str = "generating",
    name: str = "",
) -> RemoteAnswers:
    """Send each prompt as a user turn, or its turns where it has some, and return the answers.

    Answers are kept in `drafts` as they arrive and are not requested again. `parameters` go with
    each request (see `Server.parameters`). `name` stands for the address where answers are told
    apart. If a request fails for good, its pair has no answer until the next call tries again.
    Raises UserError if further requests are pointless, and Preempted if the process is asked to
    stop.
    """
    where = name or endpoint.base_url
    keys = [request_key(where, endpoint.model, prompt, parameters) for prompt in prompts]
    failures, given_up = asyncio.run(
        send_prompts(endpoint, prompts, keys, parameters, drafts, label)
    )
    if preemption.request:
        raise preemption.Preempted(preemption.request.reason)
    answers = [drafts.known[key] for key in keys if key in drafts]
    return RemoteAnswers(answers, failures, given_up)


def request_key(
    where: str, model: str, prompt: PromptedPair, parameters: Mapping[str, float | int]
) -> str:
    """Return the key of an answer in drafts: a hash of everything in its request.

    `where` stands for the address (see `Server.recorded_as`).
    """
    shown = messages_of(prompt) if prompt.turns else prompt.prompt
    parts = [where, model, prompt.id, shown, *parameters.items()]
    return hashlib.sha256(json.dumps(parts, allow_nan=False).encode()).hexdigest()


def messages_of(prompt: PromptedPair) -> list[dict[str, str]]:
    """Return the messages that are sent for a prompt: its turns, or one of the user's."""
    turns = prompt.turns or (ChatTurn("user", prompt.prompt),)
    return [{"role": turn.role, "content": turn.content} for turn in turns]


async def send_prompts(
    endpoint: Endpoint,
    prompts: Sequence[PromptedPair],
    keys: Sequence[str],
    parameters: Mapping[str, float | int],
    drafts: Drafts,
    label: str,
) -> tuple[dict[str, str], str]:
    """Send all missing requests. Return failures (pair id -> reason) and why we gave up, or ""."""
    waiting = iter(
        [(key, prompt) for key, prompt in zip(keys, prompts, strict=True) if key not in drafts]
    )
    known = sum(key in drafts for key in keys)
    failures: dict[str, str] = {}
    hopeless: list[UserError] = []
    patience = Patience(replied=known > 0)
    with tqdm(total=len(keys), initial=known, desc=label, unit="answer") as bar, drafts:
        async with ChatClient(endpoint) as client:

            async def send_prompt(key: str, prompt: PromptedPair) -> None:
                try:
                    reply = await client.complete(messages_of(prompt), parameters)
                except CallFailed as failed:
                    failures[prompt.id] = failed.words
                    patience.record_failure(failed)
                except UserError as error:
                    hopeless.append(error)
                else:
                    patience.record_reply()
                    if problem := reply.completion.withheld:
                        failures[prompt.id] = problem
                    else:
                        drafts.add({key: to_answer(reply, prompt)})

            async def run_worker(*, first: bool) -> None:
                if not first:
                    await patience.settled.wait()
                try:
                    for key, prompt in waiting:  # shared by all workers: each takes the next one
                        if hopeless or patience.given_up or preemption.request:
                            return  # wait for requests in flight: they may already be paid for
                        await send_prompt(key, prompt)
                        bar.update()
                finally:
                    patience.settled.set()

            await asyncio.gather(
                *(run_worker(first=number == 0) for number in range(endpoint.concurrency))
            )
    if hopeless:
        raise hopeless[0]
    return failures, patience.given_up


def to_answer(reply: Reply, prompt: PromptedPair) -> Generated:
    """Convert a reply. Without a finish reason, the answer counts as finished."""
    completion = reply.completion
    return Generated(
        prompt.id,
        prompt.user_id,
        completion.text,
        reply.completion_tokens,
        finished=not completion.cut,
    )
