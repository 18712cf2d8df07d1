"""Metrics by group: cells, crossings, suppression, worst group, gap, users better off, tests."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from mvp_align.metrics.certainty import certainty_rows, holm
from mvp_align.metrics.clusters import clusters_of
from mvp_align.metrics.groups import (
    Breakdown,
    break_down,
    default_by,
    group_rows,
    headline_rows,
    with_region,
)
from mvp_align.metrics.intervals import mean_estimate, wilson
from mvp_align.metrics.names import (
    base_metric,
    derivation,
    family,
    in_percent,
    is_change,
    is_derived,
    kind_of,
)
from mvp_align.metrics.regions import load_regions
from mvp_align.metrics.rows import Row
from mvp_align.metrics.variables import tags_of
from mvp_align.schema import PreferencePair, StatedValues

ACC, LIFT = "opa/acc@0", "opa/acc@0_lift"


def made(
    tags: list[dict[str, str]],
    users: list[str] | None = None,
    by: list[str] | None = None,
    min_users: int = 1,
):
    users = users or [f"u{n}" for n in range(len(tags))]
    return break_down(
        "tuned", "in_domain", users, tags, default_by(tags) if by is None else by, min_users
    )


def of_sizes(sizes: dict[str, int], min_users: int = 5) -> Breakdown:
    """A breakdown by `country` with groups of so many people, two pairs each."""
    tags = [{"country": name} for name, size in sizes.items() for _ in range(2 * size)]
    return made(tags, [f"u{n // 2}" for n in range(len(tags))], min_users=min_users)


def find(rows: list[Row], metric: str, group_by: str = "", group: str = "") -> Row:
    (row,) = [
        row for row in rows if (row.metric, row.group_by, row.group) == (metric, group_by, group)
    ]
    return row


# Cells

TAGS = [
    {"dimension": "safety", "level": "High", "country": "Chile"},
    {"dimension": "safety", "level": "Low", "country": "Chile"},
    {"dimension": "fluency", "level": "High"},
    {"dimension": "safety", "level": "High"},
    {},
]


def test_cells_and_the_crossing_of_dimension_and_level() -> None:
    cells = {(cell.group_by, cell.group): cell.pairs.tolist() for cell in made(TAGS).cells}
    assert cells == {
        ("dimension", "safety"): [0, 1, 3],
        ("dimension", "fluency"): [2],
        ("level", "High"): [0, 2, 3],
        ("level", "Low"): [1],
        ("country", "Chile"): [0, 1],
        ("dimension,level", "safety,High"): [0, 3],
        ("dimension,level", "safety,Low"): [1],
        ("dimension,level", "fluency,High"): [2],
    }
    assert list(cells) == sorted(cells)
    assert made(TAGS).whole.pairs.tolist() == [0, 1, 2, 3, 4]


def test_a_dimension_without_a_level_is_not_crossed() -> None:
    assert default_by([{"dimension": "safety"}, {"age": "65+"}]) == ["age", "dimension"]


def test_any_two_can_be_crossed() -> None:
    cells = made(TAGS, by=["level,country"]).cells
    assert [(cell.group, cell.pairs.tolist()) for cell in cells] == [
        ("High,Chile", [0]),
        ("Low,Chile", [1]),
    ]


def test_people_carry_what_they_state_of_all_values_and_their_region() -> None:
    pair = PreferencePair(
        "p",
        "u",
        "q",
        "a",
        "b",
        stated_values=StatedValues(80, 60, 70, 100, 0, 61, 79),
        groups={"dimension": "fluency"},
    )
    assert tags_of(pair) == {
        "dimension": "fluency", "stated_creativity": "High", "stated_fluency": "Low",
        "stated_diversity": "High",
        "stated_safety": "Low",
    }  # fmt: skip
    born = [{"birth_country": "Viet Nam"}, {"birth_country": "Prefer not to say"}, {"age": "65+"}]
    found = with_region(born, load_regions("authors"))
    assert [tag.get("region") for tag in found] == ["Southeast Asia", "Unspecified", None]
    assert with_region(born, {}) == born


# Means, and what is held back


def test_each_metric_of_each_cell_is_its_clustered_mean() -> None:
    breakdown = of_sizes({"Chile": 6, "Peru": 5})
    x = np.random.default_rng(1).random(22).round()
    rows = group_rows(breakdown, {ACC: x, "paa/dvb_judge": 1 - x})
    assert [(row.metric, row.group) for row in rows] == [
        (ACC, "Chile"), ("paa/dvb_judge", "Chile"), (ACC, "Peru"), ("paa/dvb_judge", "Peru"),
    ]  # fmt: skip
    row = find(rows, ACC, "country", "Peru")
    told = mean_estimate(x[12:], clusters_of([str(n // 2) for n in range(10)]), "share")
    assert (row.value, row.low, row.high, row.n, row.users) == (
        told.value,
        told.low,
        told.high,
        10,
        5,
    )
    assert (row.stage, row.set) == ("tuned", "in_domain")


def test_groups_of_too_few_people_are_counted_and_not_shown() -> None:
    rows = group_rows(of_sizes({"Chile": 6, "Peru": 4, "Cuba": 1}), {ACC: np.ones(22)})
    assert [(row.metric, row.group) for row in rows] == [(ACC, "Chile"), (f"{ACC}_suppressed", "")]
    held = find(rows, f"{ACC}_suppressed", "country")
    assert (held.value, held.low, held.high, held.n, held.users) == (2, None, None, 10, 5)


def test_people_in_two_small_groups_are_counted_once() -> None:
    tags = [{"topic": "a"}, {"topic": "b"}, {"topic": "b"}]
    held = find(
        group_rows(made(tags, ["u", "u", "v"], min_users=5), {ACC: np.ones(3)}),
        f"{ACC}_suppressed",
        "topic",
    )
    assert (held.value, held.n, held.users) == (2, 3, 2)


def test_small_groups_can_be_shrunk_and_say_so() -> None:
    breakdown = of_sizes({"Chile": 30, "Peru": 30, "Cuba": 1, "Fiji": 2})
    x = np.random.default_rng(2).random(126).round()
    x[120:122] = 0
    rows = group_rows(breakdown, {ACC: x}, small="shrink")
    assert [(row.metric, row.group) for row in rows] == [
        (ACC, "Chile"), (ACC, "Peru"), (f"{ACC}_shrunk", "Cuba"), (f"{ACC}_shrunk", "Fiji"),
    ]  # fmt: skip
    cuba = find(rows, f"{ACC}_shrunk", "country", "Cuba")
    assert 0 < cuba.value < 0.5
    assert (cuba.n, cuba.users) == (2, 1)
    assert 0 <= cuba.low < cuba.value < cuba.high <= 1
    few = of_sizes({"Chile": 30, "Cuba": 1})
    assert (
        find(group_rows(few, {ACC: x[:62]}, small="shrink"), f"{ACC}_suppressed", "country").value
        == 1
    )


# Headlines


def test_the_worst_group_and_the_gap() -> None:
    breakdown = of_sizes({"Chile": 20, "Cuba": 1, "Peru": 20, "Togo": 20})
    x = np.concatenate(
        [np.tile([1.0, 1, 1, 0], 10), [0, 0], np.tile([0.0, 0, 1, 0], 10), np.tile([1.0, 0], 20)]
    )
    rows = headline_rows(breakdown, {ACC: x})
    worst, gap = find(rows, f"{ACC}_worst", "country", "Peru"), find(rows, f"{ACC}_gap", "country")
    assert (worst.value, worst.n, worst.users) == (0.25, 40, 20)  # Cuba's 0 is of one person
    assert (gap.value, gap.n, gap.users) == (0.5, 80, 40)
    peru, chile = breakdown.of("country")[1], breakdown.of("country")[0]
    told = mean_estimate(x[peru.pairs], peru.clusters, "share", level=1 - 0.05 / 3)
    assert (worst.low, worst.high) == (told.low, told.high)
    one, other = (
        mean_estimate(x[c.pairs], c.clusters, "share", level=1 - 0.05 / 3) for c in (chile, peru)
    )
    assert gap.low == pytest.approx(0.5 - math.hypot(one.value - one.low, other.high - other.value))
    assert gap.high == pytest.approx(
        0.5 + math.hypot(one.high - one.value, other.value - other.low)
    )


def test_one_group_has_no_gap() -> None:
    assert not [
        row
        for row in headline_rows(of_sizes({"Chile": 20, "Cuba": 1}), {ACC: np.ones(42)})
        if row.group_by
    ]


def test_people_in_both_groups_narrow_or_widen_the_gap_s_interval() -> None:
    """Each person answers in both groups, and is good or bad at both: the difference is steadier
    than either mean."""
    random = np.random.default_rng(3)
    own = random.normal(size=50)
    x = np.stack([own, own + 0.3 + 0.05 * random.normal(size=50)], axis=1).ravel()
    tags = [{"topic": name} for _ in range(50) for name in ("a", "b")]
    both = made(tags, [f"u{n // 2}" for n in range(100)])
    gap = find(headline_rows(both, {"opa/margin": x}), "opa/margin_gap", "topic")
    paired = stats.ttest_1samp(x[1::2] - x[::2], 0).confidence_interval()
    assert (gap.low, gap.high) == pytest.approx((paired.low, paired.high), abs=2e-3)
    apart = find(headline_rows(made(tags), {"opa/margin": x}), "opa/margin_gap", "topic")
    assert apart.high - apart.low > 10 * (gap.high - gap.low)
    assert (gap.users, apart.users) == (50, 100)


def test_the_gap_of_equal_groups_covers_0() -> None:
    """Twelve groups of one quality: some gap is always there, and in 95 of 100 studies no two
    groups are told apart."""
    random = np.random.default_rng(4)
    breakdown = of_sizes({f"c{n:02}": 15 for n in range(12)})
    told = plain = 0
    for _ in range(300):
        x = (random.random(360) < random.beta(3, 2, 180).repeat(2)).astype(float)
        gap = find(headline_rows(breakdown, {ACC: x}), f"{ACC}_gap", "country")
        assert gap.value > 0
        told += gap.low > 0
        means = [x[c.pairs].reshape(-1, 2).mean(axis=1) for c in breakdown.cells]
        best, worst = max(means, key=np.mean), min(means, key=np.mean)
        plain += stats.ttest_ind(best, worst).pvalue < 0.05
    assert told / 300 <= 0.05
    assert plain / 300 > 0.5


def sides() -> tuple[Breakdown, np.ndarray]:
    """Chile has the higher mean, Peru the lower one."""
    x = np.concatenate([np.tile([1.0, 1, 1, 0], 10), np.tile([0.0, 0, 1, 0], 10)])
    return of_sizes({"Chile": 20, "Peru": 20}), x


@pytest.mark.parametrize(
    ("metric", "group"),
    [
        (ACC, "Peru"), ("opa/margin", "Peru"), ("spmr@0.8", "Peru"), ("paa/dvb_judge", "Peru"),
        (LIFT, "Peru"),
        ("answers/cut", "Chile"), ("paa/dvb_judge/loss", "Chile"), ("damage/kl", "Chile"),
        ("answers/cut_lift", "Chile"),
        ("opa/chosen_shift", None), ("opa/rejected_shift", None), ("own/share/mine", None),
        ("paa/dvb_judge/tie", None),
    ],
)  # fmt: skip
def test_the_worst_group_is_at_the_worse_end(metric: str, group: str | None) -> None:
    breakdown, x = sides()
    rows = headline_rows(breakdown, {metric: x})
    worst = [row for row in rows if row.metric.endswith("_worst")]
    assert [row.group for row in worst] == ([] if group is None else [group])
    assert find(rows, f"{metric}_gap", "country").value == pytest.approx(0.5)
    if worst:
        assert worst[0].value == pytest.approx(0.75 if group == "Chile" else 0.25)


def test_who_is_better_off_follows_from_the_better_end() -> None:
    more = np.array([1.0, 1, 1, 0])
    users = list("abcd")
    rose = headline_rows(made([{}] * 4, users), {"spmr@0.8_lift": more})
    assert (find(rose, "spmr@0.8_better_off").value, find(rose, "spmr@0.8_worse_off").value) == (
        0.75,
        0,
    )
    rose = headline_rows(made([{}] * 4, users), {"answers/cut_lift": more})
    assert (
        find(rose, "answers/cut_better_off").value,
        find(rose, "answers/cut_worse_off").value,
    ) == (0, 0.75)
    assert not [
        row
        for row in headline_rows(made([{}] * 4, users), {"own/share/m_lift": more})
        if "_off" in row.metric
    ]


def test_better_and_worse_off_count_people_not_pairs() -> None:
    lift = np.array([1.0, 1, 1, 1, -1, 0, 0, 0, 1, -1])  # a: +4; b: -1; c: 0; d: +1 and -1
    rows = headline_rows(made([{}] * 10, list("aaaabcccdd")), {LIFT: lift})
    better, worse = find(rows, f"{ACC}_better_off"), find(rows, f"{ACC}_worse_off")
    assert (better.value, worse.value) == (0.25, 0.25)
    assert (better.low, better.high) == wilson(0.25, 4)
    assert (better.n, better.users) == (10, 4)
    assert find(rows, f"{LIFT}_deff").value > 1
    assert not [
        row for row in headline_rows(made([{}] * 10), {ACC: np.abs(lift)}) if "_off" in row.metric
    ]


# How sure


def test_certainty_of_the_set_and_of_each_cell() -> None:
    breakdown = of_sizes({"Chile": 20, "Cuba": 1, "Peru": 20})
    x = np.random.default_rng(5).random(82).round()
    values = {ACC: x, LIFT: x - np.random.default_rng(7).random(82).round()}
    rows = certainty_rows(breakdown, values, draws=500, seed=1)
    assert {row.group for row in rows} == {"", "Chile", "Peru"}
    for metric, kind in ((ACC, "share"), (LIFT, "difference")):
        for where in (("", ""), ("country", "Chile")):
            se, boot = find(rows, f"{metric}_se", *where), find(rows, f"{metric}_bootstrap", *where)
            cell = breakdown.whole if where[0] == "" else breakdown.cells[0]
            told = mean_estimate(values[metric][cell.pairs], cell.clusters, kind)
            t = stats.t.ppf(0.975, cell.clusters.users - 1)
            assert se.value == pytest.approx((told.high - told.low) / 2 / t)
            assert boot.value == told.value
            assert (boot.low, boot.high) == pytest.approx((told.low, told.high), abs=0.06)
    assert (
        find(rows, f"{LIFT}_p", "country", "Peru").value
        <= find(rows, f"{LIFT}_p_holm", "country", "Peru").value
    )
    assert find(rows, f"{LIFT}_p").value < 1
    assert not [
        row for row in rows if row.metric in (f"{ACC}_p", f"{LIFT}_p_holm") and not row.group_by
    ]
    assert certainty_rows(breakdown, values, draws=500, seed=1) == rows
    assert certainty_rows(breakdown, values, draws=500, seed=2) != rows


def test_people_who_all_agree_have_no_bootstrap_interval() -> None:
    rows = certainty_rows(of_sizes({"Chile": 20}), {ACC: np.ones(40)}, draws=100, seed=1)
    boot = find(rows, f"{ACC}_bootstrap")
    assert (boot.value, boot.low, boot.high) == (1, None, None)
    assert find(rows, f"{ACC}_se").value == 0


@settings(max_examples=8)  # statsmodels collects garbage each time
@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_is_statsmodels(ps: list[float]) -> None:
    assert holm(ps) == pytest.approx(list(multipletests(ps, method="holm")[1]) if ps else [])


# Names


@pytest.mark.parametrize(
    ("metric", "word", "about", "base", "kind"),
    [
        ("opa/acc@0", "", "opa/acc@0", "opa/acc@0", "share"),
        ("opa/margin", "", "opa/margin", "opa/margin", "nats"),
        ("opa/acc@0_lift", "", "opa/acc@0", "opa/acc@0", "difference"),
        ("opa/margin_lift", "", "opa/margin", "opa/margin", "nats"),
        ("opa/acc@0_lift_gap", "_gap", "opa/acc@0", "opa/acc@0", None),
        ("opa/acc@0_lift_p_holm", "_p_holm", "opa/acc@0", "opa/acc@0", None),
        ("opa/acc@0_vs_my_gap_lift", "", "opa/acc@0_vs_my_gap", "opa/acc@0", "difference"),
        ("opa/margin_vs_b_better_off", "_better_off", "opa/margin_vs_b", "opa/margin", None),
        ("spmr_authors@0.8", "", "spmr_authors@0.8", "spmr_authors@0.8", "share"),
        ("opa/prompt_free", "", "opa/prompt_free", "opa/prompt_free", "share"),
        ("damage/kl", "", "damage/kl", "damage/kl", "divergence"),
        ("damage/kl_lift", "", "damage/kl", "damage/kl", "nats"),
        (
            "opa/profile/values_vs_none_lift",
            "",
            "opa/profile/values_vs_none",
            "opa/profile/values",
            "difference",
        ),
        (
            "opa/profile/values_vs_none_lift_lift",
            "",
            "opa/profile/values_vs_none_lift",
            "opa/profile/values",
            "second_difference",
        ),
    ],
)
def test_names_say_what_they_are_of(
    metric: str, word: str, about: str, base: str, kind: str | None
) -> None:
    assert (derivation(metric), family(metric), base_metric(metric)) == (word, about, base)
    assert in_percent(metric) != metric.startswith(("opa/margin", "damage/"))
    assert is_derived(metric) == (metric != base)
    if kind:
        assert kind_of(metric) == kind


def test_changes_are_lifts_and_gaps() -> None:
    changes = [
        "opa/acc@0_lift",
        "opa/acc@0_gap",
        "opa/acc@0_lift_worst",
        "opa/acc@0_lift_shrunk",
        "opa/acc@0_vs_b_lift",
    ]
    levels = [
        "opa/acc@0",
        "opa/acc@0_worst",
        "opa/acc@0_lift_p",
        "opa/acc@0_better_off",
        "opa/acc@0_se",
    ]
    assert [name for name in changes + levels if is_change(name)] == changes
