"""Requests to stop by signals or a job's end, and how runs respond."""

import os
import signal
import time

import pytest

from mvp_align.runtime import preemption
from mvp_align.runtime.preemption import (
    Preempted,
    StopRequest,
    install_signal_handlers,
    raise_if_stop_requested,
)


@pytest.fixture(autouse=True)
def own_request(monkeypatch: pytest.MonkeyPatch):
    """Give each test a new stop request, and restore pytest's signal handlers."""
    before = {number: signal.getsignal(number) for number in preemption.SIGNALS}
    monkeypatch.setattr(preemption, "request", StopRequest())
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", preemption.SIGNALS)
def test_a_signal_is_heeded_at_the_next_check(number: signal.Signals) -> None:
    install_signal_handlers()
    raise_if_stop_requested()
    os.kill(os.getpid(), number)
    with pytest.raises(Preempted, match=number.name):
        raise_if_stop_requested()
    # A second Ctrl-C ends the process at once; Slurm sends its signals twice by itself.
    assert (signal.getsignal(number) is signal.SIG_DFL) == (number == signal.SIGINT)


def test_who_does_not_listen_is_not_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callbacks in other people's trainers."""
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1")
    raise_if_stop_requested()


@pytest.mark.parametrize(("left", "margin"), [(3600, 120), (1200, 120), (300, 30)])
def test_a_job_stops_before_its_time_is_up(
    monkeypatch: pytest.MonkeyPatch, left: int, margin: int
) -> None:
    now = 1_800_000_000
    clock = [float(now)]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(now + left))
    install_signal_handlers()
    clock[0] = now + left - margin - 1
    raise_if_stop_requested()
    clock[0] += 2
    with pytest.raises(Preempted, match="the job's time is nearly up"):
        raise_if_stop_requested()
