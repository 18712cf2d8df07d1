"""Aggregation over seeds, compared with a simple calculation from files, and excluded runs."""

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.metrics.intervals import Estimate, clustered_mean
from mvp_align.metrics.names import is_derived
from mvp_align.metrics.rows import read_rows, row, write_rows
from mvp_align.metrics.score_rows import score_rows
from mvp_align.metrics.seeds import SeedEstimate
from mvp_align.reporting.aggregate import Group, Summary, aggregate, labels, run_folders
from mvp_align.reporting.aggregate_tables import (
    PAPER,
    aggregate_result_tables,
    remarks,
)
from mvp_align.reporting.table_formats import FORMATS, format_tables
from mvp_align.runs.pair_files import PairValues, write_values
from mvp_align.runs.run_folder import RunFolder, open_run
from mvp_align.schema import PairScore

Make = Callable[..., Path]


def rendered(form: str, groups: Sequence[Group]) -> str:
    return format_tables(form, aggregate_result_tables(groups))


USERS = [f"user{number // 2}" for number in range(8)]


def scores_of(margins: list[float], users: list[str], shift: float = 0.0) -> list[PairScore]:
    """Scores of answers with 10 and 20 tokens, so that sums and means differ."""
    return [
        PairScore(f"p{i}", user, (shift - 2.0) * 10, (shift - 2.0 - margin) * 20, 10, 20)
        for i, (margin, user) in enumerate(zip(margins, users, strict=True))
    ]


def margins_of(seed: int, stage: str) -> list[float]:
    # the base model knows no seed
    random = np.random.default_rng((seed, 1) if stage == "tuned" else 0)
    return [
        round(float(margin), 3)
        for margin in random.normal(0.8 if stage == "tuned" else -0.3, 2, size=len(USERS))
    ]


@pytest.fixture
def make(compose: Callable[..., Config]) -> Make:
    """`make(folder, seed, "prompt=question", done=False)`: a run folder as from a recipe."""

    def made(
        folder: Path, seed: int, *overrides: str, done: bool = True, users: list[str] = USERS
    ) -> Path:
        config = compose(f"seed={seed}", f"run.dir={folder}", f"run.name={folder.name}", *overrides)
        run = open_run(folder, config)
        rows = []
        for name in ("in_domain", "ufp4"):
            base, tuned = (
                scores_of(margins_of(seed, stage), users, 0.1 * (stage == "tuned"))
                for stage in STAGES
            )
            for stage, scores in (("base", base), ("tuned", tuned)):
                free = scores_of([-score.margin for score in scores], users)
                run.write_scores(stage, name, scores)
                run.write_scores(stage, f"{name}-prompt_free", free)
                rows += score_rows(stage, name, scores, {}, base if stage == "tuned" else None)
                blind = clustered_mean([float(score.margin > 0) for score in free], users, "share")
                rows.append(row(stage, name, "opa/prompt_free", blind))
        write_rows(run.metrics, rows)
        run.write_json(run.environment_json, {"hashes": {"data/test": "abc", "base_model": "def"}})
        if done:
            run.finish()
        return folder

    return made


STAGES = ("base", "tuned")


