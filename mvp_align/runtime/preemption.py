"""Stop requests from Slurm or by Ctrl-C, and how all processes honour them.

Slurm sends SIGTERM or SIGUSR1 before a time limit or for a more urgent job. A signal only sets a
flag. Long work calls `raise_if_stop_requested()` between two pieces. All processes agree there, so
that none saves while another computes, and raise `Preempted`. On its way up, the trainer writes a
checkpoint and scores are flushed. The command exits with EXIT_CODE, which tells batch scripts that
running it again resumes the run.
"""

import os
import signal
import threading
import time
from types import FrameType

EXIT_CODE = 85
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
MARGIN_SECONDS = 120
"""A job stops this long before its known end, or in the last tenth of its time if shorter."""


class Preempted(Exception):
    """All processes were asked to stop, and the work done so far is saved."""


class StopRequest:
    """Who asked to stop, and when the job's time ends."""

    def __init__(self) -> None:
        self.listening = False
        self.reason = ""
        self.deadline = float("inf")

    def __bool__(self) -> bool:
        if not self.reason and time.time() > self.deadline:
            self.reason = "the job's time is nearly up"
        return bool(self.reason)

    def receive(self, number: int, frame: FrameType | None) -> None:
        self.reason = signal.Signals(number).name
        # the next Ctrl-C ends the process at once; Slurm sends its signals twice
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)


request = StopRequest()


def install_signal_handlers() -> None:
    """Treat SIGTERM, SIGUSR1 and Ctrl-C as requests to save and stop.

    Also honours SLURM_JOB_END_TIME (Unix seconds).
    """
    # Python handles signals only in the main thread
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        signal.signal(number, request.receive)
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    if end.isdigit():
        now = time.time()
        request.deadline = int(end) - min(MARGIN_SECONDS, (int(end) - now) / 10)
    request.listening = True


def raise_if_stop_requested() -> None:
    """Raise Preempted in all processes if any was asked to stop.

    All processes must call it the same number of times.
    """
    if request.listening and any_rank_requested_stop(bool(request)):
        raise Preempted(request.reason or "another process was asked to stop")


def any_rank_requested_stop(asked: bool) -> bool:
    import torch  # imported here, because command lines are checked without torch
    from accelerate import PartialState

    state = PartialState()
    if state.num_processes == 1:
        return asked
    flag = torch.tensor([asked], dtype=torch.int32, device=state.device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag.item())
