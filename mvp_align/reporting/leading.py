"""The metric that a set's headline, chart and groups show: acc@0, or PAA where nothing was
scored."""

import re
from collections.abc import Iterable

from mvp_align.metrics.labelled import SEMANTIC
from mvp_align.metrics.names import is_derived
from mvp_align.metrics.opa import ACC
from mvp_align.metrics.rows import Row

PAA_SEMANTIC = SEMANTIC[0].name


def leading_metric(rows: Iterable[Row], set_name: str) -> str:
    """Return acc@0 if the set was scored, else PAA by a judge, else PAA by the semantic comparison.

    Where there is nothing of these, it is acc@0, which then has no rows.
    """
    measured = {row.metric: None for row in rows if row.set == set_name and not row.group_by}
    judged = [
        name for name in measured if re.fullmatch(r"paa/[\w.-]+", name) and not is_derived(name)
    ]
    if ACC in measured or not judged:
        return ACC
    return min(judged, key=lambda name: name == PAA_SEMANTIC)


def spoken(metric: str) -> str:
    """Return the name of a leading metric for titles and sentences."""
    no_judge = " (nearer the fitting text, no judge)" if metric == PAA_SEMANTIC else ""
    return metric.removeprefix("opa/") + no_judge
