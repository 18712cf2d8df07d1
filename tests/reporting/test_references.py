"""Published figures and profile checks in the report and the terminal."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mvp_align.config import Config
from mvp_align.metrics.rows import Row, write_rows
from mvp_align.reporting.compare import terminal_tables
from mvp_align.reporting.comparison import compare_set
from mvp_align.reporting.html import write_report
from mvp_align.reporting.profile_ablation import (
    ablations,
    choice_lines,
    choices_verdict,
    profile_lines,
    verdict,
)
from mvp_align.reporting.results import Results, shown
from mvp_align.reporting.table_formats import format_tables
from mvp_align.reporting.terminal import print_results
from mvp_align.runs.run_folder import RunFolder, open_run
from mvp_align.runtime.json_files import from_json, write_json
from mvp_align.schema import PairScore

LABEL = "published (DiverValue-Bench"


def run_of(folder: Path, config: Config, rows: list[Row]) -> Path:
    run: RunFolder = open_run(folder, config)
    run.write_scores(
        "tuned", "in_domain", [PairScore(f"p{n}", f"u{n}", -1.0, -2.0, 1, 1) for n in range(4)]
    )
    write_rows(run.metrics, rows)
    return folder


def compared(run: Path) -> str:
    return format_tables("table", terminal_tables([run], compare_set([run], "in_domain")), 300)


def test_published_figures_stand_beside_a_run_of_theirs_alone(
    compose: Callable[..., Config], rows: list[Row], tmp_path: Path
) -> None:
    theirs = run_of(tmp_path / "theirs", compose("experiment=divervalue_llama2_7b"), rows)
    other = run_of(
        tmp_path / "other", compose("experiment=divervalue_llama2_7b", "model=llama2_7b_chat"), rows
    )
    for run, count in ((theirs, 1), (other, 0)):
        page = write_report(run).read_text("utf-8")
        assert page.count(LABEL) == count
        assert compared(run).count(LABEL) == count
        assert "published" not in (run / "metrics.jsonl").read_text()
    page = write_report(theirs).read_text("utf-8")
    assert "not measured here: OPA (mean of acc@d), base -&gt; tuned" in page
    assert "LLaMA-2-7B 26.73 % -&gt; 83.29 ± 0.13 %" in page


def test_a_converted_model_stands_beside_the_figures_of_its_original(
    compose: Callable[..., Config], rows: list[Row], tmp_path: Path
) -> None:
    config = compose("experiment=divervalue_qwen_7b")
    for repo, count in (("Qwen/Qwen-7B", 1), ("Qwen/Qwen-7B-Chat", 0), (None, 0)):
        folder = tmp_path / str(repo).replace("/", "-")
        run = run_of(folder, config, rows)
        known = from_json((run / "environment.json").read_text("utf-8"))
        converted = {"repo": repo, "revision": "ef3c5c9", "files": {}}
        write_json(run / "environment.json", known | {"converted": converted})
        page = write_report(run).read_text("utf-8")
        assert page.count(LABEL) == count
        assert page.count("<dd>Qwen/Qwen-7B at ef3c5c9</dd>") == count
        said = "Qwen-7B 27.13 % -> 86.18 ± 1.87 % (their LoRA was on the fused c_attn)"
        assert (said in compared(run)) is bool(count)


def profile(
    stage: str, metric: str, value: float, half: float | None = 0.02, group: str = ""
) -> Row:
    low, high = (None, None) if half is None else (value - half, value + half)
    by = "shuffled_level" if group else ""
    return Row(stage, "in_domain", f"opa/profile/{metric}", by, group, value, low, high, 200, 40)


PROFILES = [
    profile("base", "none", 0.5),
    profile("base", "values", 0.61),
    profile("base", "values_vs_shuffled_lift", 0.01),
    profile("tuned", "none", 0.55),
    profile("tuned", "values", 0.7),
    profile("tuned", "values_lift", 0.09),
    profile("tuned", "values_vs_none_lift", 0.15),
    profile("tuned", "values_vs_shuffled_lift", 0.05),
    profile("tuned", "values_vs_shuffled_lift_lift", 0.04),
    profile("tuned", "values/margin_vs_shuffled_lift", 0.123),
    profile("tuned", "values_vs_shuffled_lift", 0.08, group="another"),
]


def test_the_section_says_what_each_profile_adds(rows: list[Row]) -> None:
    results = Results([*rows, *PROFILES])
    lines = {line.label: line for line in profile_lines(results, "in_domain")}
    assert list(lines) == [
        "question alone", "stated values", "stated values over question alone",
        "stated values over another person's",
        "  in mean margin, nats", "  where that one wants another level",
    ]  # fmt: skip
    over = lines["stated values over another person's"]
    assert (shown(over.base), shown(over.tuned), shown(over.lift)) == (
        "+1.0 [-1.0, 3.0]", "+5.0 [3.0, 7.0]", "+4.0 [2.0, 6.0]",
    )  # fmt: skip
    assert shown(lines["  in mean margin, nats"].tuned) == "+0.12 [0.10, 0.14]"
    assert shown(lines["stated values"].tuned) == "70.0 % [68.0, 72.0]"
    assert not [line for line in results.summary("in_domain") if "profile" in line.metric]
    console = Console(file=io.StringIO(), width=140)
    print_results(results.rows, console)
    assert "in_domain: Does it matter who is asking?" in console.file.getvalue()
    assert profile_lines(results, "ufp4") == []


@pytest.mark.parametrize(
    ("value", "half", "said"),
    [
        (0.05, 0.02, "It does to the tuned model: +5.0 [3.0, 7.0] points"),
        (0.01, 0.02, "Not shown for the tuned model: +1.0 [-1.0, 3.0] points"),
        (-0.05, 0.02, "The tuned model is misled by who is asking: -5.0 [-7.0, -3.0] points"),
        (0.05, None, "One user alone, so there is no interval: +5.0 points"),
    ],
)
def test_the_verdict_is_no_surer_than_the_interval(
    value: float, half: float | None, said: str
) -> None:
    results = Results([profile("tuned", "values_vs_shuffled_lift", value, half)])
    assert verdict(results, "in_domain").startswith(said)
    assert verdict(Results([]), "in_domain") == ""


def choices(stage: str, metric: str, value: float, group: str = "") -> Row:
    return replace(profile(stage, metric, value, group=group), metric=f"opa/choices/{metric}")


CURVE = [
    choices("base", "none", 0.5),
    choices("tuned", "none", 0.55),
    *[choices("tuned", f"own_{count}", 0.55 + count / 100) for count in (2, 10)],
    *[choices("tuned", f"other_{count}", 0.5) for count in (2, 10)],
    *[choices("tuned", f"own_{count}_vs_none_lift", count / 100) for count in (2, 10)],
    *[choices("tuned", f"own_{count}_vs_other_{count}_lift", 0.05) for count in (2, 10)],
    choices("tuned", "own_10/margin_vs_other_10_lift", 0.2),
    choices("tuned", "own_10_vs_other_10_lift", 0.3, group="another"),
]


def test_the_few_shot_curve_is_a_table_of_its_own(rows: list[Row]) -> None:
    results = Results([*rows, *CURVE])
    lines = choice_lines(results, "in_domain")
    assert [line.label for line in lines] == [
        "none", "2 of their own", "10 of their own", "2 of another person's",
        "10 of another person's", "2 of their own over none", "2 of their own over another's",
        "10 of their own over none", "10 of their own over another's", "  in mean margin, nats",
        "  where that one wants another level",
    ]  # fmt: skip
    assert shown(lines[2].tuned) == "65.0 % [63.0, 67.0]"
    assert shown(lines[-1].tuned) == "+30.0 [28.0, 32.0]"
    assert choices_verdict(results, "in_domain") == (
        "They help the tuned model: +5.0 [3.0, 7.0] points of acc@0 for showing 10 earlier choices"
        " of a person's own and not another person's."
    )
    assert not [line for line in results.summary("in_domain") if "choices" in line.metric]
    assert [one.shown for one in ablations(results, "in_domain")] == ["choices shown"]
    assert ablations(Results(rows), "in_domain") == []
    assert choices_verdict(Results(rows), "in_domain") == ""
    console = Console(file=io.StringIO(), width=140)
    print_results(results.rows, console)
    assert "in_domain: Do a person's earlier choices help?" in console.file.getvalue()
