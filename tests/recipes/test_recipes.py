"""Whole runs on a tiny model: files, reproducibility, resuming after a kill, mistakes."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from run_files import WEIGHTS, adapter_bytes, lines, logged, score_bytes

from mvp_align.data.sets import SETS, UFP4
from mvp_align.errors import AlreadyDone

ROOT = Path(__file__).parents[2]
SCORE_KEYS = [
    "id",
    "user_id",
    "chosen_logp",
    "rejected_logp",
    "chosen_tokens",
    "rejected_tokens",
    "margin",
]
ROW_KEYS = ["stage", "set", "metric", "group_by", "group", "value", "low", "high", "n", "users"]

Run = Callable[..., Path]


# What a run leaves


def test_the_run_folder_holds_what_the_contract_names(finished: Path, sharp_model: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "config.yaml", "environment.json", "adapter", "checkpoints", "scores", "groups",
        "curves.jsonl", "texts", "metrics.jsonl", "notes.json",
        "report.html", "DONE",
    }  # fmt: skip
    assert {"adapter_config.json", WEIGHTS, "tokenizer.json"} <= {
        path.name for path in (finished / "adapter").iterdir()
    }
    adapter = json.loads((finished / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(sharp_model)
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["inputs"]["model"] == str(sharp_model)
    assert environment["passes"] == {"micro": 2, "checkpointing": False}
    assert {"model.id", "data.train", "data.test", "evals.ufp4"} <= set(environment["inputs"])
    assert set(environment["hashes"]) == {
        "data/train", "data/val", "data/test", "data/ufp4", "base_model", "prompts/train",
        "prompts/in_domain",
        "prompts/ufp4",
    }  # fmt: skip
    assert "<html" in (finished / "report.html").read_text("utf-8")
    assert {path.name for path in (finished / "checkpoints").glob("checkpoint-*")} == {
        "checkpoint-4",
        "checkpoint-5",
    }


def test_every_pair_has_a_score_of_both_stages(finished: Path) -> None:
    files = {path.name for path in (finished / "scores").iterdir()}
    sets = ("in_domain", "ufp4", "in_domain-prompt_free", "ufp4-prompt_free")
    assert files == {f"{stage}-{name}.jsonl" for stage in ("base", "tuned") for name in sets}
    for name, count in (("in_domain", 10), ("ufp4", 8)):
        base, tuned = (
            lines(finished / "scores" / f"{stage}-{name}.jsonl") for stage in ("base", "tuned")
        )
        assert len(base) == len({score["id"] for score in base}) == count
        assert [score["id"] for score in base] == [score["id"] for score in tuned]
        for score in (*base, *tuned):
            assert list(score) == SCORE_KEYS
            means = (
                score[f"{which}_logp"] / score[f"{which}_tokens"]
                for which in ("chosen", "rejected")
            )
            assert score["margin"] == pytest.approx(next(means) - next(means))
        assert max(abs(a["margin"] - b["margin"]) for a, b in zip(base, tuned, strict=True)) > 0.01


def test_metrics_are_tidy_rows_that_follow_from_the_scores(finished: Path) -> None:
    rows = lines(finished / "metrics.jsonl")
    assert all(list(row) == ROW_KEYS for row in rows)
    assert {row["stage"] for row in rows} == {"base", "tuned"}
    parts = {f"ufp4/{name}" for name in SETS[UFP4].user_types}
    assert {row["set"] for row in rows} == {"in_domain", "ufp4", "neutral", *parts}
    assert {row["metric"] for row in rows if row["set"] == "neutral"} == {"damage/perplexity"}
    whole = {(r["stage"], r["set"], r["metric"]): r for r in rows if not r["group_by"]}
    metrics = {f"opa/acc@{d}" for d in ("0", "0.2", "2", "4", "6", "8")} | {
        "opa/mean",
        "opa/margin",
    }
    headlines = {"opa/acc@0_deff", "opa/margin_deff"}
    against = {"opa/prompt_free", "opa/length_only"}
    change = {
        "opa/chosen_shift",
        "opa/rejected_shift",
        "opa/acc@0_lift",
        "opa/acc@0_better_off",
        "opa/acc@0_worse_off",
        *(f"reward_accuracy{kind}" for kind in ("", "/tie", "/per_token", "/per_token/tie")),
    }
    of = {
        stage: {metric for at, name, metric in whole if (at, name) == (stage, "ufp4")}
        for stage in ("base", "tuned")
    }
    assert of["base"] - headlines == metrics | against
    headlines |= {f"{name}_deff" for name in ("opa/acc@0_lift", *change)}
    assert of["tuned"] - headlines == metrics | against | change
    assert "opa/margin_deff" in of["base"] & of["tuned"]
    for stage in ("base", "tuned"):
        for name in ("in_domain", "ufp4"):
            margins = [
                score["margin"] for score in lines(finished / "scores" / f"{stage}-{name}.jsonl")
            ]
            row = whole[stage, name, "opa/acc@0"]
            assert row["n"] == len(margins)
            assert row["value"] == pytest.approx(
                sum(margin > 0 for margin in margins) / len(margins)
            )
            assert row["low"] <= row["value"] <= row["high"]
            assert whole[stage, name, "opa/margin"]["value"] == pytest.approx(
                sum(margins) / len(margins)
            )
    assert {row["group_by"] for row in rows} >= {
        "",
        "dimension",
        "level",
        "birth_country",
        "region",
        "user_type",
    }


def test_groups_of_few_people_are_counted_and_whose_each_pair_is_stands_in_a_file(
    finished: Path,
) -> None:
    grouped = [row for row in lines(finished / "metrics.jsonl") if row["group_by"]]
    assert all(row["users"] >= 5 for row in grouped if not row["metric"].endswith("_suppressed"))
    assert any(
        row["metric"] == "opa/acc@0_suppressed" and row["group_by"] == "birth_country"
        for row in grouped
    )
    for name in ("in_domain", "ufp4"):
        groups, scores = (
            lines(finished / "groups" / f"{name}.jsonl"),
            lines(finished / "scores" / f"base-{name}.jsonl"),
        )
        assert [(one["id"], one["user_id"]) for one in groups] == [
            (one["id"], one["user_id"]) for one in scores
        ]
    assert {"birth_country", "region", "gender", "dimension"} <= lines(
        finished / "groups" / "in_domain.jsonl"
    )[0]["groups"].keys()


def test_statistics_of_a_finished_run_need_nothing_but_its_folder(
    finished: Path, tmp_path: Path
) -> None:
    from mvp_align.reporting.stats import Choices, write_statistics

    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    known = {
        (r["stage"], r["set"], r["metric"]): r["value"]
        for r in lines(copy / "metrics.jsonl")
        if not r["group_by"]
    }
    for name in ("in_domain", "ufp4"):
        write_statistics(copy, Choices(set_name=name, min_users=1, draws=100))
    rows = lines(copy / "metrics.jsonl")
    now = {(r["stage"], r["set"], r["metric"]): r["value"] for r in rows if not r["group_by"]}
    assert {key: now[key] for key in known} == pytest.approx(known)
    assert any(
        r["metric"] == "opa/acc@0_p_holm" or r["metric"] == "opa/margin_lift_p_holm" for r in rows
    )
    assert not [r for r in rows if r["metric"].endswith("_suppressed")]


def test_training_started_at_ln_2_and_moved(finished: Path) -> None:
    losses = [row["loss"] for row in logged(finished) if "loss" in row]
    assert len(losses) == 5
    assert losses[0] == pytest.approx(0.693147, abs=1e-3)
    assert losses[-1] < 0.69


# Again, on and on


def test_a_finished_run_says_so_and_is_left_alone(
    run: Run, finished: Path, settings: list[str], capsys: pytest.CaptureFixture[str], command
) -> None:
    def state() -> dict[Path, tuple[int, int]]:
        return {
            path: (path.stat().st_mtime_ns, path.stat().st_size) for path in finished.rglob("*")
        }

    before = state()
    with pytest.raises(AlreadyDone):
        run(finished)
    assert command("train.py", *settings, f"run.dir={finished}") == 0
    assert (
        f"{finished} is DONE. To run it again: run.on_exists=overwrite, or another run.name."
        in capsys.readouterr().out
    )
    assert state() == before


def test_a_finished_run_is_not_another_one(
    finished: Path, settings: list[str], capsys: pytest.CaptureFixture[str], command
) -> None:
    assert command("train.py", *settings, f"run.dir={finished}", "train.beta=0.3", "seed=13") == 2
    said = capsys.readouterr().err
    assert f"{finished} holds a finished run with other settings." in said
    assert "  - seed: 12 there, 13 now\n  - train.beta: 0.1 there, 0.3 now\n" in said


def test_the_same_command_gives_the_same_bytes(run: Run, finished: Path, tmp_path: Path) -> None:
    again = run(tmp_path / "again")
    assert adapter_bytes(again) == adapter_bytes(finished)
    assert score_bytes(again) == score_bytes(finished)
    assert (again / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    other = run(tmp_path / "other", "seed=13", "evals=in_domain", "train.max_steps=1")
    assert adapter_bytes(other) != adapter_bytes(finished)


# Evaluating


def test_evaluating_the_adapter_in_a_fresh_process_gives_the_scores_of_the_run(
    finished: Path, settings: list[str], tmp_path: Path
) -> None:
    words = [word for word in settings if not word.startswith(("train.", "tracking"))]
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "evaluate.py",
            *words,
            f"adapter={finished / 'adapter'}",
            f"run.dir={tmp_path / 'eval'}",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for stage in ("base", "tuned"):
        for name in ("in_domain", "ufp4", "in_domain-prompt_free"):
            trained = lines(finished / "scores" / f"{stage}-{name}.jsonl")
            found = lines(tmp_path / "eval" / "scores" / f"{stage}-{name}.jsonl")
            assert [score["id"] for score in found] == [score["id"] for score in trained]
            for now, then in zip(found, trained, strict=True):
                for which in ("chosen", "rejected"):
                    tokens = then[f"{which}_tokens"]
                    assert now[f"{which}_logp"] / tokens == pytest.approx(
                        then[f"{which}_logp"] / tokens, abs=1e-5
                    )
    assert not (tmp_path / "eval" / "adapter").exists()
    assert not (tmp_path / "eval" / "checkpoints").exists()


def test_evaluating_without_an_adapter_scores_the_base_alone(
    run: Run, finished: Path, tmp_path: Path
) -> None:
    folder = run(tmp_path / "base", "evals.batch_size=3", name="evaluate")
    assert {row["stage"] for row in lines(folder / "metrics.jsonl")} == {"base"}
    found, known = (lines(path / "scores" / "base-in_domain.jsonl") for path in (folder, finished))
    for now, then in zip(found, known, strict=True):  # and the batch size moves no score
        assert now["margin"] == pytest.approx(then["margin"], abs=1e-5)


# Prompts, data, validation, tracking

QUICK = ["evals=in_domain", "train.max_steps=1", "data.limit=6"]


def test_each_prompt_is_its_own_run(run: Run, tmp_path: Path) -> None:
    """Longest to shortest, all with the paper's answers."""
    margins = {}
    for prompt in ("paper", "preference", "chat", "question"):
        folder = run(tmp_path / prompt, *QUICK, f"prompt={prompt}")
        scores = lines(folder / "scores" / "base-in_domain.jsonl")
        assert len(scores) == 6
        margins[prompt] = tuple(score["margin"] for score in scores)
        assert {row["stage"] for row in lines(folder / "metrics.jsonl")} == {"base", "tuned"}
    assert len(set(margins.values())) == 4


