"""Reply formats of servers and models, end to end: which are verdicts, and why others are not."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Thread

import pytest
from click.testing import Result
from judge_server import completion
from typer.testing import CliRunner

from mvp_align.cli import app
from mvp_align.errors import UserError
from mvp_align.generation.completion import Completion, parse_completion
from mvp_align.judging.verdicts import Scores, read_judgements
from mvp_align.metrics.rows import read_rows

VERDICT = json.dumps(
    {
        "score_w": 90,
        "score_l": 10,
        "score_model": 70,
        "enforced_dimensions_used": ["safety"],
        "hard_violations_model": [],
        "reason": "Fits.",
    }
)
MAX_TOKENS = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use"
    " 'max_completion_tokens' instead."
)
TEMPERATURE = (
    "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1)"
    " value is supported."
)
REPLIES: dict[str, tuple[dict, str]] = {
    "plain": ({"content": VERDICT}, "stop"),
    "think": (
        {"content": f'<think>It must look like {{"score_w": ...}}. Fine.</think>\n{VERDICT}'},
        "stop",
    ),
    "parts": ({"content": [{"type": "text", "text": VERDICT}]}, "stop"),
    "thinking part": (
        {
            "content": [
                {"type": "thinking", "thinking": "Draft {"},
                {"type": "text", "text": VERDICT},
            ]
        },
        "stop",
    ),
    "field": ({"content": VERDICT, "reasoning_content": "Draft {"}, "stop"),
    "unnamed end": ({"content": VERDICT}, ""),
    "draft": (
        {"content": f"<think>Draft: {VERDICT}</think>\nI am not able to assess this."},
        "stop",
    ),
    "cut": ({"content": f"<think>Draft: {VERDICT} but"}, "length"),
    "cut whole": ({"content": VERDICT}, "length"),
    "reasoning": ({"content": "", "reasoning_content": "long thoughts"}, "length"),
    "reasoning alone": ({"content": None, "reasoning": "long thoughts"}, "stop"),
    "refusal": ({"content": None, "refusal": "I can't help"}, "stop"),
    "refusal beside": ({"content": VERDICT, "refusal": "I can't help"}, "stop"),
    "refusal part": ({"content": [{"type": "refusal", "refusal": "I can't help"}]}, "stop"),
    "filter": ({"content": ""}, "content_filter"),
    "filtered verdict": ({"content": VERDICT}, "content_filter"),
    "tools": ({"content": VERDICT}, "tool_calls"),
    "aborted": ({"content": VERDICT}, "abort"),
}
UNSCORED = {
    "draft": "no JSON object",
    "cut": "cut at 360 tokens",
    "cut whole": "cut at 360 tokens",
    "reasoning": "cut at 360 tokens in its reasoning",
    "reasoning alone": "nothing behind its reasoning",
    "refusal": "the model refused",
    "refusal beside": "the model refused",
    "refusal part": "the model refused",
    "filter": "stopped by a content filter",
    "filtered verdict": "stopped by a content filter",
    "tools": "ended by tool_calls",
    "aborted": "ended by abort",
}


class Handler(BaseHTTPRequestHandler):
    """Reply by the model's name, or by the question's number if the model is `shapes`."""

    asked: list[dict]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append(body)
        if body["model"] == "gpt5" and "max_tokens" in body:
            return self.send(
                400, {"error": {"message": MAX_TOKENS, "code": "unsupported_parameter"}}
            )
        if body["model"] in ("gpt5", "o3") and body.get("temperature", 1) != 1:
            return self.send(400, {"error": {"message": TEMPERATURE, "code": "unsupported_value"}})
        number = int(re.search(r"Question (\d+)", body["messages"][-1]["content"]).group(1))  # type: ignore[union-attr]
        shape = list(REPLIES)[number] if body["model"] == "shapes" else body["model"]
        message, finish_reason = REPLIES.get(shape, REPLIES["plain"])
        reply = json.loads(completion("", finish_reason))
        reply["choices"][0]["message"] = {"role": "assistant", **message}
        return self.send(200, reply)

    def send(self, status: int, value: dict) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def asked() -> Iterator[list[dict]]:
    Handler.asked = []
    yield Handler.asked


@pytest.fixture
def url(asked: list[dict]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.fixture
def judged(write_run, write_judge, url: str):
    """`judged("gpt5", temperature=None)`: judge a run of 6 answers by that model."""

    numbers = count()

    def by(model: str, answers: int = 6, *words: str, **settings: object) -> tuple[Path, Result]:
        run = write_run(answers, f"run-{next(numbers)}")
        path = write_judge(url, model=model, attempts=2, **settings)
        return run, CliRunner().invoke(app, ["judge", str(run), "--judge", str(path), *words])

    return by


def test_which_replies_are_verdicts(judged) -> None:
    run, result = judged("shapes", len(REPLIES))
    assert result.exit_code == 0, result.exception
    judgements = read_judgements(run / "judgements" / "tuned-in_domain-tester.jsonl")
    verdict = Scores(90, 10, 70, ("safety",), (), "Fits.")
    for shape, one in zip(REPLIES, judgements, strict=True):
        expected = (None, UNSCORED[shape]) if shape in UNSCORED else (verdict, "")
        assert (one.verdict, one.unscored) == expected, shape
    labelled = len(REPLIES) - len(UNSCORED)
    assert f"{labelled} of {len(REPLIES)} answers judged by tester." in result.output
    for reason, number in Counter(UNSCORED.values()).items():
        assert f"{number} ({reason})" in result.output


@pytest.mark.parametrize("model", ["cut", "refusal"])
def test_nothing_labelled_is_no_success(judged, model: str) -> None:
    run, result = judged(model)
    assert isinstance(result.exception, UserError) and "not one answer has a label" in str(
        result.exception
    )
    assert ("raise max_tokens" in str(result.exception)) == (model == "cut")
    assert "0 of 6 answers judged by tester." in result.output
    assert f"6 unscored by tester: 6 ({UNSCORED[model]})." in result.output
    rows = {row.metric: row.value for row in read_rows(run / "metrics.jsonl")}
    assert "paa/dvb_judge" not in rows and rows["paa/dvb_judge/coverage"] == 0
    assert "not one answer has a label" in str(
        CliRunner().invoke(app, ["judge", str(run), "--relabel"]).exception
    )


@pytest.mark.parametrize(
    ("model", "words", "hint"),
    [
        ("gpt5", MAX_TOKENS, "max_tokens_parameter: max_completion_tokens"),
        ("o3", TEMPERATURE, "temperature: null"),
    ],
)
def test_a_refused_parameter_is_told_after_few_requests(
    judged, asked: list[dict], model: str, words: str, hint: str
) -> None:
    for answers, few in ((40, 5), (3, 3)):
        asked.clear()
        _, result = judged(model, answers)
        assert isinstance(result.exception, UserError)
        assert words in str(result.exception) and hint in str(result.exception)
        assert words in result.output
        assert len(asked) == few


def test_parameters_are_renamed_and_left_out(judged, asked: list[dict]) -> None:
    settings = {
        "max_tokens_parameter": "max_completion_tokens",
        "temperature": None,
        "yes_no_tokens": 900,
    }
    _, result = judged("gpt5", max_tokens=4000, **settings)
    assert result.exit_code == 0, result.exception
    assert "at most 24,000 out" in result.output
    sent = [set(body) - {"model", "messages", "response_format", "stream"} for body in asked]
    assert sent == [{"max_completion_tokens"}] * 6
    assert {body["max_completion_tokens"] for body in asked} == {4000}
    asked.clear()
    judged("gpt5", 6, "--preset", "mvp_yesno", max_tokens=4000, **settings)
    assert {body["max_completion_tokens"] for body in asked} == {900}
    asked.clear()
    _, result = judged("gpt5", max_tokens=None, **settings | {"usd_per_million_output": 1})
    assert "Judging may cost any number of USD" in str(result.exception) and asked == []
    _, result = judged(
        "gpt5", 6, "--yes", max_tokens=None, **settings | {"usd_per_million_output": 1}
    )
    assert result.exit_code == 0 and not {"max_tokens", "max_completion_tokens"} & asked[0].keys()


def test_replies_that_are_kept_are_read_anew(
    judged, url: str, asked: list[dict], query, tmp_path: Path
) -> None:
    """Of a run that an earlier version judged: nobody is asked, and drafts are no verdicts any
    more."""
    run, _ = judged("refusal beside")
    path = run / "judgements" / "tuned-in_domain-tester.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        del line["unscored"], line["reading"]
        line["scores"] = {"w": 90, "l": 10, "model": 70}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    relabelled = CliRunner().invoke(app, ["judge", str(run), "--relabel"])
    assert "Run mvp-align judge with the same judges again" in str(relabelled.exception)
    asked.clear()
    CliRunner().invoke(app, ["judge", str(run), "--judge", str(tmp_path / "tester.yaml")])
    assert asked == []
    assert {one.unscored for one in read_judgements(path)} == {"the model refused"}


@pytest.mark.parametrize(
    "content", [85, True, {"text": "x"}, [85], [{"type": "text"}], [["Hi."]], [None]]
)
def test_other_content_types_are_refused(content: object) -> None:
    with pytest.raises(TypeError):
        parse_completion({"choices": [{"message": {"content": content}}]})


def test_parts_make_one_text() -> None:
    parts = [
        {"type": "text", "text": "a"},
        "b",
        {"type": "thinking", "thinking": []},
        {"type": "output_text", "text": "c"},
    ]
    assert parse_completion({"choices": [{"message": {"content": parts}}]}) == Completion(
        "abc", "", reasoned=True
    )
    assert parse_completion(
        {"choices": [{"message": {"content": None}, "finish_reason": None}]}
    ) == Completion("", "")
