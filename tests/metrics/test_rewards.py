"""Implicit-reward accuracy from the sums of scores."""

import pytest

from mvp_align.metrics.score_rows import pair_values, score_rows
from mvp_align.schema import PairScore


def score(chosen: float, rejected: float, tokens: tuple[int, int] = (10, 5)) -> PairScore:
    return PairScore("p", "u", chosen, rejected, *tokens)


@pytest.mark.parametrize(
    ("base", "tuned", "summed", "tie", "per_token", "per_token_tie"),
    [
        # the chosen answer rises by 3 nats, the rejected one by 1
        (score(-20, -10), score(-17, -9), 1, 0, 1, 0),
        # by 3 and by 2: 0.3 a token against 0.4
        (score(-20, -10), score(-17, -8), 1, 0, 0, 0),
        # both fall, the chosen one by less in all and a token
        (score(-20, -10), score(-21, -12), 1, 0, 1, 0),
        (score(-20, -10), score(-20, -10), 0, 1, 0, 1),  # nothing moved
        (score(-20, -10), score(-18, -8), 0, 1, 0, 0),
        (score(-20, -10), score(-18, -9), 1, 0, 0, 1),
        (score(-20, -10), score(-19, -7), 0, 0, 0, 0),
        # a base that is far off does not count, unlike in acc@0
        (score(-90, -10), score(-80, -11), 1, 0, 1, 0),
    ],
)
def test_a_pair(
    base: PairScore, tuned: PairScore, summed: int, tie: int, per_token: int, per_token_tie: int
) -> None:
    values = pair_values([tuned], [base])
    assert values["reward_accuracy"] == [summed]
    assert values["reward_accuracy/tie"] == [tie]
    assert values["reward_accuracy/per_token"] == [per_token]
    assert values["reward_accuracy/per_token/tie"] == [per_token_tie]


def test_rows_of_the_set_and_of_groups() -> None:
    base = [PairScore(f"p{n}", f"u{n % 4}", -20.0, -10.0, 10, 10) for n in range(8)]
    tuned = [PairScore(f"p{n}", f"u{n % 4}", -20.0 + n - 2, -10.0, 10, 10) for n in range(8)]
    groups = {f"p{n}": {"level": "High" if n % 2 else "Low"} for n in range(8)}
    rows = {(row.metric, row.group): row for row in score_rows("tuned", "s", tuned, groups, base)}
    whole = rows["reward_accuracy", ""]
    assert (whole.value, whole.n, whole.users) == (5 / 8, 8, 4)
    assert whole.low is not None and whole.low < 5 / 8
    assert rows["reward_accuracy/tie", ""].value == 1 / 8
    assert rows["reward_accuracy", "High"].value == 3 / 4
    assert rows["reward_accuracy/per_token", "Low"].value == 2 / 4
    assert not any(name.startswith("reward") for name in pair_values(tuned))  # without a base
