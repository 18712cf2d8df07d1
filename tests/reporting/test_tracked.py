"""Tables for trackers: each row, each breakdown, and the summary."""

from collections.abc import Callable

import pytest

from mvp_align.config import Config
from mvp_align.metrics.rows import Row
from mvp_align.reporting.samples import Sample
from mvp_align.reporting.tracked import GROUP_COLUMNS, summary, tables

MakeConfig = Callable[..., Config]


def test_a_table_a_breakdown_with_its_counts_and_interval(rows: list[Row]) -> None:
    sample = Sample("ufp4", "p", "user_type=honesty", "q", "c", "r", None, 0.25)
    found = tables(rows, [sample])
    assert list(found) == [
        "results",
        "groups/in_domain_by_dimension",
        "groups/in_domain_by_level",
        "groups/in_domain_by_dimension_level",
        "groups/in_domain_by_birth_country",
        "groups/ufp4_by_user_type",
        "samples",
    ]
    columns, lines = found["groups/in_domain_by_dimension"]
    assert columns == GROUP_COLUMNS
    assert lines[0] == [
        "creativity",
        0.45,
        0.67,
        *(pytest.approx(v) for v in (0.22, 0.17, 0.27)),
        34,
        29,
    ]
    assert found["samples"] == (
        ["set", "id", "base_margin", "tuned_margin"],
        [["ufp4", "p", None, 0.25]],
    )
    with_texts = tables(rows, [sample], texts=True)
    assert with_texts["samples"][1] == [
        ["ufp4", "p", "user_type=honesty", "q", "c", "r", None, 0.25]
    ]
    assert with_texts | {"samples": found["samples"]} == found
    assert len(found["results"][1]) == len(rows)


def test_a_run_without_a_tuned_model_has_tables_too(rows: list[Row]) -> None:
    found = tables([row for row in rows if row.stage == "base"], [])
    assert found["groups/in_domain_by_level"][1][0] == [
        "High",
        0.6,
        None,
        None,
        None,
        None,
        190,
        48,
    ]
    assert "samples" not in found
    assert tables([], []) == {"results": (list(found["results"][0]), [])}


def test_the_summary_has_whole_sets_and_the_few_groups(rows: list[Row]) -> None:
    found = summary(rows)
    assert found["tuned/in_domain/opa/acc@0"] == 0.7761
    assert found["tuned/ufp4/honesty/opa/acc@0"] == 0.54
    assert found["base/in_domain/opa/acc@0/level/Low"] == 0.5
    assert not any("country" in name or "lift/" in name for name in found)
    low, high = (found[f"tuned/in_domain/opa/acc@0_lift_{end}"] for end in ("low", "high"))
    assert (low, found["tuned/in_domain/opa/acc@0_lift"], high) == pytest.approx(
        (0.1381, 0.1881, 0.2381)
    )
    assert "tuned/in_domain/opa/acc@0_low" not in found
