"""How sure the means of a breakdown are: standard errors, design effects, the bootstrap, and tests
of its lifts."""

from collections.abc import Sequence

import numpy as np

from mvp_align.metrics.clusters import (
    ZERO,
    FloatArray,
    bootstrap_means,
    clustered_se,
    design_effect,
)
from mvp_align.metrics.groups import Breakdown, Values, better_off, breakdown_row, number_row
from mvp_align.metrics.intervals import Estimate, difference_p
from mvp_align.metrics.metric import BOOTSTRAP, DEFF, LIFT, P_HOLM, SE, P
from mvp_align.metrics.names import kind_of
from mvp_align.metrics.rows import Row


def certainty_rows(breakdown: Breakdown, values: Values, draws: int, seed: int) -> list[Row]:
    """Of the whole set and of each cell: `_se` (clustered), `_deff`, and `_bootstrap`, the mean
    with the percentile interval of `draws` resamples of people; of each lift `_p`, over the groups
    of one breakdown `_p_holm`, and who is better off."""
    rows: list[Row] = []
    arrays = np.stack(list(values.values()))
    for cell in (breakdown.whole, *breakdown.cells):
        clusters = cell.clusters
        here = arrays[:, cell.pairs]
        if clusters.users > 1:
            means = bootstrap_means(here, clusters, draws, seed)
            bounds = np.quantile(means, (0.025, 0.975), axis=0).T.tolist()
        for number, (metric, x) in enumerate(zip(values, here, strict=True)):
            error, effect = clustered_se(x, clusters), design_effect(x, clusters)
            if error is not None:
                rows.append(number_row(breakdown, metric + SE, cell, error))
                low, high = (
                    bounds[number] if error > ZERO else (None, None)
                )  # resampling people who agree tells nothing
                drawn = Estimate(float(x.mean()), low, high, clusters.pairs, clusters.users)
                rows.append(breakdown_row(breakdown, metric + BOOTSTRAP, cell.where, drawn))
            if effect is not None and cell is not breakdown.whole:  # the whole set's is a headline
                rows.append(number_row(breakdown, metric + DEFF, cell, effect))
            if metric.endswith(LIFT) and cell is not breakdown.whole:
                rows += better_off(breakdown, metric, values[metric], cell)
    for metric in values:
        if metric.endswith(LIFT):
            rows += _p_rows(breakdown, metric, values[metric])
    return rows


def _p_rows(breakdown: Breakdown, metric: str, x: FloatArray) -> list[Row]:
    """`difference_p` of the whole set and of each group; Holm's (1979) correction over the groups
    of one breakdown."""
    kind = kind_of(metric)
    rows = []
    for group_by in ("", *breakdown.by()):
        cells = breakdown.of(group_by) if group_by else [breakdown.whole]
        tested = [(cell, difference_p(x[cell.pairs], cell.clusters, kind)) for cell in cells]
        known = [(cell, p) for cell, p in tested if p is not None]
        rows += [number_row(breakdown, metric + P, cell, p) for cell, p in known]
        if group_by:
            corrected = holm([p for _, p in known])
            rows += [
                number_row(breakdown, metric + P_HOLM, cell, p)
                for (cell, _), p in zip(known, corrected, strict=True)
            ]
    return rows


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's (1979, Scandinavian Journal of Statistics 6, 65-70) step-down correction, as
    statsmodels' `multipletests` gives it, which collects garbage at every call: seconds over the
    breakdowns of a run."""
    if any(not 0 <= p <= 1 for p in ps):
        raise ValueError(f"{list(ps)} are no ps")
    order = np.argsort(ps, kind="stable")
    times = np.arange(len(ps), 0, -1)
    corrected = np.empty(len(ps))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(ps)[order] * times))
    return [float(p) for p in corrected]
