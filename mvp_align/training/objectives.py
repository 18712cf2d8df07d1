"""Objectives for people who disagree: what each pair of an optimizer step weighs.

The plain mean over pairs serves whoever is most of the data. With l_i the loss of pair i, g(i) its
group, N_g the group's training pairs of N in all, and B the pairs of a step over all processes, the
loss of a step is (1/B) sum_i w_i l_i, and

    importance   w_i = N / (G N_g(i)) for G groups: each group counts as much as any other
    gr_dpo       w_i = alpha_g(i) N / N_g(i); before that alpha_g <- alpha_g exp(eta L_g),
                 normalised, with L_g = (N / N_g) (1/B) sum over i in g of l_i
                 (Ramesh et al. 2024, arXiv 2405.20304, algorithm 1; alpha starts uniform)
    kl_dpo       w_i = min(10, exp((l_i - mean l) / tau)), which needs no groups
                 (arXiv 2502.01930, KLDPO)

Weights take no gradient.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

POOLED = "other"
"""Group of the pairs that have none, or whose group has too few people."""
HIGHEST = 10.0
"""KLDPO's largest weight."""


@dataclass(slots=True)
class Objective:
    """The weights of a run's pairs. `alpha` is its state, which a resumed run must get back."""

    kind: str
    """importance, gr_dpo or kl_dpo."""
    groups: tuple[str, ...] = ()
    """Names, by the number that a pair's group has."""
    sizes: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    """[groups], float64: training pairs of each."""
    eta: float = 0.05
    tau: float = 1.0
    alpha: Tensor = field(init=False)
    """[groups], float64, sums to 1."""

    def __post_init__(self) -> None:
        self.alpha = torch.full_like(self.sizes, 1 / max(1, len(self.sizes)))

    @classmethod
    def of_groups(cls, kind: str, names: Sequence[str], eta: float, tau: float) -> Self:
        """Make it for training pairs of these groups, one name per pair."""
        counted = Counter(names)
        groups = tuple(sorted(counted))
        sizes = torch.tensor([counted[name] for name in groups], dtype=torch.float64)
        return cls(kind, groups, sizes, eta, tau)

    def step(self, losses: Tensor, groups: Tensor) -> Tensor:
        """Return the weights of a step's pairs, and move on.

        `losses` [pairs], nats, and `groups` [pairs], int64, are those of all processes, in one
        order. Computed in float64 on the CPU, so that all processes get the same.
        """
        losses, groups = losses.detach().double().cpu(), groups.cpu()
        if self.kind == "kl_dpo":
            return ((losses - losses.mean()) / self.tau).exp().clamp(max=HIGHEST)
        share = self.sizes.sum() / self.sizes
        if self.kind == "gr_dpo":
            sums = torch.zeros_like(self.sizes).index_add_(0, groups, losses)
            moved = self.alpha.log() + self.eta * share * sums / len(losses)
            self.alpha = moved.softmax(0)
        return (self.alpha * share)[groups]

    @property
    def logged(self) -> dict[str, float]:
        """Return what the run's curves show after each step, and a resumed run starts from."""
        if self.kind != "gr_dpo":
            return {}
        return {alpha_key(name): float(a) for name, a in zip(self.groups, self.alpha, strict=True)}

    def restore(self, entry: Mapping[str, float]) -> None:
        """Take `alpha` from the logged entry of the step that the run resumes from."""
        if self.kind == "gr_dpo":
            kept = [entry[alpha_key(name)] for name in self.groups]
            self.alpha = torch.tensor(kept, dtype=torch.float64)


def alpha_key(group: str) -> str:
    return f"objective/alpha/{group}"


def pooled_groups(groups: Sequence[str | None], users: Sequence[str], min_users: int) -> list[str]:
    """Return each pair's group, or POOLED for those without one and of fewer than `min_users`."""
    people: dict[str, set[str]] = {}
    for group, user in zip(groups, users, strict=True):
        if group is not None:
            people.setdefault(group, set()).add(user)
    large = {group for group, found in people.items() if len(found) >= min_users}
    return [group if group in large else POOLED for group in groups]


def pair_losses(loss_type: str, margins: Tensor, mean_margins: Tensor, beta: float) -> Tensor:
    """Return TRL's loss of each pair [pairs], for a loss of `losses.PAIR_LOSSES`.

    `margins` [pairs] are log-ratios to the reference, chosen minus rejected, summed over an
    answer's tokens; in `mean_margins` each answer's is divided by its tokens (TRL's `ipo`).
    """
    if loss_type == "sigmoid":
        return -torch.nn.functional.logsigmoid(beta * margins)
    if loss_type == "hinge":
        return torch.relu(1 - beta * margins)
    assert loss_type == "ipo", loss_type
    return (mean_margins - 1 / (2 * beta)) ** 2
