"""Rows of a small finished run, for tests of reports."""

import pytest

from mvp_align.metrics.rows import Row

SCRIPT = "<script>alert('x')</script> & [red]"


def both(
    set_name: str,
    metric: str,
    base: float,
    tuned: float,
    n: int,
    users: int,
    group_by: str = "",
    group: str = "",
) -> list[Row]:
    """Rows for base and tuned, and for acc@0 the lift, with intervals of ± 0.05."""
    values = [("base", metric, base), ("tuned", metric, tuned)]
    if metric == "opa/acc@0":
        values.append(("tuned", "opa/acc@0_lift", tuned - base))
    return [
        Row(stage, set_name, name, group_by, group, value, value - 0.05, value + 0.05, n, users)
        for stage, name, value in values
    ]


@pytest.fixture
def rows() -> list[Row]:
    return [
        *both("in_domain", "opa/acc@0", 0.588, 0.7761, 250, 48),
        *both("in_domain", "opa/acc@0.2", 0.41, 0.7, 250, 48),
        *both("in_domain", "opa/mean", 0.17, 0.25, 250, 48),
        *both("in_domain", "opa/margin", -0.0512, 0.6149, 250, 48),
        Row("tuned", "in_domain", "opa/chosen_shift", "", "", -0.342, -0.4, -0.3, 250, 48),
        *both("in_domain", "opa/prompt_free", 0.56, 0.74, 250, 48),
        Row("base", "in_domain", "opa/length_only", "", "", 0.52, 0.45, 0.59, 250, 48),
        Row("base", "in_domain", "opa/value_blind_ceiling", "", "", 0.792, None, None, 250, 48),
        *both("in_domain", "opa/acc@0", 0.61, 0.83, 36, 30, "dimension", "safety"),
        *both("in_domain", "opa/acc@0", 0.45, 0.67, 34, 29, "dimension", "creativity"),
        *both("in_domain", "opa/acc@0", 0.5, 0.22, 60, 31, "level", "Low"),
        *both("in_domain", "opa/acc@0", 0.6, 0.95, 190, 48, "level", "High"),
        *both("in_domain", "opa/acc@0", 0.4, 0.31, 9, 8, "dimension,level", "safety,Low"),
        *both("in_domain", "opa/acc@0", 0.6, 0.7, 20, 1, "birth_country", SCRIPT),
        *both("ufp4", "opa/acc@0", 0.4917, 0.5333, 60, 45),
        *both("ufp4", "opa/acc@0", 0.51, 0.54, 15, 12, "user_type", "honesty"),
        *both("ufp4/honesty", "opa/acc@0", 0.51, 0.54, 15, 12),
    ]
