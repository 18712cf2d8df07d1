"""Which evaluation counts as the best, and which settings cannot choose one."""

from collections.abc import Callable

import pytest

from mvp_align.config import Config
from mvp_align.training.best_checkpoint import (
    BestCheckpoint,
    best_evaluation,
    best_problems,
    log_name,
    metrics_to_choose_by,
)

Compose = Callable[..., Config]


def history(metric: str, values: list[float]) -> list[dict[str, float]]:
    key = f"eval_{log_name(metric)}"
    rows = [{"step": 10 * (place + 1), key: value} for place, value in enumerate(values)]
    return [
        row for pair in zip(rows, rows, strict=True) for row in ({"step": 1, "loss": 2.0}, *pair)
    ]


@pytest.mark.parametrize(
    ("metric", "values", "step"),
    [
        ("opa/acc@0", [0.5, 0.7, 0.6], 20),
        ("opa/acc@0", [0.7, 0.7, 0.6], 10),  # the earliest
        ("opa/worst_group", [0.1, 0.2, 0.3], 30),
        ("opa/worst_group_gap", [0.5, 0.2, 0.2], 20),  # less is better
        ("opa/margin", [-0.5, -0.7, -0.6], 10),
        ("paa/semantic", [0.0, 0.25, 0.0], 20),
        ("spmr@0.8", [0.0, 0.0, 0.5], 30),
    ],
)
def test_the_best_evaluation(metric: str, values: list[float], step: int) -> None:
    assert best_evaluation(history(metric, values), metric) == (step, values[step // 10 - 1], 3)


def test_no_evaluation_is_none() -> None:
    assert best_evaluation([{"step": 3, "loss": 0.6}], "opa/acc@0") is None


def test_what_a_run_can_choose_by(compose: Compose) -> None:
    plain = metrics_to_choose_by(compose())
    assert {"opa/acc@0", "opa/mean", "opa/margin", "reward_accuracy", "opa/worst_group"} <= {*plain}
    assert not {"opa/chosen_shift", "reward_accuracy/tie", "paa/semantic", "spmr@0.8"} & {*plain}
    answered = metrics_to_choose_by(compose("evals.metrics=[opa,spmr,paa]", "evals.worst_by=null"))
    assert {*answered} - {*plain} == {"paa/semantic", "spmr@0.8", "spmr_authors@0.8"}
    assert "opa/worst_group" not in answered


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.best_by=opa/acc@0"], ["set evals.every_steps"]),
        (
            ["train.best_by=acc", "evals.every_steps=5"],
            ["can be compared by opa/acc@0, opa/acc@0.2"],
        ),
        (["train.best_by=opa/chosen_shift", "evals.every_steps=5"], ["can be compared by"]),
        (["train.best_by=paa/semantic", "evals.every_steps=5"], ["evals.metrics to have paa"]),
        (
            ["train.best_by=opa/worst_group", "evals.every_steps=5", "evals.worst_by=null"],
            ["needs evals.worst_by"],
        ),
        (
            ["train.best_by=opa/acc@0", "evals.every_steps=5", "hardware.sharding=fsdp"],
            ["hardware.sharding=fsdp"],
        ),
        (["train.best_by=opa/acc@0", "evals.every_steps=5"], []),
    ],
)
def test_settings_that_cannot_choose(
    compose: Compose, overrides: list[str], words: list[str]
) -> None:
    problems = best_problems(compose(*overrides))
    assert len(problems) == len(words)
    for problem, word in zip(problems, words, strict=True):
        assert word in problem


@pytest.mark.parametrize(
    ("metric", "value", "base", "said"),
    [
        ("opa/worst_group", 0.5, 0.25, "50.0 % on 64 validation pairs of 31 people (base model 25"),
        ("opa/worst_group", 0.25, 0.25, "none of them was better than the base model"),
        ("opa/worst_group_gap", 0.2, 0.5, "(base model 50.0 %)"),
        ("opa/worst_group_gap", 0.6, 0.5, "none of them was better than the base model"),
        ("opa/margin", 0.125, None, "0.125 on 64 validation pairs of 31 people"),
    ],
)
def test_what_is_said_of_it(metric: str, value: float, base: float | None, said: str) -> None:
    best = BestCheckpoint(metric, 20, value, 7, 70, base, 64, 31)
    assert said in best.sentence()
    assert "step 20 of 70, the best of 7 evaluations" in best.sentence()
    assert ("none of them" in best.sentence()) == ("none of them" in said)
