"""Metrics of the user's own: the `Metric` values of `./metrics/*.py`, computed from a pair's score.

They are found wherever a command runs in the folder that holds `metrics`, in a clone or not.
"""

import re
from pathlib import Path
from typing import Any

from mvp_align.errors import UserError
from mvp_align.metrics.metric import DERIVED, LIFT, Metric
from mvp_align.runtime.folders import load_file, own_metric_files
from mvp_align.schema import PairScore

_NAME = re.compile(r"[a-z][\w.@/-]*")


def own_metrics() -> tuple[Metric[PairScore], ...]:
    """Load `./metrics/*.py` and return what they define, in the order of the files.

    Raises UserError if a file cannot be run or a metric cannot be computed from a pair's score.
    """
    found: dict[str, Metric[PairScore]] = {}
    for path in own_metric_files():
        for metric in _metrics_in(path):
            _check(metric, path)
            if metric.name in found:
                raise UserError(f"{path}: {metric.name} is defined twice in this folder.")
            found[metric.name] = metric
    return tuple(found.values())


def _metrics_in(path: Path) -> list[Metric[Any]]:
    try:
        module = load_file(path, f"metrics.{path.stem}")
    except Exception as error:
        raise UserError(
            f"{path} holds metrics of your own and cannot be run ({type(error).__name__}: {error})."
            " Mend it, or move it out of this folder."
        ) from error
    return [value for value in vars(module).values() if isinstance(value, Metric)]


def _check(metric: Metric[Any], path: Path) -> None:
    if metric.per_pair is None:
        raise UserError(
            f"{path}: {metric.name} has no per_pair, so there is nothing to compute it from. It is"
            " a function of one PairScore."
        )
    if not _NAME.fullmatch(metric.name) or metric.name.endswith((LIFT, *DERIVED)):
        raise UserError(
            f"{path}: {metric.name!r} cannot name a metric. Use small letters, digits and ./@_-,"
            f" and no ending that tables derive ({', '.join((LIFT, *DERIVED))})."
        )
