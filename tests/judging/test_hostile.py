"""2,000 calls to a faulty server: each answer is judged, or unscored with a reason."""

from collections import Counter
from pathlib import Path

from judge_server import GOOD, LASTING, PASSING, SAID, SLOW, counts, hostile, polite, running
from typer.testing import CliRunner

from mvp_align.cli import app
from mvp_align.judging.verdicts import Scores, read_judgements
from mvp_align.metrics.rows import read_rows

CALLS = 2000


def test_every_answer_ends_judged_or_with_its_reason(write_run, write_judge, query) -> None:
    run = write_run(CALLS)
    kinds = {number: hostile(number)[0] for number in range(CALLS)}
    assert set(kinds.values()) == {GOOD, *PASSING, *SLOW, *SAID, *LASTING}  # all of it happens
    with running(hostile) as url:
        command = ["judge", str(run), "--judge", str(write_judge(url))]
        first = CliRunner().invoke(app, command, catch_exceptions=False)
        assert first.exit_code == 0, first.output
        asked = counts(url)
        again = CliRunner().invoke(app, command, catch_exceptions=False)
        asked_again = counts(url)

    judged = read_judgements(run / "judgements" / "tuned-in_domain-tester.jsonl")
    reasons = {kind: reason for kind, (_, reason) in SAID.items()} | LASTING
    for number, one in enumerate(judged):
        expected = reasons.get(kinds[number], "")
        assert one.unscored == expected, (number, kinds[number])
        assert isinstance(one.verdict, Scores) == (expected == "")

    # Whatever got a whole chat completion got one, was not asked again after it, not even by the
    # second command.
    for number, kind in kinds.items():
        answered = kind not in LASTING
        assert asked[number][1] == asked_again[number][1] == answered, (number, kind)
        if answered:
            assert asked_again[number] == asked[number]
            assert asked[number][0] == 1 + (
                hostile(number)[1] if kind in (*PASSING, *SLOW) else 0
            ), (number, kind)
    lasting = sum(kind in LASTING for kind in kinds.values())
    assert (
        f"tester (model-tester): {lasting} requests ({CALLS - lasting:,} replies are kept"
        in again.output
    )

    # The counts that are printed, and the rows.
    counted = Counter(reasons[kind] for kind in kinds.values() if kind in reasons)
    for reason, number in counted.items():
        assert f"{number:,} ({reason})" in first.output
    rows = {row.metric: row for row in read_rows(run / "metrics.jsonl") if not row.group_by}
    wins, scored = rows["paa/dvb_judge"].value * rows["paa/dvb_judge"].n, CALLS - counted.total()
    assert rows["paa/dvb_judge"].n == scored
    assert rows["paa/dvb_judge/coverage"].value == scored / CALLS
    assert abs(rows["paa/dvb_judge/low"].value * CALLS - wins) < 1e-6
    assert abs(rows["paa/dvb_judge/high"].value * CALLS - (wins + counted.total())) < 1e-6

    store = run / "replies.sqlite"
    assert query(store, "SELECT count(*), count(DISTINCT key) FROM replies") == [
        (CALLS - lasting, CALLS - lasting)
    ]
    ((refused,),) = query(store, "SELECT count(*) FROM attempts WHERE problem LIKE 'HTTP 429%'")
    assert refused >= sum(kind.startswith("429") for kind in kinds.values())


def test_a_server_that_answers_nothing_is_given_up(write_run, write_judge) -> None:
    run = write_run(100)
    with running(always_500) as url:
        result = CliRunner().invoke(
            app, ["judge", str(run), "--judge", str(write_judge(url, attempts=2))]
        )
        asked = sum(number for number, _ in counts(url).values())
    told = (
        "tester was not asked any further: 25 requests in a row without a reply, the last one HTTP"
        " 500: <h1>Internal"
    )
    assert told in str(result.exception)
    assert 50 <= asked < 200  # it did not try them all
    reasons = Counter(
        one.unscored for one in read_judgements(run / "judgements" / "tuned-in_domain-tester.jsonl")
    )
    assert reasons.keys() == {"no reply: HTTP 500", "no reply: not asked"}
    assert reasons["no reply: not asked"] >= 10


def always_500(number: int) -> tuple[str, int]:
    return "always 500", 0


def test_the_store_is_the_only_record_of_replies(write_run, write_judge, tmp_path: Path) -> None:
    """Without it they are asked for again; with it in another place, they are not."""
    run, store = write_run(10), tmp_path / "elsewhere.sqlite"
    with running(polite) as url:
        command = ["judge", str(run), "--judge", str(write_judge(url)), "--replies", str(store)]
        for expected in (1, 1):
            assert CliRunner().invoke(app, command).exit_code == 0
            assert {asked for asked, _ in counts(url).values()} == {expected}
        store.unlink()
        assert CliRunner().invoke(app, command).exit_code == 0
        assert {asked for asked, _ in counts(url).values()} == {2}