def find(group: Group, stage: str, metric: str, name: str = "in_domain") -> Summary:
    (found,) = [s for s in group.summaries if (s.stage, s.metric, s.set) == (stage, metric, name)]
    return found


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_numbers_follow_from_the_files_alone(make: Make, tmp_path: Path) -> None:
    """Every metric again from the JSON lines, with numpy and scipy."""
    folders = [make(tmp_path / f"run-{seed}", seed) for seed in (12, 13, 14)]
    (group,), broken = aggregate([str(tmp_path)])
    assert (group.seeds, group.problems, broken) == ([12, 13, 14], [], [])
    read = {
        stage: [lines_of(f / "scores" / f"{stage}-in_domain.jsonl") for f in folders]
        for stage in STAGES
    }
    margin = {
        stage: np.array([[line["margin"] for line in one] for one in of])
        for stage, of in read.items()
    }
    plain = {
        f"opa/acc@{d}": lambda m, d=d: (m > float(d)).astype(float)
        for d in ("0", "0.2", "2", "4", "6", "8")
    }
    plain["opa/mean"] = lambda m: np.mean([m > d for d in (0, 0.2, 2, 4, 6, 8)], axis=0)
    plain["opa/margin"] = lambda m: m
    plain["opa/prompt_free"] = lambda m: (-m > 0).astype(float)
    for metric, of in plain.items():
        values = {stage: of(margin[stage]) for stage in STAGES}
        values["lift"] = values["tuned"] - values["base"]
        for stage, x in values.items():
            found = find(group, stage, metric).estimate
            assert found.mean == pytest.approx(x.mean(), abs=1e-12), (stage, metric)
            assert found.by_seed == pytest.approx(tuple(x.mean(axis=1)), abs=1e-12)
            assert found.sd == pytest.approx(np.std(x.mean(axis=1), ddof=1), abs=1e-12)
            assert (found.n, found.users) == (8, 4)
    shift = find(group, "tuned", "opa/chosen_shift").estimate
    assert shift.mean == pytest.approx(0.1)
    lift = (margin["tuned"] > 0).astype(float) - (margin["base"] > 0)
    found = find(group, "lift", "opa/acc@0").estimate
    # as many pairs of each: a t interval of the people's means
    people = lift.mean(axis=0).reshape(4, 2).mean(axis=1)
    # no lift passes 100 points
    for interval, sample in ((found.people, people), (found.training, lift.mean(axis=1))):
        assert interval == pytest.approx(
            np.clip(stats.ttest_1samp(sample, 0).confidence_interval(), -1, 1)
        )
    told = [
        next(
            r["value"]
            for r in lines_of(f / "metrics.jsonl")
            if r["metric"] == "opa/acc@0_lift" and r["set"] == "ufp4"
        )
        for f in folders
    ]
    assert find(group, "lift", "opa/acc@0", "ufp4").estimate.by_seed == pytest.approx(tuple(told))


def measured_more(run: Path, seed: int, unlabelled: int | None = None) -> None:
    """Add SPMR and PAA per pair, and KL, alpha and perplexity as rows only."""
    random = np.random.default_rng(seed)
    folder, rows = RunFolder(run, resumed=False), read_rows(run / "metrics.jsonl")
    wins: list[float] = []
    for stage in STAGES:
        spmr, won = random.random((2, 8)).round()
        labelled = [n for n in range(8) if n != unlabelled]
        values = [
            {"spmr@0.8": spmr[n], **({"paa/dvb_judge": won[n]} if n in labelled else {})}
            for n in range(8)
        ]
        write_values(
            folder.values(stage, "in_domain"),
            [PairValues(f"p{n}", USERS[n], x) for n, x in enumerate(values)],
        )
        users = [USERS[n] for n in labelled]
        wins.append(won[labelled].mean())
        rows += [
            row(stage, "in_domain", "spmr@0.8", clustered_mean(spmr.tolist(), USERS, "share")),
            row(
                stage,
                "in_domain",
                "paa/dvb_judge",
                clustered_mean(won[labelled].tolist(), users, "share"),
            ),
            row(
                stage,
                "in_domain",
                "paa/dvb_judge/alpha",
                Estimate(0.5 + 0.01 * seed, None, None, 8, 4),
            ),
            row(stage, "neutral", "damage/perplexity", Estimate(40.0 + seed, None, None, 10, 10)),
        ]
    rows.append(
        row(
            "tuned",
            "in_domain",
            "paa/dvb_judge_lift",
            Estimate(wins[1] - wins[0], None, None, 8, 4),
        )
    )
    rows.append(row("tuned", "in_domain", "damage/kl", Estimate(0.01 * seed, 0.0, 0.3, 8, 4)))
    rows.append(row("tuned", "in_domain", "opa/acc@0_deff", Estimate(1.5, None, None, 8, 4)))
    write_rows(run / "metrics.jsonl", rows)


