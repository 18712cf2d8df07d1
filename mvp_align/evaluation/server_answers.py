"""Answers of a server to one set of a run: those that are kept, and the others, asked for."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvp_align.config import Config, Prompt
from mvp_align.data.prompts import render
from mvp_align.errors import UserError
from mvp_align.generation.answers import (
    UNANSWERED,
    Drafts,
    Generated,
    answers_path,
    drafts_folder,
    draw_record,
    prompt_record,
    read_drafts,
    read_matching_answers,
    write_answers,
)
from mvp_align.generation.api_model import answers_cost, api_model
from mvp_align.generation.cost import CostEstimate, confirm_cost
from mvp_align.generation.remote import LEFT_OUT, Server, generate_remotely, request_key
from mvp_align.runtime.json_files import from_json
from mvp_align.schema import ChatTurn, PreferencePair, PromptedPair


@dataclass(frozen=True, slots=True)
class AskedSet:
    """A set of a run whose pairs a server answers, as one stage of the run."""

    server: Server
    stage: str
    name: str
    pairs: Sequence[PreferencePair]
    data_sha256: str
    """Of the file that the pairs come from."""
    run: Path
    config: Config

    @property
    def path(self) -> Path:
        return answers_path(self.run, self.stage, self.name)

    @property
    def prompts(self) -> list[PromptedPair]:
        return plain_prompts(self.pairs, self.config.generation.prompt)

    def answers(self) -> list[Generated]:
        """Return the server's answers, both existing and new, and write them to `answers/`.

        Failures are recorded in the .json file and requested again next time. Raises UserError if
        no answer arrived, or if we gave up on the server, and Preempted; answers that arrived are
        kept.
        """
        known = self._read()
        missing = [prompt for prompt in self.prompts if prompt.id not in known]
        if missing:
            drafts = Drafts(drafts_folder(self.path), read_drafts(self.path))
            asked = generate_remotely(
                self.server.endpoint,
                missing,
                self._parameters(),
                drafts=drafts,
                label=f"{self.stage} {self.name}",
                name=self.server.recorded_as,
            )
            known |= {answer.id: answer for answer in asked.answers}
            where = self.server.endpoint.base_url
            if not known:
                why = _common_reasons(asked.failures.values())
                raise UserError(f"{where} answered nothing: {why}.{self._hint(why)}")
            answered = [known[pair.id] for pair in self.pairs if pair.id in known]
            how = self._made_with() | draw_record(self.config.generation, self.config.seed)
            write_answers(self.path, answered, how | {UNANSWERED: asked.failures})
            drafts.discard()
            if asked.given_up:
                raise UserError(
                    f"{where} was not asked any further: {asked.given_up}. {len(answered)} answers"
                    " are kept: see to the server, then run the same command again."
                )
        return [known[pair.id] for pair in self.pairs if pair.id in known]

    def kept(self) -> set[str]:
        """Return the ids of pairs that `answers` will not ask about.

        Raises UserError if the run has answers that were made otherwise.
        """
        drafts, parameters = read_drafts(self.path), self._parameters()
        where, model = self.server.recorded_as, self.server.endpoint.model
        drafted = {
            prompt.id
            for prompt in self.prompts
            if request_key(where, model, prompt, parameters) in drafts
        }
        return {*self._read()} | drafted

    def unanswered(self) -> str:
        """Say how many pairs were left without an answer and why; "" if none were."""
        how = from_json(self.path.with_suffix(".json").read_text("utf-8"))
        failures = how.get(UNANSWERED) or {}
        if not failures:
            return ""
        return (
            f"{len(failures)} of {len(self.pairs)} pairs have none, and are left out of every"
            f" number: {_common_reasons(failures.values())}"
        )

    def _read(self) -> dict[str, Generated]:
        wanted = [pair.id for pair in self.pairs]
        return read_matching_answers(self.path, self._made_with(), wanted)

    def _parameters(self) -> dict[str, float | int]:
        return self.server.parameters(self.config.generation, self.config.seed)

    def _made_with(self) -> dict[str, Any]:
        """Return everything that the answers depend on."""
        parameters, generation = self._parameters(), self.config.generation
        return {
            "model": self.server.endpoint.model,
            "endpoint": self.server.recorded_as,
            "data": self.data_sha256,
            "prompt": prompt_record(generation.prompt),
            "temperature": parameters.get("temperature"),
            "max_new_tokens": generation.max_new_tokens,
            "seed": parameters.get("seed"),
        }

    def _hint(self, why: str) -> str:
        """Return a hint on the settings that help if the server rejects a parameter."""
        rename, drop = "--max-tokens-parameter NAME", "--leave-out {}"
        if self.config.model.api.base_url is not None:
            rename, drop = "model.api.max_tokens_parameter=NAME", "model.api.leave_out=[{}]"
        hints = {
            "max_tokens": f" {rename} renames that limit (OpenAI's reasoning models:"
            " max_completion_tokens)."
        }
        hints |= {name: f" {drop.format(name)} does not send it." for name in LEFT_OUT}
        return "".join(hint for name, hint in hints.items() if name in why)


def api_cost(asked: Sequence[AskedSet], config: Config) -> CostEstimate:
    """Estimate what the missing answers of `model.api` cost, at most. `asked` is not empty."""
    model = api_model(config)
    first, *others = (answers_cost(model, one.prompts, one.kept()) for one in asked)
    return sum(others, first)


def confirm_api_cost(asked: Sequence[AskedSet], config: Config) -> None:
    """Show that estimate, and ask for consent above `model.api.limit_usd`.

    Raises UserError if the user declines, or if there is no terminal to ask on.
    """
    name = "model.api.limit_usd"
    limit_usd = config.model.api.limit_usd
    confirm_cost([api_cost(asked, config)], limit_usd, yes=False, task="Answering", limit=name)


def plain_prompts(pairs: Sequence[PreferencePair], prompt: Prompt) -> list[PromptedPair]:
    """Return prompts to send as user turns, of conversations with all turns before.

    The server applies its model's chat template itself.
    """
    return [
        PromptedPair(
            pair.id,
            pair.user_id,
            text := render(pair, prompt),
            pair.chosen,
            pair.rejected,
            turns=(*pair.before, ChatTurn("user", text)) if pair.before else (),
        )
        for pair in pairs
    ]


def _common_reasons(failures: Iterable[str]) -> str:
    """Return the three most frequent reasons, like `HTTP 400: no such thing (12 pairs), ...`."""
    return ", ".join(
        f"{reason} ({count} pairs)" for reason, count in Counter(failures).most_common(3)
    )