def test_your_own_pairs_are_split_by_person(run: Run, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"What of {n}?",
            "chosen": f"{n} is fine.",
            "rejected": f"{n} is dull.",
            "user_id": f"u{n % 5}",
        }
        for n in range(10)
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [
        "data=files",
        f"data.train={tmp_path / 'mine.jsonl'}",
        "data.format=pairs",
        "data.test_share=0.4",
    ]
    folder = run(tmp_path / "run", *data, "evals=in_domain", "train.max_steps=2")
    tested = {score["user_id"] for score in lines(folder / "scores" / "tuned-in_domain.jsonl")}
    assert len(tested) == 2
    assert len(lines(folder / "scores" / "tuned-in_domain.jsonl")) == 4
    notes = json.loads((folder / "notes.json").read_text())["notes"]
    assert notes == [
        f"test: 2 of 5 users of {tmp_path / 'mine.jsonl'} held out (data.test_share=0.4, seed=12)."
    ]


def test_looking_at_validation_pairs_shows_in_the_log_and_moves_nothing(
    run: Run, finished: Path, tmp_path: Path
) -> None:
    folder = run(tmp_path / "run", "evals.every_steps=2", "evals.every_pairs=4")
    by_step = {row["step"]: row for row in logged(folder) if "eval_in_domain/opa/acc@0" in row}
    assert list(by_step) == [2, 4, 5]
    ood = [row["step"] for row in logged(folder) if "eval_ufp4/honesty/opa/acc@0" in row]
    assert ood == [2, 4, 5]
    assert by_step[4]["eval_in_domain/opa/chosen_shift"] != 0
    assert [row["step"] for row in logged(folder) if "eval_loss" in row] == [2, 4, 5]
    assert adapter_bytes(folder) == adapter_bytes(finished)
    assert score_bytes(folder) == score_bytes(finished)