def test_every_metric_that_all_runs_have_is_there_with_its_own_kind(
    make: Make, tmp_path: Path
) -> None:
    for seed in (12, 13, 14):
        measured_more(make(tmp_path / f"run-{seed}", seed), seed)
    (group,), _ = aggregate([str(tmp_path)])
    assert group.problems == []
    rows = read_rows(tmp_path / "run-12" / "metrics.jsonl")
    whole = {
        (r.set, r.metric, r.stage) for r in rows if not r.group_by and not is_derived(r.metric)
    }
    assert whole <= {(s.set, s.metric, s.stage) for s in group.summaries}
    assert not [s for s in group.summaries if is_derived(s.metric)]

    told = [40.0 + seed for seed in (12, 13, 14)]
    perplexity = find(group, "tuned", "damage/perplexity", "neutral").estimate
    assert (perplexity.mean, perplexity.by_seed, perplexity.sd) == (53, tuple(told), 1)
    half = stats.t.ppf(0.975, 2) / np.sqrt(3)
    assert perplexity.training == pytest.approx((53 - half, 53 + half))  # not clipped to 1
    assert (perplexity.people, perplexity.both) == (None, None)
    kl = find(group, "tuned", "damage/kl").estimate
    assert kl.mean == pytest.approx(0.13) and kl.training[0] > 0
    spmr = find(group, "lift", "spmr@0.8").estimate
    assert spmr.people is not None and spmr.people[0] >= -1 and (spmr.n, spmr.users) == (8, 4)
    assert find(group, "tuned", "paa/dvb_judge").estimate.both is not None

    table = rendered("table", [group])
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert "perplexity base 53.00 1.00 - [50.52, 55.48] -" in lines
    assert any(line.startswith("KL to the base, nats tuned 0.13 0.01 -") for line in lines)
    assert any(line.startswith("paa/dvb_judge/alpha base 0.63 0.01 -") for line in lines)
    assert "neutral: 3 seeds (12, 13, 14), 10 passages" in table and "…" not in table


def test_other_answers_unlabelled_leave_the_mean_and_no_interval_over_people(
    make: Make, tmp_path: Path
) -> None:
    """Seeds whose judges labelled other answers: each run's own PAA, not one of the answers that
    all have a label of."""
    for seed in (12, 13):
        measured_more(make(tmp_path / f"run-{seed}", seed), seed, unlabelled=seed - 12)
    (group,), _ = aggregate([str(tmp_path)])
    paa = find(group, "tuned", "paa/dvb_judge").estimate
    rows = [
        {(r.metric, r.stage): r.value for r in read_rows(tmp_path / f"run-{s}" / "metrics.jsonl")}
        for s in (12, 13)
    ]
    assert paa.by_seed == pytest.approx([of["paa/dvb_judge", "tuned"] for of in rows])
    assert (paa.people, paa.both, paa.n) == (None, None, 7)
    lift = find(group, "lift", "paa/dvb_judge").estimate
    assert lift.by_seed == pytest.approx([of["paa/dvb_judge_lift", "tuned"] for of in rows])


def test_what_some_runs_lack_is_named(make: Make, tmp_path: Path) -> None:
    measured_more(make(tmp_path / "run-12", 12), 12)
    make(tmp_path / "run-13", 13)
    (group,), _ = aggregate([str(tmp_path)])
    assert "damage/kl of tuned in_domain: left out, because seed 13 has none." in group.problems
    assert not [s for s in group.summaries if s.metric.startswith(("damage", "paa", "spmr"))]


def test_a_lift_that_is_not_beyond_chance_is_said_to_be_none(make: Make, tmp_path: Path) -> None:
    make(tmp_path / "run-12", 12)
    make(tmp_path / "run-13", 13)
    (group,), _ = aggregate([str(tmp_path)])
    lift = find(group, "lift", "opa/acc@0").estimate
    assert lift.both[0] <= 0 <= lift.both[1]
    said = [
        line for line in remarks([group], []) if "in_domain: no change of acc@0 is shown" in line
    ]
    assert len(said) == 1 and said[0].endswith("] points over people and seeds, which holds 0.")


def test_configurations_stand_apart_whatever_their_names_and_tracking(
    make: Make, tmp_path: Path
) -> None:
    make(tmp_path / "a", 12, "prompt=paper", "tracking=none")
    make(tmp_path / "b", 13, "prompt=paper", "tracking.group=x", "evals.batch_size=3")
    make(tmp_path / "c", 12, "prompt=preference")
    groups, _ = aggregate([str(tmp_path)])
    assert [(group.label, group.seeds) for group in groups] == [
        ("prompt.name=paper", [12, 13]),
        ("prompt.name=preference", [12]),
    ]


