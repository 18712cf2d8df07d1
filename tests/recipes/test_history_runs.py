"""Earlier choices in whole runs: what is shown, scored and written, and resuming."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from run_files import adapter_bytes, cut_off, lines, score_bytes

Run = Callable[..., Path]

KINDS = ["none", "own_1", "other_1", "own_2", "other_2"]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of a run on pairs of people who like either tea or rain, five pairs each."""
    folder = tmp_path_factory.mktemp("pairs")
    for name, people in (("train", "abcd"), ("test", "efgh")):
        records = [
            {
                "prompt": f"What of number {n}?",
                "chosen": f"{('Tea', 'Rain')[place % 2]} {n}, please.",
                "rejected": f"{('Rain', 'Tea')[place % 2]} {n}, if you must.",
                "user_id": user,
                "id": f"{user}{n}",
            }
            for place, user in enumerate(people)
            for n in range(5)
        ]
        (folder / f"{name}.json").write_text(json.dumps(records))
    return [
        "data=files",
        "data.format=pairs",
        f"data.train={folder / 'train.json'}",
        f"data.test={folder / 'test.json'}",
        "data.limit=null",
        "evals.sets=[in_domain]",
        "evals.ufp4=null",
        "prompt=history",
        "prompt.choices=2",
        "evals.choices=[0,1,2]",
        "run.logp_cache=false",
    ]


@pytest.fixture(scope="module")
def shown(run: Run, history: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("runs") / "history", *history)


def test_every_count_is_scored_on_the_same_pairs(shown: Path) -> None:
    for stage in ("base", "tuned"):
        found = {
            kind: lines(shown / "scores" / f"{stage}-in_domain-choices_{kind}.jsonl")
            for kind in KINDS
        }
        ids = {tuple(score["id"] for score in scores) for scores in found.values()}
        assert len(ids) == 1 and len(ids.pop()) == 12  # of 20, two of each person are support
        sums = {tuple(score["chosen_logp"] for score in scores) for scores in found.values()}
        assert len(sums) == len(KINDS)
        whole = lines(shown / "scores" / f"{stage}-in_domain.jsonl")
        assert [score["margin"] for score in found["own_2"]] == pytest.approx(
            [score["margin"] for score in whole], abs=1e-5
        )


def test_rows_notes_and_report_show_the_curve(shown: Path) -> None:
    rows = {
        (row["stage"], row["metric"]): row
        for row in lines(shown / "metrics.jsonl")
        if not row["group_by"]
    }
    for stage in ("base", "tuned"):
        right = {
            kind: [
                float(score["margin"] > 0)
                for score in lines(shown / "scores" / f"{stage}-in_domain-choices_{kind}.jsonl")
            ]
            for kind in KINDS
        }
        for kind in KINDS:
            share = sum(right[kind]) / 12
            assert rows[stage, f"opa/choices/{kind}"]["value"] == pytest.approx(share)
        own, other = sum(right["own_2"]), sum(right["other_2"])
        lift = rows[stage, "opa/choices/own_2_vs_other_2_lift"]
        assert (lift["n"], lift["users"]) == (12, 4)
        assert lift["value"] == pytest.approx((own - other) / 12)
    notes = json.loads((shown / "notes.json").read_text())["notes"]
    assert "train: each of 20 pairs has 2 earlier choices." in notes
    assert any(note.startswith("test: 8 pairs of 4 people are support") for note in notes)
    page = (shown / "report.html").read_text("utf-8")
    assert page.count("<h3>Do a person&#39;s earlier choices help?</h3>") == 1
    assert "2 of their own over another&#39;s" in page


def test_a_run_cut_off_ends_in_the_same_bytes(
    run: Run, history: list[str], shown: Path, tmp_path: Path
) -> None:
    again = cut_off(shown, tmp_path / "again", after=2)
    (again / "scores" / "base-in_domain-choices_other_2.jsonl").unlink()
    run(again, *history)
    assert adapter_bytes(again) == adapter_bytes(shown)
    assert score_bytes(again) == score_bytes(shown)
    assert (again / "metrics.jsonl").read_bytes() == (shown / "metrics.jsonl").read_bytes()


def test_the_prompts_hash_tells_histories_apart(
    run: Run, history: list[str], shown: Path, tmp_path: Path
) -> None:
    def hashes(folder: Path) -> dict[str, str]:
        known = json.loads((folder / "environment.json").read_text())["hashes"]
        return {key: value for key, value in known.items() if key.startswith("prompts/")}

    settings = [*history, "evals.choices=[]", "data.support=2"]
    same = run(tmp_path / "same", *settings, name="evaluate")
    fewer = run(tmp_path / "fewer", *settings, "prompt.choices=1", name="evaluate")
    assert hashes(same)["prompts/in_domain"] == hashes(shown)["prompts/in_domain"]
    assert hashes(fewer)["prompts/in_domain"] != hashes(shown)["prompts/in_domain"]
    pairs = [
        [score["id"] for score in lines(folder / "scores" / "base-in_domain.jsonl")]
        for folder in (same, fewer, shown)
    ]
    assert pairs[0] == pairs[1] == pairs[2]
    assert not any("choices" in row["metric"] for row in lines(same / "metrics.jsonl"))
