"""Judging through `transformers serve`: small models judge badly, and the counts show it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mvp_align.cli import app
from mvp_align.errors import UserError
from mvp_align.generation.local_server import serving
from mvp_align.judging.verdicts import YesNo, read_judgements
from mvp_align.metrics.rows import read_rows
from mvp_align.modeling.source import locate_weights, packaged_gguf

pytest.importorskip("fastapi", reason="transformers serve needs fastapi and openai")
pytest.importorskip("openai")


def judged_by(folder: Path, run: Path, write_judge, query, max_tokens: int) -> None:
    """Judge all answers by scores and by Yes or No. The command fails if no answer gets a label.

    Replies that are no verdict must be unscored with a reason, and stored.
    """
    with serving(folder) as url:
        settings = {
            "concurrency": 2,
            "read_seconds": 300.0,
            "total_seconds": 300.0,
            "model": str(folder),
        }
        command = [
            "judge",
            str(run),
            "--judge",
            str(write_judge(url, max_tokens=max_tokens, **settings)),
        ]
        for extra in ([], ["--preset", "mvp_yesno"]):
            result = CliRunner().invoke(app, [*command, *extra])
            assert result.exception is None or isinstance(result.exception, UserError), (
                result.output
            )
            assert (result.exception is not None) == ("has no label to go by" in result.output)
            print(result.output)
    # the server is gone: all is kept
    assert " 0 requests (" in CliRunner().invoke(app, command).output

    scored = read_judgements(run / "judgements" / "tuned-in_domain-tester.jsonl")
    said = read_judgements(run / "judgements" / "tuned-in_domain-tester-yes_no.jsonl")
    for one in (*scored, *said):
        assert (one.verdict is None) == (one.unscored != "")
        assert not one.unscored.startswith("no reply")
        assert len(one.replies) == 1
    store = run / "replies.sqlite"
    kept = query(store, "SELECT prompt_tokens, completion_tokens FROM replies")
    assert len(kept) == len(scored) + len(said)
    assert all(prompt > 50 and 0 < completion <= max_tokens for prompt, completion in kept)
    assert query(store, "SELECT count(*) FROM attempts") == [(0,)]

    rows = {(row.metric): row for row in read_rows(run / "metrics.jsonl") if not row.group_by}
    for metric, verdicts in (("paa/dvb_judge", scored), ("paa/mvp_yesno", said)):
        with_verdict = [one for one in verdicts if one.verdict is not None]
        coverage = rows[f"{metric}/coverage"]
        assert (coverage.value, coverage.n) == (len(with_verdict) / len(verdicts), len(verdicts))
        assert (metric in rows) == bool(with_verdict)
    yes = [one.verdict.yes for one in said if isinstance(one.verdict, YesNo)]
    if yes:
        assert rows["paa/mvp_yesno"].value == pytest.approx(sum(yes) / len(yes))


def test_a_random_model_judges_nothing(tiny_model: Path, write_run, write_judge, query) -> None:
    run = write_run(6)
    judged_by(tiny_model, run, write_judge, query, max_tokens=12)
    assert {row.metric for row in read_rows(run / "metrics.jsonl") if row.value == 0} >= {
        "paa/dvb_judge/coverage",
        "paa/dvb_judge/low",
    }


@pytest.mark.slow
@pytest.mark.real_model
def test_smollm2_judges(compose, write_run, write_judge, query) -> None:
    model = compose().model
    if packaged_gguf(model) is None:
        pytest.skip("the demo model's package is not installed: `make setup`")
    judged_by(Path(locate_weights(model)), write_run(3), write_judge, query, max_tokens=48)