def test_labels_say_what_sets_configurations_apart() -> None:
    one = {
        "recipe": "lora_dpo",
        "model.name": "m",
        "data.name": "d",
        "prompt.name": "p",
        "train.beta": 0.1,
    }
    assert labels([one]) == ["lora_dpo m d p"]
    assert labels([one, {**one, "train.beta": 0.3}]) == ["train.beta=0.1", "train.beta=0.3"]
    other = {**one, "model.name": "n", "model.id": "x/n"}
    assert labels([one, other]) == ["model.name=m", "model.name=n"]
    same_name = {**one, "model.id": "y/m"}
    assert len(set(labels([one, other, same_name]))) == 3


def test_runs_that_are_not_among_the_numbers_are_named(make: Make, tmp_path: Path) -> None:
    runs = tmp_path / "outputs"
    make(runs / "s12", 12)
    make(runs / "s13", 13, done=False)
    damaged = make(runs / "s14", 14) / "scores" / "tuned-ufp4.jsonl"
    damaged.write_text(damaged.read_text()[:-30])
    (runs / "empty").mkdir()
    (runs / "torn").mkdir()
    (runs / "torn" / "config.yaml").write_text("seed: [12\n")
    (runs / "bare").mkdir()
    (runs / "bare" / "config.yaml").write_text("recipe: lora_dpo\n")
    (group,), broken = aggregate([str(runs)], expected=[12, 13, 14, 15])
    assert group.seeds == [12]
    assert group.problems == [
        f"seed 13: unfinished ({runs}/s13 has no DONE).",
        group.problems[1],
        "seed 15: missing.",
    ]
    assert group.problems[1].startswith(f"seed 14: broken. {damaged}, line 8: no score of a pair")
    assert broken[0] == f"{runs}/bare: broken. {runs}/bare/config.yaml names no seed."
    assert (
        broken[1]
        == f"{runs}/empty: broken. {runs}/empty/config.yaml: no such file, so it is no run folder."
    )
    assert broken[2].startswith(f"{runs}/torn: broken. {runs}/torn/config.yaml cannot be read: ")
    text = "\n".join(remarks([group], broken))
    for word in (
        "one seed, so no standard deviation",
        "seed 13: unfinished",
        "seed 15: missing",
        "torn: broken",
    ):
        assert word in text


def test_a_metric_added_since_is_taken_of_what_the_runs_keep(make: Make, tmp_path: Path) -> None:
    for seed in (12, 13):
        make(tmp_path / f"s{seed}", seed)
    (known,), _ = aggregate([str(tmp_path)])
    for seed in (12, 13):
        path = tmp_path / f"s{seed}" / "metrics.jsonl"
        write_rows(path, [row for row in read_rows(path) if "opa/margin" not in row.metric])
    (group,), _ = aggregate([str(tmp_path)])
    assert group.seeds == [12, 13] and not group.problems
    found, before = (
        {(one.set, one.metric, one.stage): one for one in each.summaries} for each in (group, known)
    )
    assert found == before


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl: no such file"),
        (lambda run: (run / "metrics.jsonl").write_text(""), "has no results of a whole set"),
        (
            lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\xfe"),
            "'utf-8' codec can't decode",
        ),
        (
            lambda run: (run / "scores" / "base-ufp4.jsonl").unlink(),
            "base-ufp4.jsonl: no such file",
        ),
        (
            lambda run: (run / "scores" / "base-ufp4.jsonl").write_text(""),
            "base-ufp4.jsonl holds no scores",
        ),
        (
            lambda run: shutil.copy(
                run / "scores" / "tuned-in_domain-prompt_free.jsonl",
                run / "scores" / "tuned-in_domain.jsonl",
            ),
            "files of two runs",
        ),
        (
            lambda run: (run / "scores" / "tuned-ufp4.jsonl").write_text(
                (run / "scores" / "tuned-ufp4.jsonl").read_text().replace('"p3"', '"q3"')
            ),
            "tuned-ufp4.jsonl is of other pairs than the other scores of ufp4",
        ),
    ],
)
def test_a_damaged_run_is_named_with_its_reason(
    damage, words: str, make: Make, tmp_path: Path
) -> None:
    make(tmp_path / "s12", 12)
    damage(make(tmp_path / "s13", 13))
    (group,), _ = aggregate([str(tmp_path)])
    assert group.seeds == [12]
    (problem,) = group.problems
    assert problem.startswith("seed 13: broken. ") and words in problem


