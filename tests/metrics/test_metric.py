"""Every list of metrics derives from one table, and names that are not in it are errors."""

import re
from pathlib import Path

import pytest

from mvp_align.errors import UserError
from mvp_align.judging.labels import PRESETS
from mvp_align.metrics.labelled import Labelled
from mvp_align.metrics.metric import BOUNDS, DERIVED, LIFT, OF_LIFT, UNITS, Metric
from mvp_align.metrics.names import base_metric, kind_of, measure
from mvp_align.metrics.opa import UNDER_CHOICES
from mvp_align.metrics.paa import paa_rows
from mvp_align.metrics.profile_ablation import profile_rows
from mvp_align.metrics.score_rows import BY_GROUP, pair_values
from mvp_align.metrics.spmr import AnswerCosines, answer_rows
from mvp_align.metrics.table import FORMS, METRICS, PLACES, SIMILARITIES, metric_named, pattern
from mvp_align.reporting.results import FIRST, label_of
from mvp_align.schema import PairScore

SCORES = [PairScore(f"p{n}", f"u{n}", -1.0 - n, -2.0, 2, 2) for n in range(4)]
ANSWERS = [AnswerCosines(f"p{n}", f"u{n}", 0.9, 0.1, 0.8, False, True) for n in range(4)]
LABELLED = [Labelled(f"p{n}", f"u{n}", label) for n, label in enumerate(("W", "L", "TIE", None))]


def measured() -> set[str]:
    """The names that the code really writes."""
    rows = paa_rows("tuned", "in_domain", "paa/dvb_judge-blind-swap", LABELLED, {}, 1)
    shown = dict.fromkeys(("none", "demographics", "values", "shuffled", "given"), SCORES)
    rows += answer_rows("tuned", "in_domain", [*FORMS, *SIMILARITIES], ANSWERS, ANSWERS)
    rows += profile_rows("tuned", "in_domain", shown, shown, {"p0": True})
    shown = dict.fromkeys(("none", "own_1", "other_1", "own_16", "other_16"), SCORES)
    rows += profile_rows("tuned", "in_domain", shown, shown, {"p0": True}, UNDER_CHOICES)
    return {
        *pair_values(SCORES, SCORES),
        *(row.metric for row in rows),
        "damage/kl",
        "damage/perplexity",
        "opa/length_only",
        "opa/prompt_free",
        *BY_GROUP,
        *FIRST,
        *(f"paa/{name}" for name in PRESETS),
        *(f"paa/{name}/alpha" for name in PRESETS),
    }


def test_everything_that_is_measured_is_known() -> None:
    names = measured()
    assert len(names) > 50
    for name in names:
        metric = measure(name)
        assert metric.name == base_metric(name)
        assert metric.label and "<" not in metric.label
        assert kind_of(name) in BOUNDS
        assert label_of(name)


@pytest.mark.parametrize(
    "name", ["opa/acc", "opa/acc@high", "margin", "paa", "my_metric", "opa/margins", "", "own/mine"]
)
def test_an_unknown_name_is_an_error_and_no_share(name: str) -> None:
    for asked in (metric_named, measure, kind_of):
        with pytest.raises(UserError, match="no metric of that name is known"):
            asked(name)


@pytest.mark.parametrize(
    ("name", "kind", "higher", "unit", "label"),
    [
        ("opa/acc@0.2", "share", True, "%", "acc@0.2"),
        ("opa/margin", "nats", True, "nats/token", "mean margin, nats"),
        ("opa/rejected_shift", "nats", None, "nats/token", "rejected shift, nats"),
        ("paa/mine/loss", "share", False, "%", "paa/mine/loss"),
        ("paa/semantic", "share", True, "%", "nearer the fitting text (semantic, no judge)"),
        ("spmr@0.8", "share", True, "%", "SPMR at 0.8"),
        ("damage/perplexity", "perplexity", False, "", "perplexity"),
        ("damage/kl", "divergence", False, "nats/token", "KL to the base, nats"),
        ("paa/mine/alpha", "agreement", True, "", "paa/mine/alpha"),
        ("own/share/fair", "share", None, "%", "own/share/fair"),
        ("own/number/words", "number", None, "", "own/number/words"),
    ],
)
def test_names_have_a_measure_and_a_derivation(
    name: str, kind: str, higher: bool | None, unit: str, label: str
) -> None:
    found = metric_named(name)
    assert (found.name, found.kind, found.higher_is_better, found.unit, found.label) == (
        name,
        kind,
        higher,
        unit,
        label,
    )


def test_a_lift_of_a_share_is_bounded_by_what_shares_can_do() -> None:
    assert BOUNDS[kind_of("opa/acc@0")] == (0, 1)
    assert BOUNDS[kind_of("opa/acc@0_lift")] == (-1, 1)
    assert BOUNDS[kind_of("opa/profile/values_vs_shuffled_lift_lift")] == (-2, 2)
    assert BOUNDS[kind_of("damage/perplexity")][0] == 1 and BOUNDS[kind_of("damage/kl")][0] == 0
    assert {*OF_LIFT, *OF_LIFT.values(), *UNITS} <= {*BOUNDS}


def test_a_name_matches_one_metric_or_an_exact_one_first() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    for place, metric in enumerate(METRICS):
        if "<" not in metric.name:
            first = next(
                at
                for at, other in enumerate(METRICS)
                if re.fullmatch(pattern(other.name), metric.name)
            )
            assert first == place, metric.name
    assert all(set(re.findall("<[a-z]+>", metric.name)) <= {*PLACES} for metric in METRICS)
    assert not [m.name for m in METRICS if m.name.endswith((LIFT, *DERIVED))]


def test_the_table_is_of_values() -> None:
    with pytest.raises(AttributeError):
        METRICS[0].kind = "nats"  # type: ignore[misc]
    assert Metric("x", "share", "x") == Metric("x", "share", "x")


def test_no_other_file_lists_metrics() -> None:
    """Lists that stand beside the table drift from it."""
    package = Path(__file__).parents[2] / "mvp_align"
    for path in package.rglob("*.py"):
        text = path.read_text("utf-8")
        assert not re.search(r"^(LABELS|NUMBERS|LIFTED_METRICS) *[:=]", text, re.MULTILINE), path