@pytest.fixture
def wandb_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in (
        ("SILENT", "true"),
        ("ERROR_REPORTING", "false"),
        ("CONFIG_DIR", tmp_path / "c"),
        ("CACHE_DIR", tmp_path),
    ):
        monkeypatch.setenv(f"WANDB_{name}", str(value))


@pytest.mark.usefixtures("wandb_offline")
def test_wandb_keeps_an_offline_record(run: Run, tmp_path: Path) -> None:
    folder = run(
        tmp_path / "run", "evals.every_steps=1", "evals.every_pairs=2", *QUICK, "tracking=wandb"
    )
    (record,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    written = record.read_bytes()
    for key in (
        b"train/loss",
        b"train/grad_norm",
        b"eval/in_domain/opa/acc@0",
        b"tuned/in_domain/opa/acc@0",
    ):
        assert key in written, key
    assert (folder / "wandb_id.txt").read_text().strip().encode() in written


# Errors


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """`command("train.py", ...)`: run the script in this process, and return its exit code."""
    monkeypatch.chdir(tmp_path)

    def ran(script: str, *words: str) -> int:
        monkeypatch.setattr(sys, "argv", [script, *words])
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    yield ran


def pairs_file(path: Path, users: list[str]) -> Path:
    rows = [
        {"prompt": f"{path.stem} {n}?", "chosen": "Yes.", "rejected": "No.", "user_id": user}
        for n, user in enumerate(users)
    ]
    path.write_text(json.dumps(rows))
    return path


def test_mistakes_end_with_code_2_and_plain_words(
    command: Callable[..., int],
    settings: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train = pairs_file(tmp_path / "train.json", ["ann", "bob", "eve"])
    test = pairs_file(tmp_path / "test.json", ["eve", "joe"])
    pairs = ["data=files", "data.format=pairs"]
    folder = tmp_path / "run"
    cases = [
        ("evaluate.py", [f"adapter={tmp_path / 'none'}"], "no adapter there"),
        (
            "train.py",
            [f"model.id={tmp_path / 'gone'}", "train.dry_run=true"],
            f"(now: {tmp_path / 'gone'};",
        ),
        (
            "train.py",
            [*pairs, f"data.train={train}", f"data.test={test}"],
            "1 user(s) are in both train and test: eve",
        ),
        ("train.py", [*pairs, f"data.train={tmp_path / 'trian.json'}"], f"Did you mean {train}?"),
        ("train.py", ["data.max_prompt_tokens=2"], "all 10 training pairs are over"),
        ("train.py", ["lora.target_modules=[c_attn]"], "has no linear layer c_attn"),
        ("train.py", [f"model.id={tmp_path / 'gone'}"], "set model.id to a local folder"),
        ("train.py", ["evals.every_steps=1", "data.val=null"], "set data.val=PATH"),
    ]
    for script, words, said in cases:
        code = command(script, *settings, f"run.dir={folder}", *words)
        err = capsys.readouterr().err
        assert (code, "Traceback" in err) == (2, False), (words, err)
        assert said in err
        assert not folder.exists() or words[0].startswith("lora")  # found out before the run begins
        shutil.rmtree(folder, ignore_errors=True)


def test_a_mistake_ends_a_real_process_with_code_2(settings: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "evaluate.py",
            *settings,
            f"adapter={tmp_path / 'none'}",
            f"run.dir={tmp_path / 'run'}",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"adapter={tmp_path / 'none'}: no adapter there" in done.stderr
