"""Which maps a page offers, and what they say of countries without a number."""

from pathlib import Path

import pytest

from mvp_align.errors import UserError
from mvp_align.metrics.rows import Row
from mvp_align.reporting.map_figures import COUNTRY, country_maps, held_countries
from mvp_align.reporting.results import Results
from mvp_align.runs.pair_files import write_groups
from mvp_align.runs.run_folder import RunFolder


def country_row(stage: str, metric: str, value: float, country: str = "Kenya") -> Row:
    return Row(stage, "in_domain", metric, COUNTRY, country, value, value - 0.1, value + 0.1, 30, 6)


ROWS = [
    country_row("base", "opa/acc@0", 0.5),
    country_row("tuned", "opa/acc@0", 0.6),
    country_row("tuned", "opa/acc@0_lift", 0.1),
    country_row("tuned", "opa/acc@0_vs_other_lift", -0.2),
    country_row("tuned", "opa/value_blind_ceiling", 0.9),
    country_row("base", "opa/value_blind_ceiling", 0.9),
]


def test_a_map_is_of_a_model_or_of_what_training_changed() -> None:
    """Neither of a comparison with another run, nor of what is the same for every model."""
    maps = country_maps(Results(ROWS), "in_domain", [], "map", "people")
    titles = [one.words.title for one in maps]
    assert titles == ["acc@0, tuned model", "acc@0, base model", "acc@0, change by training"]


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (["Chile"], "Hatched: too few people to be shown. Plain: no data."),
        ([], "Plain: no data."),
        (None, "Plain: no data, or too few people to be shown."),
    ],
)
def test_the_caption_says_no_more_than_is_known(held: list[str] | None, said: str) -> None:
    caption = country_maps(Results(ROWS), "in_domain", held, "map", "people")[0].words.caption
    assert said in caption and ("Hatched" in caption) == bool(held)


def test_held_back_countries_are_those_without_a_mean(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, resumed=False)
    results = Results([*ROWS, country_row("tuned", "opa/acc@0_shrunk", 0.55, "Chile")])
    assert held_countries(run, results, "in_domain") is None
    tags = [("p1", "u1", {COUNTRY: "Kenya"}), ("p2", "u2", {COUNTRY: "Chile"})]
    write_groups(run.groups("in_domain"), tags)
    assert held_countries(run, results, "in_domain") == ["Chile"]
    run.groups("in_domain").write_text("{}\n")
    with pytest.raises(UserError, match=r"in_domain\.jsonl"):
        held_countries(run, results, "in_domain")
