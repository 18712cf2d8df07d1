"""Implicit-reward accuracy: did training raise the chosen answer over the rejected one?

The implicit reward of an answer is log pi - log ref, times a positive factor that does not matter
here (Rafailov et al. 2023, arXiv 2305.18290, equation 5). `ref` is always the base model. The
accuracy is the share of pairs whose chosen answer has the larger reward, strictly. AlignX (arXiv
2503.15463), RewardBench's DPO mode (arXiv 2403.13787) and GR-DPO (arXiv 2405.20304) sum rewards
over an answer's tokens; per token, long answers weigh no more than short ones. Pairs of equal
rewards count as wrong, and their share has a row.

It says how training moved a model, not what the model prefers: acc@0 compares log pi alone.
"""

from mvp_align.metrics.metric import Metric
from mvp_align.metrics.opa import Change


def _lead(change: Change) -> float:
    """The chosen answer's reward minus the rejected one's, in nats."""
    base, tuned = change
    chosen = tuned.chosen_logp - base.chosen_logp
    return chosen - (tuned.rejected_logp - base.rejected_logp)


def _lead_per_token(change: Change) -> float:
    base, tuned = change
    chosen = (tuned.chosen_logp - base.chosen_logp) / tuned.chosen_tokens
    return chosen - (tuned.rejected_logp - base.rejected_logp) / tuned.rejected_tokens


def _right(change: Change) -> float:
    return float(_lead(change) > 0)


def _right_per_token(change: Change) -> float:
    return float(_lead_per_token(change) > 0)


def _tie(change: Change) -> float:
    return float(_lead(change) == 0)


def _tie_per_token(change: Change) -> float:
    return float(_lead_per_token(change) == 0)


REWARD_ACCURACY = Metric(
    "reward_accuracy",
    "share",
    "reward accuracy",
    higher_is_better=True,
    per_pair=_right,
    by_group=True,
)
PER_TOKEN = Metric(
    "reward_accuracy/per_token",
    "share",
    "reward accuracy/token",
    higher_is_better=True,
    per_pair=_right_per_token,
    by_group=True,
)
TIES = Metric("reward_accuracy/tie", "share", "equal rewards", per_pair=_tie)
TIES_PER_TOKEN = Metric(
    "reward_accuracy/per_token/tie", "share", "equal rewards/token", per_pair=_tie_per_token
)
REWARDS = (REWARD_ACCURACY, TIES, PER_TOKEN, TIES_PER_TOKEN)
