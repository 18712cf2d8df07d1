"""Asked to stop: by Slurm before a time limit or for a more urgent job (SIGTERM, SIGUSR1), by hand
(Ctrl-C).

The signal only sets a flag. Whatever takes long calls `check()` between two pieces of work; all
processes agree there, so that none saves while another computes, and `Preempted` travels up: the
trainer writes a checkpoint, scores are flushed, and the command ends with EXIT_CODE, by which a
batch script knows that running it again goes on.
"""

import os
import signal
import threading
import time
from types import FrameType

EXIT_CODE = 85
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
MARGIN_SECONDS = 120
"""A job that knows when it will be killed stops so long before, or in the last tenth of its time
where that is less."""


class Preempted(Exception):
    """All processes were asked to stop, and what was done so far is kept."""


class StopRequest:
    """Who asked for an end, and when one is due."""

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
        # the next Ctrl-C ends the process at once; Slurm sends its signals twice by itself
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)


request = StopRequest()


def install_signal_handlers() -> None:
    """Take SIGTERM, SIGUSR1 and Ctrl-C as a request to save and stop, and heed SLURM_JOB_END_TIME
    (Unix seconds)."""
    # Python handles signals there alone
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
    """Raise Preempted in all processes where any was asked to stop. All must call it equally
    often."""
    if request.listening and any_rank_requested_stop(bool(request)):
        raise Preempted(request.reason or "another process was asked to stop")


def any_rank_requested_stop(asked: bool) -> bool:
    import torch  # here: command lines are checked without it
    from accelerate import PartialState

    state = PartialState()
    if state.num_processes == 1:
        return asked
    flag = torch.tensor([asked], dtype=torch.int32, device=state.device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag.item())
