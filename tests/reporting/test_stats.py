"""`mvp-align stats`: numbers from files, reproducibility, other metrics, --against, errors."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mvp_align.cli import app
from mvp_align.config import Config, Data, Model, Prompt
from mvp_align.errors import UserError
from mvp_align.metrics.intervals import clustered_mean
from mvp_align.metrics.names import derivation
from mvp_align.metrics.rows import Row, read_rows, row, write_rows
from mvp_align.metrics.score_rows import pair_values, score_rows
from mvp_align.reporting.stats import Choices, write_statistics
from mvp_align.reporting.stats_tables import statistics_tables
from mvp_align.reporting.table_formats import format_tables
from mvp_align.runs.pair_files import (
    PairValues,
    read_groups,
    read_values,
    write_groups,
    write_values,
)
from mvp_align.runs.run_folder import RunFolder, open_run
from mvp_align.schema import PairScore

COUNTRIES = {"Chile": 8, "Viet Nam": 2, "Norway": 6, "Japan": 7, "Prefer not to say": 1}
"""Country -> people, each with three pairs."""


def score(number: int, user: str, margin: float) -> PairScore:
    return PairScore(f"p{number}", user, -20.0, (-2.0 - margin) * 10, 10, 10)


def run_of(folder: Path, seed: int = 0, people: dict[str, int] = COUNTRIES, each: int = 3) -> Path:
    """A finished run with random margins of both stages, groups, and rows without breakdowns."""
    random = np.random.default_rng(seed)
    config = Config(
        recipe="evaluate",
        model=Model("tiny", "somewhere/tiny"),
        data=Data(name="files"),
        prompt=Prompt("p", "{question}"),
    )
    run = open_run(folder, config)
    born = [country for country, count in people.items() for _ in range(count)]
    users = [number for number in range(len(born)) for _ in range(each)]
    groups = [
        {
            "birth_country": born[u],
            "gender": "Female" if u % 2 else "Male",
            "employment_status": "Unemployed, seeking work",
            "stated_safety": "High" if u % 3 else "Low",
            "dimension": "safety" if n % 2 else "fluency",
            "level": "High",
        }
        for n, u in enumerate(users)
    ]
    taste = np.random.default_rng(99).normal(size=len(born))
    base = [score(n, f"u{u}", taste[u] + np.sin(n)) for n, u in enumerate(users)]
    tuned = [
        score(n, f"u{u}", base[n].margin + 0.3 + 0.5 * random.normal()) for n, u in enumerate(users)
    ]
    run.write_scores("base", "in_domain", base)
    run.write_scores("tuned", "in_domain", tuned)
    write_groups(
        run.groups("in_domain"), [(s.id, s.user_id, g) for s, g in zip(base, groups, strict=True)]
    )
    free = clustered_mean([0.0, 1.0], ["a", "b"], "share")
    write_rows(
        run.metrics,
        [
            *score_rows("base", "in_domain", base, {}),
            *score_rows("tuned", "in_domain", tuned, {}, base),
            row("tuned", "in_domain", "opa/prompt_free", free),
            row("tuned", "ufp4", "opa/acc@0", free),
        ],
    )
    run.finish()
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_of(tmp_path / "mine")


QUICK = Choices(draws=200)


def test_what_a_value_blind_model_gets_right_of_each_group(run: Path) -> None:
    """It is of the pairs alone, so that `stats` works it out again for any breakdown."""
    path = RunFolder(run, resumed=False, writes=True).groups("in_domain")
    lines = list(read_groups(path).values())
    share = {id: (0.0, 0.5, 1.0)[number % 3] for number, (id, _, _) in enumerate(lines)}
    write_groups(path, lines, share)
    choices = replace(QUICK, by=("gender",), cross=("gender,dimension",))
    found = rows_after(run, choices)
    blind = [row for row in found if row.metric == "opa/value_blind_ceiling"]
    assert {row.stage for row in blind} == {"base", "tuned"}
    assert all(row.low is None and row.high is None for row in blind)
    whole = find(found, "opa/value_blind_ceiling")
    assert whole.value == pytest.approx(np.mean(list(share.values())))
    for gender in ("Female", "Male"):
        of = [share[id] for id, _, tags in lines if tags["gender"] == gender]
        row = find(found, "opa/value_blind_ceiling", "gender", gender)
        assert (row.value, row.n) == (pytest.approx(np.mean(of)), len(of))
    assert rows_after(run, choices) == found
    shown = printed(run, choices)
    assert "blind" in shown
    assert "is the best such model for the whole set" in " ".join(shown.split())


def rows_after(run: Path, choices: Choices = QUICK, against: Path | None = None) -> list[Row]:
    write_statistics(run, choices, against)
    return read_rows(run / "metrics.jsonl")


def find(
    rows: Sequence[Row], metric: str, group_by: str = "", group: str = "", stage: str = "tuned"
) -> Row:
    (found,) = [
        r
        for r in rows
        if (r.stage, r.metric, r.group_by, r.group, r.set)
        == (stage, metric, group_by, group, "in_domain")
    ]
    return found


def margins(run: Path, stage: str) -> np.ndarray:
    return np.array(
        [s.margin for s in RunFolder(run, resumed=False).read_scores(stage, "in_domain") or ()]
    )


def test_groups_are_the_means_of_their_pairs(run: Path) -> None:
    rows = rows_after(run)
    before, after = margins(run, "base"), margins(run, "tuned")
    chile = slice(0, 24)
    lift = find(rows, "opa/acc@0_lift", "birth_country", "Chile")
    assert lift.value == pytest.approx((after[chile] > 0).mean() - (before[chile] > 0).mean())
    assert (lift.n, lift.users) == (24, 8)
    assert find(rows, "opa/margin", "region", "Latin America", "base").value == pytest.approx(
        before[chile].mean()
    )
    assert find(rows, "opa/acc@0.2", "region", "Other").value == pytest.approx(
        (after[30:48] > 0.2).mean()
    )
    assert find(rows, "opa/chosen_shift", "gender", "Female").value == 0
    women = np.repeat(np.arange(24) % 2 == 1, 3)
    assert find(rows, "opa/mean", "gender", "Female").value == pytest.approx(
        np.mean([after[women] > d for d in (0, 0.2, 2, 4, 6, 8)])
    )
    held = find(rows, "opa/acc@0_suppressed", "birth_country")
    assert (held.value, held.n, held.users) == (2, 9, 3)
    assert not [
        r
        for r in rows
        if r.group in ("Viet Nam", "Prefer not to say", "Unspecified", "Southeast Asia")
    ]


def test_everything_is_broken_down_by_default_and_all_regions_are_there(run: Path) -> None:
    by = {
        "birth_country",
        "dimension",
        "dimension,level",
        "employment_status",
        "gender",
        "level",
        "region",
        "stated_safety",
    }
    assert {r.group_by for r in rows_after(run)} == {"", *by}
    for regions, name in (("un", "Northern Europe"), ("prism", "Europe"), ("authors", "Other")):
        found = rows_after(run, replace(QUICK, regions=regions, by=("region",)))
        groups = {r.group for r in found if r.group_by == "region" and r.metric == "opa/acc@0"}
        assert name in groups and len(groups) == 3
        assert find(found, "opa/acc@0", "region", name).users == 6


def test_the_same_command_leaves_the_same_files(run: Path) -> None:
    rows_after(run)
    first = {name: (run / name).read_bytes() for name in ("metrics.jsonl", "report.html")}
    rows_after(run)
    assert {name: (run / name).read_bytes() for name in first} == first


def test_other_rows_stay_and_the_whole_set_is_told_once(run: Path) -> None:
    before = {
        (r.stage, r.set, r.metric, r.group_by, r.group): r for r in read_rows(run / "metrics.jsonl")
    }
    rows = rows_after(run)
    after = {(r.stage, r.set, r.metric, r.group_by, r.group): r for r in rows}
    assert len(after) == len(rows)
    for key, old in before.items():  # to rounding
        assert (after[key].value, after[key].n) == (pytest.approx(old.value), old.n)
    assert (
        after["tuned", "in_domain", "opa/prompt_free", "", ""]
        == before["tuned", "in_domain", "opa/prompt_free", "", ""]
    )


def test_asking_otherwise_replaces_what_it_is_about_and_leaves_the_rest(run: Path) -> None:
    many = rows_after(run)
    few = rows_after(run, replace(QUICK, by=("birth_country",), min_users=8))
    assert [
        r.group
        for r in few
        if r.group_by == "birth_country" and r.metric == "opa/acc@0" and r.stage == "base"
    ] == ["Chile"]
    assert find(few, "opa/acc@0_suppressed", "birth_country").value == 4
    assert not [
        r for r in few if r.group_by == "birth_country" and r.metric.endswith(("_gap", "_worst"))
    ]
    assert [r for r in few if r.group_by == "gender"] == [r for r in many if r.group_by == "gender"]


def test_small_groups_can_be_shrunk(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", people={**COUNTRIES, "Peru": 9, "Cuba": 3})
    rows = rows_after(run, replace(QUICK, small="shrink", by=("birth_country",)))
    cuba = find(rows, "opa/acc@0_shrunk", "birth_country", "Cuba")
    assert cuba.users == 3 and cuba.low < cuba.value < cuba.high
    assert not [
        r for r in rows if r.group_by == "birth_country" and r.metric == "opa/acc@0_suppressed"
    ]
    # 0 throughout: nothing to learn from
    assert find(rows, "opa/acc@8_suppressed", "birth_country").value == 3
    assert "Cuba (shrunk)" in printed(run, replace(QUICK, small="shrink", by=("birth_country",)))


def test_two_names_are_crossed(run: Path) -> None:
    rows = rows_after(run, replace(QUICK, by=("gender",), cross=("employment_status,gender",)))
    crossed = find(rows, "opa/acc@0", "employment_status,gender", "Unemployed, seeking work,Female")
    plain = find(rows, "opa/acc@0", "gender", "Female")
    assert (crossed.value, crossed.low, crossed.high) == (plain.value, plain.low, plain.high)


def test_against_another_run(run: Path, tmp_path: Path) -> None:
    other = run_of(tmp_path / "other", seed=1)
    rows = rows_after(run, replace(QUICK, by=("gender",)), other)
    difference = find(rows, "opa/margin_vs_other_lift")
    assert difference.value == pytest.approx(
        margins(run, "tuned").mean() - margins(other, "tuned").mean()
    )
    told = clustered_mean(
        (margins(run, "tuned") - margins(other, "tuned")).tolist(),
        [f"u{n // 3}" for n in range(72)],
    )
    assert (difference.low, difference.high) == pytest.approx((told.low, told.high))
    p, corrected = (
        find(rows, f"opa/acc@0_vs_other_lift{word}", "gender", "Male").value
        for word in ("_p", "_p_holm")
    )
    assert 0 < p <= corrected <= 1
    assert find(rows, "opa/acc@0_vs_other_better_off").users == 24
    text = printed(run, replace(QUICK, by=("gender",)), other)
    assert "opa/acc@0 by gender, against other" in text
    # and without it, the comparison stays
    assert rows_after(run, replace(QUICK, by=("gender",))) != []
    assert find(read_rows(run / "metrics.jsonl"), "opa/margin_vs_other_lift") == difference


def test_other_metrics_than_opa(run: Path, tmp_path: Path) -> None:
    """Labels of generated answers, some of them missing in one of the stages."""
    folder = RunFolder(run, resumed=False)
    for stage, right in (("base", 3), ("tuned", 2)):
        lines = [
            PairValues(
                f"p{n}",
                f"u{n // 3}",
                {"paa/dvb_judge": float(n % right == 0)} if n % 10 or stage == "base" else {},
            )
            for n in range(72)
        ]
        write_values(folder.values(stage, "in_domain"), lines)
    found = write_statistics(run, replace(QUICK, by=("gender",)))
    rows = read_rows(run / "metrics.jsonl")
    scored = [n for n in range(72) if n % 10]
    paa = find(rows, "paa/dvb_judge")
    assert (paa.value, paa.n) == (pytest.approx(np.mean([n % 2 == 0 for n in scored])), len(scored))
    lift = find(rows, "paa/dvb_judge_lift")
    assert lift.value == pytest.approx(np.mean([(n % 2 == 0) - (n % 3 == 0) for n in scored]))
    assert find(rows, "paa/dvb_judge", "gender", "Male").users == 12
    assert find(rows, "paa/dvb_judge_gap", "gender").value >= 0
    assert find(rows, "paa/dvb_judge", stage="base").n == 72
    assert "tuned: 8 pairs have no paa/dvb_judge, and are left out of it." in found.remarks
    assert "paa/dvb_judge by gender" in printed(
        run, replace(QUICK, by=("gender",)), metric="paa/dvb_judge"
    )


def printed(
    run: Path, choices: Choices, against: Path | None = None, metric: str = "opa/acc@0"
) -> str:
    found = write_statistics(run, choices, against)
    return format_tables("table", statistics_tables(found, metric))


def test_tables_fit_and_say_what_is_not_shown(run: Path) -> None:
    text = printed(run, QUICK)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert "2 groups have too few people to be shown: 3 people, 9 pairs." in text
    assert "tuned, in_domain: 72 pairs of 24 users" in text
    assert "Lowest tuned: " in text and "points to the highest." in text
    assert "opa/acc@0: better off" in text


def test_a_country_that_is_none_is_named(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", people={**COUNTRIES, "Atlantis": 5})
    assert write_statistics(run, QUICK).remarks == [
        "Region Other holds names that are no country's: Atlantis."
    ]


def test_the_page_shows_who_gains(run: Path) -> None:
    write_statistics(run, QUICK)
    page = (run / "report.html").read_text("utf-8")
    assert "Who gains, who does not" in page
    assert (
        "By region of birth: 2 groups have too few people to be shown: 3 people, 9 pairs." in page
    )
    assert "have more of their pairs right than with the base model" in page
    assert "Design effect of acc@0: " in page


def test_all_metrics_of_pairs_are_there(run: Path) -> None:
    rows = rows_after(run)
    before, after = (
        RunFolder(run, resumed=False).read_scores(stage, "in_domain") or []
        for stage in ("base", "tuned")
    )
    shift = find(rows, "opa/rejected_shift")
    moved = [
        b.rejected_logp_mean - a.rejected_logp_mean for a, b in zip(before, after, strict=True)
    ]
    assert shift.value == pytest.approx(np.mean(moved))
    whole = {
        r.metric
        for r in rows
        if (r.stage, r.group_by) == ("tuned", "") and not derivation(r.metric)
    }
    assert {*pair_values(after, before)} <= whole
    assert not [
        r
        for r in rows
        if r.metric.startswith(("opa/rejected_shift_worst", "opa/chosen_shift_worst"))
    ]
    over_2 = [(b.margin > 2) - (a.margin > 2) for a, b in zip(before, after, strict=True)]
    assert find(rows, "opa/acc@2_lift").value == pytest.approx(np.mean(over_2))


def test_the_higher_group_is_the_worse_one_of_what_should_be_low(run: Path) -> None:
    folder = RunFolder(run, resumed=False)
    for stage in ("base", "tuned"):
        lines = [
            PairValues(f"p{n}", f"u{n // 3}", {"answers/cut": float((n // 3) % 2 == 1)})
            for n in range(72)
        ]
        write_values(folder.values(stage, "in_domain"), lines)
    text = printed(run, replace(QUICK, by=("gender",)), metric="answers/cut")
    assert (
        "Highest tuned: Female, 100.0 %" in text
        and "+100.0" in text
        and "points to the lowest." in text
    )
    text = printed(run, replace(QUICK, by=("gender",)), metric="opa/rejected_shift")
    assert "From the lowest to the highest tuned: " in text and "nats/token." in text
    assert "Lowest" not in text.partition("opa/rejected_shift by gender")[2]


# Mistakes


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("toxicity", "tuned-in_domain.jsonl: toxicity: no metric of that name is known"),
        ("own/share/kind_gap", "own/share/kind_gap ends as what is worked out from own/share/kind"),
        ("own/share/kind", "pair p1: own/share/kind is 85, and must lie from 0.0 to 1.0"),
    ],
)
def test_an_unknown_metric_is_no_share(run: Path, metric: str, said: str) -> None:
    write_values(
        RunFolder(run, resumed=False).values("tuned", "in_domain"),
        [PairValues("p1", "u0", {metric: 85.0})],
    )
    with pytest.raises(UserError, match=re.escape(said)):
        write_statistics(run, QUICK)


def test_numbers_of_ones_own_are_not_clipped(run: Path) -> None:
    lines = [PairValues(f"p{n}", f"u{n // 3}", {"own/number/words": 80.0 + n}) for n in range(72)]
    write_values(RunFolder(run, resumed=False).values("tuned", "in_domain"), lines)
    words = find(rows_after(run), "own/number/words")
    assert words.value == pytest.approx(115.5) and words.low > 80


def test_a_metric_to_print_that_is_not_there_is_an_error(run: Path) -> None:
    with pytest.raises(
        UserError, match="--metric paa/dvb_judge: not measured pair by pair in this run"
    ):
        printed(run, QUICK, metric="paa/dvb_judge")


def test_mistakes_are_explained(run: Path, tmp_path: Path) -> None:
    other = run_of(tmp_path / "shorter", people={"Chile": 3})
    cases: list[tuple[Choices, Path | None, str]] = [
        (
            replace(QUICK, by=("county",)),
            None,
            "county: unknown. mine has birth_country, dimension, ",
        ),
        (replace(QUICK, cross=("gender",)), None, "--cross gender: two names with a comma"),
        (replace(QUICK, cross=("gender,aeg",)), None, "aeg: unknown"),
        (replace(QUICK, regions="un.yml"), None, "regions=un.yml: neither one of"),
        (replace(QUICK, set_name="ufp4"), None, "groups/ufp4.jsonl: no such file"),
        (QUICK, other, "have no tuned scores of the same pairs of in_domain"),
        (QUICK, tmp_path / "none", "have no tuned scores of the same pairs of in_domain"),
    ]
    before = (run / "metrics.jsonl").read_bytes()
    for choices, against, said in cases:
        with pytest.raises(UserError, match=said):
            write_statistics(run, choices, against)
    assert (run / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "p1"}', "line 1: no line of a pair"),
        ("[]", "line 1: no line of a pair"),
        ('{"id": "p1", "user_id": 3}', "must be texts"),
        (
            '{"id": "p1", "user_id": "u", "values": {"m": "x"}}',
            "field 'values': m is 'x' where a number",
        ),
        ('{"id": "p1", "user_id": "u", "values": {"m": NaN}}', "NaN is no JSON number"),
        ('{"id": "p1", "user_id": "u", "values": {"m": true}}', "m is True where a number"),
        ('{"id": "p1", "user_id": "u", "values": []}', "field 'values': an object"),
        (
            (
                '{"id": "p1", "user_id": "u", "values": {}}\n{"id": "p1", "user_id": "u",'
                ' "values": {}}'
            ),
            "p1 comes twice",
        ),
    ],
)
def test_broken_values_are_explained(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "values.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=said):
        read_values(path)


def test_a_share_beyond_1_and_pairs_of_another_run_are_refused(run: Path) -> None:
    path = RunFolder(run, resumed=False).values("tuned", "in_domain")
    write_values(path, [PairValues("p1", "u0", {"paa/dvb_judge": 85.0})])
    with pytest.raises(
        UserError, match=r"pair p1: paa/dvb_judge is 85, and must lie from 0\.0 to 1\.0"
    ):
        write_statistics(run, QUICK)
    write_values(path, [PairValues("p99", "u0", {"paa/dvb_judge": 1.0})])
    with pytest.raises(UserError, match=r"lacks 1 of 1 pairs that were measured, p99 among them"):
        write_statistics(run, QUICK)


def test_groups_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "groups" / "in_domain.jsonl"
    write_groups(path, [("p1", "u1", {"gender": "Female"}), ("p2", "u1", {})])
    assert json.loads(path.read_text().splitlines()[0]) == {
        "id": "p1",
        "user_id": "u1",
        "groups": {"gender": "Female"},
    }
    assert read_groups(path) == {"p1": ("p1", "u1", {"gender": "Female"}), "p2": ("p2", "u1", {})}


def cli(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mvp_align.cli", "stats", *map(str, words)],
        capture_output=True,
        text=True,
    )


def test_the_command(run: Path, tmp_path: Path) -> None:
    other = run_of(tmp_path / "other", seed=1)
    words = [
        "--by",
        "region,gender",
        "--cross",
        "region,gender",
        "--bootstrap",
        200,
        "--min-users",
        3,
    ]
    done = cli(run, "--against", other, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "opa/acc@0 by region of birth and gender" in done.stdout
    assert {r.group_by for r in read_rows(run / "metrics.jsonl")} == {
        "",
        "region",
        "gender",
        "region,gender",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--small", "hide"], "--small hide: must be one of suppress, shrink."),
        (["--min-users", "0"], "--min-users 0: must be 1 or above."),
        (["--bootstrap", "10"], "--bootstrap 10: must be 100 or above."),
        (["--by", "aeg"], "aeg: unknown"),
        (["--metric", "opa/acc"], "opa/acc: no metric of that name is known"),
    ],
)
def test_mistakes_in_the_command(run: Path, words: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["stats", str(run), *words])
    assert isinstance(result.exception, UserError)
    assert said in str(result.exception)


MEASURED = """
import re, sys, time
from mvp_align.cli import main
sys.argv = ["mvp-align", "stats", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
print("used", time.process_time(), peak[1])
"""


def test_twenty_thousand_pairs_take_seconds_and_little_memory(tmp_path: Path) -> None:
    """All groups, intervals, tests and two crossings in 20 s and 1 GB, imports included; of
    processor time, because others compute beside us, which slows that too."""
    names = (
        "Chile",
        "Viet Nam",
        "Norway",
        "Japan",
        "Peru",
        "Cuba",
        "Ghana",
        "India",
        "Italy",
        "Fiji",
    )
    people = dict.fromkeys(names, 100)
    one, other = (
        run_of(tmp_path / name, seed, people, each=20) for seed, name in enumerate(("one", "other"))
    )
    crossings = ["--cross", "region,gender", "--cross", "birth_country,stated_safety"]
    command = [sys.executable, "-c", MEASURED, str(one), "--against", str(other), *crossings]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "20000 pairs of 1000 users" in done.stdout
    _, seconds, peak_kib = done.stdout.splitlines()[-1].split()
    assert float(seconds) < 40
    assert int(peak_kib) < 1_000_000
