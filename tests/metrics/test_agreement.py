"""Agreement of judges: published examples, statsmodels, and missing labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.inter_rater import cohens_kappa

from mvp_align.metrics.agreement import kappas, label_alpha, score_alpha

NONE = None
# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section C: four observers,
# twelve units.
OBSERVERS = {
    "a": [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
    "b": [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
    "c": [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
    "d": [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
}


def test_krippendorffs_own_example() -> None:
    named = {judge: [str(x) if x else None for x in row] for judge, row in OBSERVERS.items()}
    assert label_alpha(named) == pytest.approx(0.743, abs=5e-4)
    assert label_alpha(named, order="12345") == pytest.approx(0.815, abs=5e-4)
    assert score_alpha(OBSERVERS) == pytest.approx(0.849, abs=5e-4)


def test_alpha_at_its_ends_and_where_it_is_not_defined() -> None:
    assert label_alpha({"a": ["W", "L", "TIE"], "b": ["W", "L", "TIE"]}) == 1
    assert label_alpha({"a": ["W", "L"], "b": ["L", "W"]}) < 0
    assert label_alpha({"a": ["W", "W"], "b": ["W", "W"]}) is None
    assert label_alpha({"a": ["W", None], "b": [None, "L"]}) is None
    assert label_alpha({"a": [], "b": []}) is None
    assert label_alpha({}) is None
    # items with one label say nothing
    alone = {"a": ["W", "L", None, "TIE"], "b": ["W", "L", "W", None]}
    assert label_alpha(alone) == 1


def test_kappa_of_a_published_table() -> None:
    """Cohen's textbook table: 20 yes-yes, 15 no-no, 5 and 10 split: po 0.7, pe 0.5, kappa 0.4."""
    one = ["y"] * 25 + ["n"] * 25
    other = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    (found,) = kappas({"a": one, "b": other})
    assert (found.judges, found.items) == (("a", "b"), 50)
    assert (found.agreement, found.kappa) == (pytest.approx(0.7), pytest.approx(0.4))


@given(
    st.lists(st.tuples(*[st.sampled_from(["W", "L", "TIE", None])] * 3), min_size=1, max_size=40)
)
def test_kappas_are_statsmodels_on_what_both_labelled(rows: list[tuple[str | None, ...]]) -> None:
    labels = {judge: [row[n] for row in rows] for n, judge in enumerate("abc")}
    found = kappas(labels)
    assert [one.judges for one in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    for one in found:
        table = np.zeros((3, 3))
        for a, b in zip(*(labels[judge] for judge in one.judges), strict=True):
            if a and b:
                table[["W", "L", "TIE"].index(a), ["W", "L", "TIE"].index(b)] += 1
        assert one.items == table.sum()
        if one.kappa is not None:
            assert one.kappa == pytest.approx(cohens_kappa(table, return_results=False))
            assert one.agreement == pytest.approx(np.trace(table) / table.sum())
        else:
            assert table.max() == table.sum()  # nothing, or one label throughout


def test_unlike_lengths_and_unknown_labels_are_refused() -> None:
    for function in (label_alpha, kappas):
        with pytest.raises(ValueError, match="judges of different numbers of items"):
            function({"a": ["W"], "b": ["W", "L"]})
    with pytest.raises(ValueError, match=r"labels outside .*'X'"):
        label_alpha({"a": ["X"], "b": ["W"]}, order=("L", "TIE", "W"))
