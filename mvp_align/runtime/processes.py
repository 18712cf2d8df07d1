"""What the processes of a run do together: decide as the main one does, and part at the end.

accelerate is imported where it is used, because command lines are checked without torch.
"""

import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def broadcast_from_main(decide: Callable[[], T]) -> T:
    """Return (or raise) in every process what `decide` returns (or raises) in the main one.

    All processes must call this. They must not check for themselves whether a file exists, because
    a network file system may tell them different things, and one that goes on alone would wait for
    the others forever.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

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


def leave_group() -> None:
    """Leave the process group, if there is one, at an end that all processes share.

    Threads of a group that still exists when Python exits may abort the process. Then its exit code
    calls a finished run failed, and keeps a stopped one from being queued again.
    """
    if "torch" not in sys.modules:
        return
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
