"""Before a run: the smallest lift that so many people can show, and how many people a lift needs.

It is the power of the test of lifts that runs are measured by: Student's t with G-1 degrees of
freedom on the mean paired difference over its standard error clustered by user
(`intervals.difference_p`), two-sided. With G users of m pairs each on average, coefficient of
variation c, the variance of the mean is

    (d - l^2) / (G m) * (1 + ((1 + c^2) m - 1) r)

where l is the lift of acc@0, d the share of discordant pairs (right under one model, wrong under
the other), so that d - l^2 is the variance of a paired difference of two shares, and r the
correlation of the differences of one user. The second factor is the design effect of clusters
(Donner & Klar 2000, Design and Analysis of Cluster Randomization Trials, chapter 5), of unequal
sizes by Eldridge, Ashby & Kerry 2006 (Int. J. Epidemiology 35, 1292-1300). Power is that of the
noncentral t (Miller 2024, "Adding Error Bars to Evals", arXiv 2411.00640, section 5, has it for
the normal distribution).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, stats

from mvp_align.metrics.clusters import ZERO, FloatArray, clusters_of

MOST_USERS = 10_000_000


@dataclass(frozen=True, slots=True)
class Study:
    """Who is asked, and how often answers change. `users` G, `pairs_per_user` m, `variation` c,
    `icc` r and `discordant` d of the formula.

    Raises ValueError for what cannot be.
    """

    users: int
    pairs_per_user: float
    icc: float
    discordant: float
    variation: float = 0.0

    def __post_init__(self) -> None:
        if self.users < 2 or self.pairs_per_user < 1 or self.variation < 0:
            raise ValueError(f"{self}: two users and a pair of each are needed")
        if not (0 <= self.icc <= 1 and 0 < self.discordant <= 1):
            raise ValueError(f"{self}: icc and discordant are no shares")

    @property
    def design_effect(self) -> float:
        return 1 + ((1 + self.variation**2) * self.pairs_per_user - 1) * self.icc

    def standard_error(self, lift: float) -> float:
        """The standard error of the mean paired difference, as a share."""
        variance = max(0.0, self.discordant - lift**2)
        return math.sqrt(variance * self.design_effect / (self.users * self.pairs_per_user))

    def power(self, lift: float, alpha: float = 0.05) -> float:
        """The probability that the test shows a true `lift` (a share) at level `alpha`.

        Raises ValueError where `lift` passes the share of discordant pairs.
        """
        if abs(lift) > self.discordant:
            raise ValueError(f"a lift of {lift} with {self.discordant} discordant pairs")
        error, freedom = self.standard_error(lift), self.users - 1
        if error < ZERO:
            return 1.0
        critical, shift = float(stats.t.ppf(1 - alpha / 2, freedom)), abs(lift) / error
        above, below = (
            stats.nct.sf(critical, freedom, shift),
            stats.nct.cdf(-critical, freedom, shift),
        )
        return float(min(1.0, above + below))

    def smallest_lift(self, power: float = 0.8, alpha: float = 0.05) -> float | None:
        """The smallest true lift (a share) that is shown with `power`; None if not even the
        largest is, where every discordant pair changes for the better."""
        if self.power(self.discordant, alpha) < power:
            return None

        def lacking(lift: float) -> float:
            return self.power(lift, alpha) - power

        return float(optimize.brentq(lacking, 0.0, self.discordant, xtol=1e-9))

    def users_for(self, lift: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
        """The fewest users of such a study that show `lift` with `power`; None if more than
        MOST_USERS are needed."""
        few, many = 2, MOST_USERS
        if replace(self, users=many).power(lift, alpha) < power:
            return None
        while few < many:
            middle = (few + many) // 2
            enough = replace(self, users=middle).power(lift, alpha) >= power
            few, many = (few, middle) if enough else (middle + 1, many)
        return few


def study_of(differences: FloatArray, users: Sequence[str]) -> Study:
    """Return what a finished run's paired differences [pairs] of acc@0 (-1, 0 or 1) say.

    `icc` is the ANOVA estimator (Donner & Klar 2000, section 6.3), at least 0. Raises ValueError
    where it cannot be had: one user, a pair of each alone, or no pair that changed.
    """
    clusters = clusters_of(users)
    n, count, sizes = clusters.pairs, clusters.users, clusters.counts
    if count < 2 or n == count:
        raise ValueError("a within-user correlation needs two users and two pairs of one")
    discordant = float(np.abs(differences).mean())
    if discordant < ZERO:
        raise ValueError("no pair is right under one model and wrong under the other")
    means = clusters.means(differences)
    between = float((sizes * (means - differences.mean()) ** 2).sum()) / (count - 1)
    within = float(((differences - means[clusters.user]) ** 2).sum()) / (n - count)
    typical = (n - float((sizes**2).sum()) / n) / (count - 1)
    spread = between + (typical - 1) * within
    icc = (between - within) / spread if spread > ZERO else 0.0
    return Study(
        count, n / count, min(1.0, max(0.0, icc)), discordant, float(sizes.std() / sizes.mean())
    )
