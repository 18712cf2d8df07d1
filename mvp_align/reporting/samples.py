"""A few pairs with their margins, because means alone hide what they are about."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from mvp_align.data.load import DataSets
from mvp_align.runs.run_folder import RunFolder
from mvp_align.schema import PairScore, PreferencePair


@dataclass(frozen=True, slots=True)
class Sample:
    """One pair with its margins in nats per token, or None for stages that were not scored.

    What the person states of themselves is left out: profile, level and user type.
    """

    set: str
    id: str
    groups: str
    """The question's value dimension; "" without one."""
    question: str
    chosen: str
    rejected: str
    base_margin: float | None
    tuned_margin: float | None


def sample_pairs(count: int, data: DataSets, run: RunFolder) -> list[Sample]:
    """Return up to `count` scored pairs of each set.

    They are chosen by the hash of their id, so all runs on a set show the same ones. Raises
    UserError if a file of scores is broken.
    """
    return [
        sample
        for set_name, pairs in data.by_set.items()
        for sample in _samples_of(
            set_name,
            count,
            pairs,
            run.read_scores("base", set_name),
            run.read_scores("tuned", set_name),
        )
    ]


def _samples_of(
    set_name: str,
    count: int,
    pairs: Sequence[PreferencePair],
    base: Sequence[PairScore] | None,
    tuned: Sequence[PairScore] | None,
) -> list[Sample]:
    before = {score.id: score.margin for score in base or ()}
    after = {score.id: score.margin for score in tuned or ()}
    scored = [pair for pair in pairs if pair.id in before or pair.id in after]
    scored.sort(key=lambda pair: sha256(pair.id.encode()).digest())
    return [
        Sample(
            set=set_name,
            id=pair.id,
            groups=f"dimension={dimension}" if (dimension := pair.groups.get("dimension")) else "",
            question=pair.asked,
            chosen=pair.chosen,
            rejected=pair.rejected,
            base_margin=before.get(pair.id),
            tuned_margin=after.get(pair.id),
        )
        for pair in scored[:count]
    ]
