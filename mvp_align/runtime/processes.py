"""Decisions that the main process makes for all processes of a run."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

T = TypeVar("T")


def broadcast_from_main(decide: Callable[[], T]) -> T:
    """Return (or raise) in every process what `decide` returns (or raises) in the main one.

    All processes must call this. They must not check for themselves whether a file exists, because
    a network file system may tell them different things, and one that goes on alone would wait for
    the others forever.
    """
    state = PartialState()
    if state.num_processes == 1:
        return decide()
    outcome: list[tuple[T | None, Exception | None] | None] = [None]
    if state.is_main_process:
        try:
            outcome = [(decide(), None)]
        except Exception as error:
            outcome = [(None, error)]
    broadcast_object_list(outcome)
    assert outcome[0] is not None
    found, problem = outcome[0]
    if problem is not None:
        raise problem
    return found  # type: ignore[return-value]
