"""Profile checks in whole runs: files, rows, and resuming."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from run_files import lines

Run = Callable[..., Path]

PROFILES = "evals.profiles=[none,demographics,values,shuffled]"
FILES = {
    f"{stage}-{name}-profile_{kind}.jsonl"
    for stage in ("base", "tuned")
    for name, kinds in (
        ("in_domain", ("none", "demographics", "values", "shuffled")),
        ("ufp4", ("none", "given", "shuffled")),
    )
    for kind in kinds
}


@pytest.fixture(scope="module")
def checked(run: Run, ufp4: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with profile checks.

    UF-P-4's records have two profiles there, so that they can be swapped.
    """
    folder = tmp_path_factory.mktemp("data") / "ufp4"
    folder.mkdir()
    for number, path in enumerate(sorted(ufp4.iterdir())):
        rows = json.loads(path.read_text())
        profile = ("", "A collector of coins.", "A seller of stamps.", "A collector of coins.")[
            number
        ]
        (folder / path.name).write_text(json.dumps([{**row, "profile": profile} for row in rows]))
    return run(
        tmp_path_factory.mktemp("runs") / "checked",
        PROFILES,
        f"evals.ufp4={folder}",
        "train.max_steps=2",
    )


def scores_of(run: Path, stage: str, name: str, kind: str) -> list[dict]:
    return lines(run / "scores" / f"{stage}-{name}-profile_{kind}.jsonl")


def test_every_kind_is_scored_on_the_same_pairs(checked: Path) -> None:
    assert {path.name for path in (checked / "scores").glob("*-profile_*")} == FILES
    for name, count in (("in_domain", 10), ("ufp4", 6)):
        kinds = [kind for kind in ("none", "demographics", "values", "given", "shuffled") if
                 f"base-{name}-profile_{kind}.jsonl" in FILES]  # fmt: skip
        found = {kind: scores_of(checked, "base", name, kind) for kind in kinds}
        ids = [[score["id"] for score in scores] for scores in found.values()]
        assert len(ids[0]) == count and all(one == ids[0] for one in ids)
        sums = [tuple(score["chosen_logp"] for score in scores) for scores in found.values()]
        assert len(set(sums)) == len(kinds)  # each profile is another prompt


def test_demographics_are_the_paper_s_prompt(checked: Path) -> None:
    paper, shown = (
        lines(checked / "scores" / "tuned-in_domain.jsonl"),
        scores_of(checked, "tuned", "in_domain", "demographics"),
    )
    assert [score["margin"] for score in shown] == pytest.approx(
        [score["margin"] for score in paper], abs=1e-6
    )


def test_rows_follow_from_the_scores(checked: Path) -> None:
    rows = {
        (r["stage"], r["set"], r["metric"], r["group"]): r for r in lines(checked / "metrics.jsonl")
    }
    right = {
        (stage, kind): [
            float(score["margin"] > 0) for score in scores_of(checked, stage, "in_domain", kind)
        ]
        for stage in ("base", "tuned")
        for kind in ("values", "shuffled")
    }
    for stage in ("base", "tuned"):
        own, other = right[stage, "values"], right[stage, "shuffled"]
        assert rows[stage, "in_domain", "opa/profile/values", ""]["value"] == pytest.approx(
            sum(own) / 10
        )
        lift = rows[stage, "in_domain", "opa/profile/values_vs_shuffled_lift", ""]
        assert lift["value"] == pytest.approx((sum(own) - sum(other)) / 10)
        assert lift["n"] == 10
        groups = [r for (s, _, m, g), r in rows.items() if (s, m) == (stage, lift["metric"]) and g]
        assert sum(r["n"] for r in groups) == 10
        assert sum(r["n"] * r["value"] for r in groups) == pytest.approx(10 * lift["value"])
        assert (stage, "ufp4", "opa/profile/given_vs_shuffled_lift", "") in rows
    gained = rows["tuned", "in_domain", "opa/profile/values_lift", ""]["value"]
    assert gained == pytest.approx(
        (sum(right["tuned", "values"]) - sum(right["base", "values"])) / 10
    )


def test_what_is_left_out_is_in_the_notes_and_the_answer_on_the_page(checked: Path) -> None:
    notes = json.loads((checked / "notes.json").read_text())["notes"]
    assert "ufp4: 2 pairs left out of the profile checks: names no profile" in notes
    page = (checked / "report.html").read_text("utf-8")
    assert page.count("<h3>Does it matter who is asking?</h3>") == 2
    assert "stated values over another person&#39;s" in page


def test_a_run_cut_off_amid_the_checks_ends_in_the_same_bytes(
    run: Run, finished: Path, tmp_path: Path
) -> None:
    settings = (PROFILES, "evals=in_domain")
    whole = run(tmp_path / "whole", *settings, name="evaluate")
    again = run(tmp_path / "again", *settings, name="evaluate")
    kept = (again / "scores" / "base-in_domain-profile_none.jsonl").stat().st_mtime_ns
    for name in ("DONE", "metrics.jsonl", "scores/base-in_domain-profile_values.jsonl"):
        (again / name).unlink()
    # of other pairs: none
    (again / "scores" / "base-in_domain-profile_shuffled.jsonl").write_text("")
    run(again, *settings, name="evaluate")
    assert (again / "scores" / "base-in_domain-profile_none.jsonl").stat().st_mtime_ns == kept
    for path in (*(whole / "scores").iterdir(), whole / "metrics.jsonl"):
        assert (again / path.relative_to(whole)).read_bytes() == path.read_bytes(), path.name
    # unless asked for
    assert not any("profile" in row["metric"] for row in lines(finished / "metrics.jsonl"))
