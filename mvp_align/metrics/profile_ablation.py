"""Does it matter who is asking? acc@0 of the same pairs under several profiles, and what each adds
over another.

`opa/profile/<kind>` is acc@0 under a kind of profile (`mvp_align.data.profiles`),
`opa/profile/<kind>/margin` the mean margin in nats a token. `..._vs_<other>_lift` is the mean over
pairs of the one minus the other: paired, clustered by user. The one that answers the question is
`opa/profile/values_vs_shuffled_lift` (`given_vs_shuffled_lift` where profiles are free text): a
model that likes any profile, or a longer prompt, gains nothing there. What training added to each
is the same name and `_lift`.

`opa/choices/<kind>` is the same with earlier choices: `own_<K>` of the person's own, `other_<K>` of
another person's, and `none`. Each `own_<K>` is compared with `none` and with `other_<K>`.
"""

from collections.abc import Iterable, Mapping, Sequence

from mvp_align.metrics.intervals import clustered_mean
from mvp_align.metrics.metric import LIFT, Metric
from mvp_align.metrics.names import VERSUS, kind_of
from mvp_align.metrics.opa import CHOICES, PROFILE, UNDER_PROFILE
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
PREFIX, CHOICES_PREFIX = (name.removesuffix("<kind>") for name in (PROFILE, CHOICES))
VALUES_OVER_SHUFFLED = f"{PREFIX}values{VERSUS}shuffled{LIFT}"
LEVEL = "shuffled_level"
"""What that lift, and that of own choices over another's, is broken down by: pairs for which the
other person states `another` level of the very dimension that the pair is about, and the `same`
level, for whom both ask for one answer."""
OWN, OTHER = "own_", "other_"

ByKind = Mapping[str, Sequence[PairScore]]
"""Kind of profile -> the scores of the same pairs in the same order."""


def profile_rows(
    stage: str,
    set_name: str,
    scores: ByKind,
    base: ByKind,
    level_changed: Mapping[str, bool],
    measured: Sequence[Metric[PairScore]] = UNDER_PROFILE,
) -> list[Row]:
    """Each kind, each contrast of two kinds, and, where `base` is not empty, how far training moved
    each.

    `level_changed`: pair id -> whether it is of the group `another`. `measured`: the metrics of
    each kind, `UNDER_PROFILE` or `UNDER_CHOICES`. Raises ValueError where two lists of scores are
    not of the same pairs in the same order.
    """
    lists = [*scores.values(), *base.values()]
    if any([score.id for score in one] != [score.id for score in lists[0]] for one in lists):
        raise ValueError("the lists of scores are not of the same pairs in the same order")
    values, before = _pair_values(scores, measured), _pair_values(base, measured)
    rows = []
    for metric, value in values.items():
        users = users_of(lists[0])
        rows.append(row(stage, set_name, metric, clustered_mean(value, users, kind_of(metric))))
        if metric in before:
            change = f"{metric}{LIFT}"
            estimate = clustered_mean(_minus(value, before[metric]), users, kind_of(change))
            rows.append(row(stage, set_name, change, estimate))
    for kind, other in contrasts_of(scores):
        if (kind, other) == ("values", "shuffled") or other.startswith(OTHER):
            name = contrast_name(measured[0], kind, other)
            rows += _level_rows(stage, set_name, name, values[name], scores[kind], level_changed)
    return rows


def contrasts_of(kinds: Iterable[str]) -> list[tuple[str, str]]:
    """Return which of these kinds are compared, the one with the other."""
    there = list(kinds)
    wanted = [*CONTRASTS]
    for kind in there:
        if kind.startswith(OWN):
            wanted += [(kind, "none"), (kind, kind.replace(OWN, OTHER))]
    return [(kind, other) for kind, other in wanted if kind in there and other in there]


def contrast_name(metric: Metric[PairScore], kind: str, other: str) -> str:
    return f"{metric.name.replace('<kind>', kind)}{VERSUS}{other}{LIFT}"


def _level_rows(
    stage: str,
    set_name: str,
    name: str,
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
            estimate = clustered_mean([lifts[at] for at in there], users, kind_of(name))
            rows.append(row(stage, set_name, name, estimate, LEVEL, group))
    return rows


def _pair_values(scores: ByKind, measured: Sequence[Metric[PairScore]]) -> dict[str, list[float]]:
    """What each metric is the mean of: its value for each pair, in their order."""
    found = {
        metric.name.replace("<kind>", kind): metric.of(part)
        for kind, part in scores.items()
        for metric in measured
    }
    for kind, other in contrasts_of(scores):
        for metric in measured:
            name, others = (metric.name.replace("<kind>", one) for one in (kind, other))
            found[contrast_name(metric, kind, other)] = _minus(found[name], found[others])
    return found


def _minus(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return [value - other for value, other in zip(values, others, strict=True)]
