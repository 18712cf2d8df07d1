"""Bounds of `train.stop_on`: where a log first passes one, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvp_align.config import Config
from mvp_align.runtime.watching import StopOn
from mvp_align.training.bounds import passed_bounds
from mvp_align.validate import combination_problems

SHIFT = "eval_in_domain/opa/chosen_shift"
RATIO = "eval_neutral/damage/perplexity_ratio"


@given(
    measured=st.lists(
        st.tuples(
            st.sampled_from([SHIFT, RATIO, "loss", "eval_ufp4/opa/chosen_shift"]),
            st.floats(-3, 3),
        )
    ),
    shift=st.none() | st.floats(-3, 0),
    ratio=st.none() | st.floats(1, 3),
    action=st.sampled_from(["stop", "warn"]),
)
def test_the_first_entry_beyond_a_bound_is_found(
    measured: list[tuple[str, float]], shift: float | None, ratio: float | None, action: str
) -> None:
    history = [{"step": step, name: value} for step, (name, value) in enumerate(measured, 1)]
    expected = {}
    for step, (name, value) in enumerate(measured, 1):
        if name == SHIFT and shift is not None and value < shift:
            expected.setdefault("train.stop_on.chosen_shift", (step, value))
        if name == RATIO and ratio is not None and value > ratio:
            expected.setdefault("train.stop_on.perplexity", (step, value))
    found = passed_bounds(history, StopOn(shift, ratio, action))
    assert {one.setting: (one.step, one.value) for one in found} == expected
    assert all(one.stopped == (action == "stop") for one in found)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["train.stop_on.chosen_shift=-1"],
            "train.stop_on.chosen_shift: evaluations in training measure it, and this run has"
            " none: set evals.every_steps.",
        ),
        (
            ["train.stop_on={chosen_shift: 0.5, perplexity: 0.9}", "evals.every_steps=5"],
            "train.stop_on.chosen_shift=0.5: must be below 0, where training starts; it is in nats"
            " a token, as in -1.0.",
        ),
        (
            ["train.stop_on={chosen_shift: 0.5, perplexity: 0.9}", "evals.every_steps=5"],
            "train.stop_on.perplexity=0.9: must be above 1, where training starts; it is a multiple"
            " of the base model's, as in 1.2.",
        ),
        (
            ["train.stop_on.action=halt"],
            "train.stop_on.action=halt: must be one of stop, warn.",
        ),
    ],
)
def test_what_cannot_watch_a_run_is_refused(
    compose: Callable[..., Config], overrides: list[str], problem: str
) -> None:
    assert problem in combination_problems(compose(*overrides))


def test_bounds_that_are_measured_are_taken(compose: Callable[..., Config]) -> None:
    """As one mapping, as docs/options.md has it."""
    config = compose("train.stop_on={chosen_shift: -1.0, perplexity: 1.2}", "evals.every_steps=5")
    assert (config.train.stop_on.chosen_shift, config.train.stop_on.perplexity) == (-1.0, 1.2)
    assert not [one for one in combination_problems(config) if "stop_on" in one]
    nan: Any = compose("train.stop_on.perplexity=nan", "evals.every_steps=5")
    assert [one for one in combination_problems(nan) if "train.stop_on.perplexity=nan" in one]
