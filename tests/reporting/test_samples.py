"""Every run samples the same pairs, with each stage's margins."""

from dataclasses import replace
from pathlib import Path

import pytest

from mvp_align.data.load import DataSets
from mvp_align.reporting.samples import sample_pairs
from mvp_align.runs.run_folder import RunFolder
from mvp_align.schema import PairScore, PreferencePair, Profile


def scores(pairs: list[PreferencePair], margin: float) -> list[PairScore]:
    return [PairScore(pair.id, pair.user_id, margin, 0.0, 1, 1) for pair in pairs]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path, resumed=False)


@pytest.fixture
def data(few_pairs: list[PreferencePair]) -> DataSets:
    profile = Profile("35-44 years old", "Female", "Retired", "PhD", "Widowed", "Iceland")
    groups = {
        "dimension": "safety", "level": "Low", "user_type": "harmless", "birth_country": "Iceland",
    }  # fmt: skip
    return DataSets(
        test=[replace(pair, profile=profile, groups=groups) for pair in few_pairs],
        out_of_domain={"ufp4": few_pairs[:3]},
    )


def test_samples_carry_both_margins_and_no_profile(run: RunFolder, data: DataSets) -> None:
    run.write_scores("base", "in_domain", scores(data.test, -0.5))
    run.write_scores("tuned", "in_domain", scores(data.test, 0.25))
    run.write_scores("tuned", "ufp4", scores(data.by_set["ufp4"], 1.0))
    found = sample_pairs(5, data, run)
    assert [sample.set for sample in found] == ["in_domain"] * 5 + ["ufp4"] * 3
    pairs = {pair.id: pair for pair in data.test}
    for sample in found[:5]:
        pair = pairs[sample.id]
        assert (sample.question, sample.chosen, sample.rejected) == (
            pair.question,
            pair.chosen,
            pair.rejected,
        )
        assert (sample.base_margin, sample.tuned_margin, sample.groups) == (
            -0.5,
            0.25,
            "dimension=safety",
        )
    assert {(sample.base_margin, sample.tuned_margin, sample.groups) for sample in found[5:]} == {
        (None, 1.0, "")
    }
    stated = ("Iceland", "Widowed", "Low", "harmless")
    assert not any(word in repr(found) for word in stated)


def test_the_same_pairs_are_shown_whatever_the_order_and_whatever_was_left_out(
    run: RunFolder, data: DataSets
) -> None:
    run.write_scores("base", "in_domain", scores(data.test, 0.0))
    first = [sample.id for sample in sample_pairs(4, data, run)]
    assert first != [pair.id for pair in data.test[:4]]
    backwards = DataSets(test=data.test[::-1])
    assert [sample.id for sample in sample_pairs(4, backwards, run)] == first
    left_out = first[0]
    run.write_scores("base", "in_domain", [s for s in scores(data.test, 0.0) if s.id != left_out])
    assert [sample.id for sample in sample_pairs(4, data, run)][:3] == first[1:]


def test_none_means_none(run: RunFolder, data: DataSets) -> None:
    run.write_scores("base", "in_domain", scores(data.test, 0.0))
    assert sample_pairs(0, data, run) == []
    assert sample_pairs(20, DataSets(), run) == []