def test_other_pairs_are_refused(make: Make, tmp_path: Path) -> None:
    first, second = make(tmp_path / "a", 12), make(tmp_path / "b", 13, users=USERS[::-1])
    with pytest.raises(UserError) as caught:
        aggregate([str(tmp_path)])
    assert str(caught.value).startswith(
        f"{first} and {second} were scored on different pairs of in_domain"
    )
    assert "set data.test" in str(caught.value)


def test_a_seed_counts_once(make: Make, tmp_path: Path) -> None:
    first, second = make(tmp_path / "a", 12), make(tmp_path / "b", 12)
    with pytest.raises(
        UserError, match=f"Seed 12 of the same configuration comes twice.*{first} and {second}"
    ):
        aggregate([str(tmp_path)])
    (group,), _ = aggregate([str(first), str(first), f"{tmp_path}/a*"])  # one folder, named thrice
    assert group.seeds == [12]


def test_other_inputs_are_told(make: Make, tmp_path: Path) -> None:
    make(tmp_path / "a", 12)
    other = make(tmp_path / "b", 13)
    (other / "environment.json").write_text(
        '{"hashes": {"data/test": "abc", "base_model": "another"}}'
    )
    (group,), _ = aggregate([str(tmp_path)])
    assert group.problems == ["base_model was not the same in all runs: its hashes differ."]
    (other / "environment.json").unlink()
    (group,), _ = aggregate([str(tmp_path)])
    assert "nobody checked that the runs had the same inputs" in group.problems[0]


def test_folders_patterns_and_nothing(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [make(tmp_path / "outputs" / f"x-{seed}", seed) for seed in (12, 13)]
    monkeypatch.chdir(tmp_path)
    for words in (
        ["outputs"],
        ["outputs/x-*"],
        [str(tmp_path / "outputs" / "x-1?")],
        [str(run) for run in runs],
    ):
        assert [path.resolve() for path in run_folders(words)] == runs
    with pytest.raises(
        UserError, match=r"nothing\*: neither a folder nor a pattern that matches one"
    ):
        run_folders(["nothing*"])
    make(tmp_path / "late", 12, done=False)
    with pytest.raises(
        UserError,
        match=r"There is no finished run to take together:\n  - .*unfinished \(late has no DONE",
    ):
        aggregate(["late"])


def test_a_base_alone_has_no_lift(make: Make, tmp_path: Path) -> None:
    run = make(tmp_path / "a", 12)
    kept = [
        line
        for line in (run / "metrics.jsonl").read_text().splitlines()
        if '"stage": "base"' in line
    ]
    (run / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    (group,), _ = aggregate([str(run)])
    assert {summary.stage for summary in group.summaries} == {"base"}
    assert "& {-} &" in rendered("latex", [group])


@pytest.fixture
def groups(make: Make, tmp_path: Path) -> list[Group]:
    for prompt in ("paper", "preference"):
        for seed in (12, 13, 14):
            make(tmp_path / f"{prompt}-{seed}", seed, f"prompt={prompt}")
    return aggregate([str(tmp_path)])[0]


def test_the_papers_row(groups: list[Group]) -> None:
    opa = {stage: find(groups[0], stage, "opa/mean").estimate for stage in STAGES}
    shown = f"{100 * opa['tuned'].mean:.2f} ± {100 * np.std(opa['tuned'].by_seed, ddof=1):.2f}"
    base = f"{100 * opa['base'].mean:.2f}"
    assert [
        line.split()
        for line in rendered("table", groups).splitlines()
        if line.startswith(" prompt.name=paper ")
    ] == [["prompt.name=paper", *f"{base} {shown} {base} {shown}".split()]]
    assert f"| prompt.name=paper | {base} | {shown} | {base} | {shown} |" in rendered("md", groups)
    latex = shown.replace("±", r"$\pm$")
    row = rf"{{prompt.name=paper}} & {{{base}}} & {{{latex}}} & {{{base}}} & {{{latex}}} \\"
    assert row in rendered("latex", groups).splitlines()


def test_the_papers_row_has_no_synthetic_stand_in(groups: list[Group]) -> None:
    def renamed(sets: dict[str, str]) -> list[Group]:
        return [
            replace(
                group,
                summaries=[
                    replace(one, set=sets[one.set]) for one in group.summaries if one.set in sets
                ],
            )
            for group in groups
        ]

    text = rendered("md", renamed({"in_domain": "in_domain", "ufp4": "ufp4_sample"}))
    assert "prompt.name=paper, ufp4_sample: 3 seeds" in text
    assert "| configuration | in_domain base | in_domain tuned |\n" in text
    assert PAPER not in rendered("md", renamed({"ufp4": "ufp4_sample"}))


def test_the_table_counts_and_labels_what_it_shows(groups: list[Group]) -> None:
    text = rendered("table", groups)
    assert "prompt.name=paper, in_domain: 3 seeds (12, 13, 14), 8 pairs, 4 users" in text
    for word in ("over people", "over seeds", "over both", "sd over seeds", "clustered by user"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 110
    assert "…" not in text


def test_csv_holds_every_number_unrounded(groups: list[Group]) -> None:
    rows = list(csv.DictReader(io.StringIO(rendered("csv", groups))))
    assert len(rows) == sum(len(group.summaries) for group in groups)
    for told, summary in zip(rows, [s for group in groups for s in group.summaries], strict=True):
        e = summary.estimate
        assert (told["set"], told["metric"], told["model"]) == (
            summary.set,
            summary.metric,
            summary.stage,
        )
        assert float(told["mean"]) == e.mean
        assert tuple(map(float, told["by_seed"].split())) == e.by_seed
        assert (told["seeds"], told["pairs"], told["users"]) == ("12 13 14", "8", "4")
        interval = (told["seeds_low"], told["seeds_high"])
        assert interval == (("", "") if e.training is None else tuple(map(repr, e.training)))


@settings(max_examples=25)
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=12),
        min_size=1,
        max_size=3,
    )
)
def test_any_label_makes_a_table(names: list[str]) -> None:
    """Labels come from settings, and those may hold brackets, bars, percent signs or anything
    else."""
    estimate = SeedEstimate(0.5, 0.1, (0.3, 0.6), (0.2, 0.7), None, (0.4, 0.6), 8, 4)
    summaries = [Summary("in_domain", "opa/mean", "tuned", estimate)]
    groups = [Group(name, [12, 13], summaries) for name in names]
    for form in FORMATS:
        assert rendered(form, groups)
    rows = list(csv.DictReader(io.StringIO(rendered("csv", groups), newline="")))
    assert [row["configuration"] for row in rows] == names


