"""Does it matter who is asking? acc@0 of the same pairs under several profiles, and what each adds
over another.

`opa/profile/<kind>` is acc@0 under a kind of profile (`mvp_align.data.profiles`),
`opa/profile/<kind>/margin` the mean margin in nats a token. `..._vs_<other>_lift` is the mean over
pairs of the one minus the other: paired, clustered by user. The one that answers the question is
`opa/profile/values_vs_shuffled_lift` (`given_vs_shuffled_lift` where profiles are free text): a
model that likes any profile, or a longer prompt, gains nothing there. What training added to each
is the same name and `_lift`.
"""

from collections.abc import Mapping, Sequence

from mvp_align.metrics.intervals import clustered_mean
from mvp_align.metrics.metric import LIFT
from mvp_align.metrics.names import VERSUS, kind_of
from mvp_align.metrics.opa import PROFILE, UNDER_PROFILE
from mvp_align.metrics.rows import Row, row
from mvp_align.metrics.score_rows import users_of
from mvp_align.schema import PairScore

CONTRASTS = (
    ("demographics", "none"),
    ("values", "none"),
    ("values", "demographics"),
    ("values", "shuffled"),
    ("given", "none"),
    ("given", "shuffled"),
)
PREFIX = PROFILE.removesuffix("<kind>")
VALUES_OVER_SHUFFLED = f"{PREFIX}values{VERSUS}shuffled{LIFT}"
LEVEL = "shuffled_level"
"""What that lift is broken down by: pairs for which the other person states `another` level of the
very dimension that the pair is about, and the `same` level, for whom both profiles ask for one
answer."""

ByKind = Mapping[str, Sequence[PairScore]]
"""Kind of profile -> the scores of the same pairs in the same order."""


def profile_rows(
    stage: str,
    set_name: str,
    scores: ByKind,
    base: ByKind,
    level_changed: Mapping[str, bool],
) -> list[Row]:
    """Each kind, each contrast of two kinds, and, where `base` is not empty, how far training moved
    each.

    `level_changed`: pair id -> whether it is of the group `another`. Raises ValueError where two
    lists of scores are not of the same pairs in the same order.
    """
    lists = [*scores.values(), *base.values()]
    if any([score.id for score in one] != [score.id for score in lists[0]] for one in lists):
        raise ValueError("the lists of scores are not of the same pairs in the same order")
    values, before = _pair_values(scores), _pair_values(base)
    rows = []
    for metric, value in values.items():
        users = users_of(lists[0])
        rows.append(row(stage, set_name, metric, clustered_mean(value, users, kind_of(metric))))
        if metric in before:
            change = f"{metric}{LIFT}"
            estimate = clustered_mean(_minus(value, before[metric]), users, kind_of(change))
            rows.append(row(stage, set_name, change, estimate))
    if VALUES_OVER_SHUFFLED in values:
        rows += _level_rows(
            stage, set_name, values[VALUES_OVER_SHUFFLED], scores["values"], level_changed
        )
    return rows


def _level_rows(
    stage: str,
    set_name: str,
    lifts: Sequence[float],
    scores: Sequence[PairScore],
    level_changed: Mapping[str, bool],
) -> list[Row]:
    """The lifts of these pairs, broken down by `LEVEL`."""
    rows = []
    for group, change in (("another", True), ("same", False)):
        there = [at for at, score in enumerate(scores) if level_changed.get(score.id) is change]
        if there:
            users = [scores[at].user_id for at in there]
            estimate = clustered_mean(
                [lifts[at] for at in there], users, kind_of(VALUES_OVER_SHUFFLED)
            )
            rows.append(row(stage, set_name, VALUES_OVER_SHUFFLED, estimate, LEVEL, group))
    return rows


def _pair_values(scores: ByKind) -> dict[str, list[float]]:
    """What each metric is the mean of: its value for each pair, in their order."""
    found = {
        metric.name.replace("<kind>", kind): metric.of(part)
        for kind, part in scores.items()
        for metric in UNDER_PROFILE
    }
    for kind, other in CONTRASTS:
        if kind in scores and other in scores:
            for metric in UNDER_PROFILE:
                name, others = (metric.name.replace("<kind>", one) for one in (kind, other))
                found[f"{name}{VERSUS}{other}{LIFT}"] = _minus(found[name], found[others])
    return found


def _minus(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return [value - other for value, other in zip(values, others, strict=True)]
