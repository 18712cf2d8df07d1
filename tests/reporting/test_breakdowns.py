"""What a page says first of who gained and who lost."""

from dataclasses import replace
from pathlib import Path

from mvp_align.metrics.rows import Row, read_rows
from mvp_align.reporting.breakdowns import group_tables, largest_loss_first
from mvp_align.reporting.results import Results
from mvp_align.reporting.set_parts import for_whom

DEMO = read_rows(Path(__file__).parents[1] / "demo_metrics.jsonl")


def first_breakdown(rows: list[Row]) -> str:
    return largest_loss_first(group_tables(Results(rows), "in_domain"))[0].by


def test_the_breakdown_with_the_largest_loss_comes_first() -> None:
    """By dimension and level, safety Low lost most; without that, Low; no loss that may be chance
    moves anything."""
    assert first_breakdown(DEMO) == "dimension,level"
    by_one = [row for row in DEMO if "," not in row.group_by]
    assert first_breakdown(by_one) == "level"
    unsure = [replace(row, high=1.0) if row.high is not None else row for row in by_one]
    in_order = [table.by for table in group_tables(Results(unsure), "in_domain")]
    assert first_breakdown(unsure) == in_order[0] == "dimension"


def test_the_change_of_each_level_is_said_in_words() -> None:
    results = Results(DEMO)
    said = "By stated level: High +26.1 [20.8, 31.5], Low -20.0 [-27.8, -12.2] points."
    assert for_whom(results, "in_domain", "level") == said
    assert for_whom(results, "in_domain", "dimension+level") == ""  # too many for a sentence
    assert for_whom(results, "in_domain", "") == for_whom(results, "ufp4_sample", "level") == ""
    assert (
        for_whom(Results([row for row in DEMO if row.stage == "base"]), "in_domain", "level") == ""
    )