def cli(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mvp_align.cli", "runs", "aggregate", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_cli(make: Make, tmp_path: Path) -> None:
    make(tmp_path / "a", 12)
    make(tmp_path / "b", 13)
    done = cli(tmp_path, "--seeds", "12,13,14")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].endswith("seed 14: missing.")
    done = cli(f"{tmp_path}/?", "--seeds", "12,13,14", "--format", "csv")
    # what has a lift, the two shifts, and the reward accuracies with their ties
    assert len(list(csv.DictReader(io.StringIO(done.stdout)))) == 2 * (3 * 9 + 2 + 4)
    assert "seed 14: missing." in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "pdf", "."], "--format pdf: must be one of table, csv, latex, md, json."),
        (["--seeds", "12;13", "."], "--seeds 12;13: whole numbers with commas between them"),
        (["/nosuch/folder"], "/nosuch/folder: neither a folder nor a pattern that matches one."),
    ],
)
def test_cli_ends_plainly(words: list[str], message: str) -> None:
    done = cli(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and "Traceback" not in done.stderr


def test_real_runs_over_two_seeds(
    compose: Callable[..., Config], sharp: list[str], tmp_path: Path
) -> None:
    """What recipes leave is what is read: adapters differ, base models do not."""
    for seed in (12, 13):
        config = compose(*sharp, f"seed={seed}", f"run.dir={tmp_path / 'outputs' / str(seed)}")
        import_module("recipes.lora_dpo").main(config)
    (group,), broken = aggregate([str(tmp_path / "outputs")])
    assert (group.seeds, group.problems, broken) == ([12, 13], [], [])
    assert {summary.set for summary in group.summaries} == {"in_domain", "ufp4_sample", "neutral"}
    perplexity = find(group, "tuned", "damage/perplexity", "neutral").estimate
    assert perplexity.mean > 1 and perplexity.sd is not None and perplexity.people is None
    base, tuned = (find(group, stage, "opa/margin").estimate for stage in STAGES)
    assert base.sd == 0 and tuned.sd is not None and tuned.sd > 1e-4
    assert group.ceilings.keys() <= {"in_domain"}
