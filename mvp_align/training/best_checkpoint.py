"""Which checkpoint a run keeps: the last one, or the best by a metric (`train.best_by`).

The metric is measured in training on pairs of validation people, never on those that results are
about. The model before the first step is no candidate: it is no result of training. Of equal values
the earliest counts. Nothing here imports torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mvp_align.config import Config
from mvp_align.data.sets import IN_DOMAIN
from mvp_align.errors import UserError
from mvp_align.metrics.groups import Tags
from mvp_align.metrics.metric import GAP, SHRUNK
from mvp_align.metrics.names import in_percent
from mvp_align.metrics.opa import WORST_GROUP
from mvp_align.metrics.table import CHANGES, SCORED, SIMILARITIES
from mvp_align.metrics.worst_group import compared_groups
from mvp_align.runtime.recipes import recipe_named

BEST = "best_checkpoint"
"""Key of notes.json with a `BestCheckpoint`."""
SEMANTIC_PAA = "paa/semantic"
WORST_GAP = f"{WORST_GROUP.name}{GAP}"
SHRUNK_WORST = f"{WORST_GROUP.name}{SHRUNK}"


@dataclass(frozen=True, slots=True)
class BestCheckpoint:
    """The evaluation whose adapter a run keeps."""

    metric: str
    step: int
    value: float
    evaluations: int
    """How many were compared: one of them is the highest by chance alone, too."""
    last_step: int
    base: float | None
    """The metric of the base model on the same pairs; None where it has none."""
    pairs: int
    users: int

    def sentence(self) -> str:
        """Say what was chosen, of how much, and what it is worth."""
        text = (
            f"the adapter is that of step {self.step} of {self.last_step}, the best of"
            f" {self.evaluations} evaluations by {self.metric}: {self._shown(self.value)} on"
            f" {self.pairs} validation pairs of {self.users} people"
        )
        if self.base is not None:
            text += f" (base model {self._shown(self.base)})"
        if self.base is not None and not self._is_above_base():
            text += "; none of them was better than the base model"
        return text

    def _shown(self, value: float) -> str:
        return f"{100 * value:.1f} %" if in_percent(self.metric) else f"{value:.3f}"

    def _is_above_base(self) -> bool:
        assert self.base is not None
        return self.value < self.base if lower_is_better(self.metric) else self.value > self.base


def best_evaluation(
    history: Iterable[Mapping[str, Any]], metric: str
) -> tuple[int, float, int] | None:
    """Return step and value of the best evaluation in a trainer's log, and how many there are."""
    key = f"eval_{log_name(metric)}"
    found = [(int(entry["step"]), float(entry[key])) for entry in history if key in entry]
    found = [(step, value) for step, value in dict(found).items() if step > 0]
    if not found:
        return None
    sign = 1 if lower_is_better(metric) else -1
    step, value = min(found, key=lambda one: (sign * one[1], one[0]))
    return step, value, len(found)


def log_name(metric: str) -> str:
    """Return a metric's name in a run's own log, without `eval_`."""
    return metric if is_of_answers(metric) else f"{IN_DOMAIN}/{metric}"


def is_of_answers(metric: str) -> bool:
    return metric == SEMANTIC_PAA or metric in (one.name for one in SIMILARITIES)


def lower_is_better(metric: str) -> bool:
    """Whether less of a metric of `metrics_to_choose_by` is better."""
    return metric == WORST_GAP or _better_ends().get(metric) is False


def metrics_to_choose_by(config: Config) -> list[str]:
    """Return what the evaluations of such a run measure and that has a better end."""
    directed = [name for name, higher in _better_ends().items() if higher is not None]
    worst = [WORST_GROUP.name, WORST_GAP, SHRUNK_WORST] if config.evals.worst_by else []
    answers = [SEMANTIC_PAA] if "paa" in config.evals.metrics else []
    if "spmr" in config.evals.metrics:
        answers += [one.name for one in SIMILARITIES]
    return [*directed, *worst, *answers]


def _better_ends() -> dict[str, bool | None]:
    """Whether more is better, by the metrics of scores and of what training changed."""
    ends = {one.name: one.higher_is_better for one in SCORED}
    return ends | {one.name: one.higher_is_better for one in CHANGES}


def best_problems(config: Config) -> list[str]:
    """Return why `train.best_by` cannot choose, with what to do."""
    train, evals = config.train, config.evals
    if train.best_by is None or not recipe_named(config.recipe).trains:
        return []
    problems = []
    if evals.every_steps is None:
        problems.append(
            f"train.best_by={train.best_by} compares evaluations in training: set"
            " evals.every_steps."
        )
    if train.best_by not in (known := metrics_to_choose_by(config)):
        problems.append(
            f"train.best_by={train.best_by}: this run's evaluations in training can be compared by"
            f" {', '.join(known)}. The worst group needs evals.worst_by; paa/semantic and spmr need"
            " evals.metrics to have paa and spmr."
        )
    if config.hardware.sharding == "fsdp":
        problems.append(
            f"train.best_by={train.best_by}: an adapter that hardware.sharding=fsdp has spread over"
            " devices cannot be put back. Use zero2, or none."
        )
    return problems


def check_worst_group(
    config: Config, users: Sequence[str], tags: Sequence[Tags], available: int
) -> None:
    """Raise UserError if `train.best_by` names the worst group, and validation pairs lack it.

    `users` and `tags` are those of the pairs that are evaluated in training, of `available` ones.
    """
    by, fewest = config.evals.worst_by, config.evals.min_users
    if by is None or not (config.train.best_by or "").startswith(WORST_GROUP.name):
        return
    groups = compared_groups(users, tags, by, fewest)
    need = 4 if config.train.best_by == SHRUNK_WORST else 2
    if len(groups) < need:
        more = " Set evals.every_pairs=null to take all of them." * (len(users) < available)
        raise UserError(
            f"train.best_by={config.train.best_by} needs {need} groups of evals.worst_by={by} with"
            f" evals.min_users={fewest} people each, and of the {len(users)} validation pairs that"
            f" are evaluated {len(groups)} are ({', '.join(groups) or 'none'}).{more}"
        )
