"""A real Slurm with two nodes on this machine's loopback, to submit the repository's scripts to."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = (
    "slurmctld",
    "slurmd",
    "munged",
    "sbatch",
    "srun",
    "scontrol",
    "squeue",
    "scancel",
    "setpriv",
)
MINUTES = 10  # of a job whose test died before it could cancel it

# Two nodes that claim more CPUs, memory and GPUs than there are, so that the scripts' own requests
# fit. Nodes bear the addresses that they have, because torch looks up the first one's name.
CONF = """
ClusterName=mvp
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=3,sched_min_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
MinJobAge=3600
MailProg=/bin/true
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=127.0.0.[1-2] NodeAddr=127.0.0.[1-2] Port=[{ports[1]}-{ports[2]}] \\
    CPUs=64 RealMemory=500000 Gres=gpu:8
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=0
PartitionName=patient Nodes=ALL MaxTime=INFINITE PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=2 PreemptMode=OFF
"""


@dataclass(frozen=True)
class Job:
    slurm: Slurm
    id: str
    log: Path

    @property
    def state(self) -> str:
        return self.shown("JobState")

    @property
    def exit_code(self) -> int:
        """Return the exit code of the job's last start, by Slurm's records."""
        return int(self.shown("ExitCode").partition(":")[0])

    def shown(self, key: str) -> str:
        found = re.search(rf"\b{key}=(\S+)", self.slurm("scontrol", "show", "job", "-o", self.id))
        assert found
        return found[1]

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""

    def wait(self, what: str, happened: Callable[[], object], seconds: float = 120) -> None:
        """Wait for a condition, or fail with the end of the job's log."""
        end = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > end or self.state in {
                "FAILED",
                "TIMEOUT",
                "NODE_FAIL",
                "CANCELLED",
            }:
                pytest.fail(f"job {self.id} is {self.state}: no {what}\n{self.text()[-4000:]}")
            time.sleep(0.2)

    def ended(self, seconds: float = 180) -> Job:
        """Wait for the job to end, and return it. The caller checks its result."""
        end = time.monotonic() + seconds
        while self.state not in {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}:
            assert time.monotonic() < end, f"job {self.id} is {self.state}\n{self.text()[-4000:]}"
            time.sleep(0.2)
        return self

    def completed(self, seconds: float = 180) -> Job:
        assert self.ended(seconds).state == "COMPLETED", self.text()[-4000:]
        return self

    def queued_again(self) -> Job:
        self.wait(
            "second place in the queue",
            lambda: (self.state, self.shown("Reason")) == ("PENDING", "BeginTime"),
            60,
        )
        return self

    def start_now(self) -> Job:
        """Start a requeued job now, instead of after Slurm's two minutes.

        A node refuses a job in the second that it was killed, hence the sleep.
        """
        time.sleep(2)
        self.slurm("scontrol", "update", f"jobid={self.id}", "StartTime=now")
        return self


@dataclass(frozen=True)
class Slurm:
    """`slurm("squeue", ...)` runs a Slurm command and returns its output."""

    folder: Path
    environ: dict[str, str]

    def __call__(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=self.environ, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def submit(self, script: str, *words: str, options: tuple[str, ...] = ()) -> Job:
        """Submit the unchanged script from the repository's root, with another path for its log."""
        fixed = ("--parsable", f"--output={self.folder}/log-%j", f"--time={MINUTES}")
        number = self("sbatch", *fixed, *options, f"slurm/{script}", *words).strip()
        return self.job(number)

    def job(self, number: str) -> Job:
        return Job(self, number, self.folder / f"log-{number}")


@contextmanager
def one_host_slurm(folder: Path) -> Iterator[Slurm]:
    """Run the daemons. At the end, cancel their jobs and stop them."""
    (folder / "state").mkdir()
    ports = free_ports()
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, ports=ports))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    (folder / "gres.conf").write_text(f"NodeName=127.0.0.[1-2] Name=gpu File={folder}/gpu[0-7]\n")
    for number in range(8):  # a GPU is a file that exists
        (folder / f"gpu{number}").touch()
    (folder / "munge.key").touch(0o600)
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "SBATCH_", "MVP_ALIGN_"))
    }
    environ |= {
        "SLURM_CONF": f"{folder}/slurm.conf",
        "MVP_ALIGN_VENV": sys.prefix,
        "OMP_NUM_THREADS": "1",
    }
    environ["PATH"] = f"{environ['PATH']}:/usr/sbin:/sbin"
    slurm = Slurm(folder, environ)
    munge_files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    daemons = {
        "munge": [
            "munged",
            "--foreground",
            "--force",
            f"--socket={folder}/munge.socket",
            *munge_files,
        ],
        "slurmctld": ["slurmctld", "-D"],
        "slurmd-1": ["slurmd", "-D", "-N", "127.0.0.1"],
        "slurmd-2": ["slurmd", "-D", "-N", "127.0.0.2"],
    }
    processes = []
    try:
        for name, command in daemons.items():
            processes.append(started(command, folder / f"{name}.out", environ))
            if name == "munge":
                wait_for((folder / "munge.socket").exists, folder)
        wait_for(lambda: idle_nodes(environ) == 2, folder)
        yield slurm
        slurm("scancel", "--user=root")
        wait_for(lambda: not slurm("squeue", "-h"), folder)  # at most KillWait and a little
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=30)


def started(command: list[str], log: Path, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a daemon that dies with this process, even if this one is killed."""
    with log.open("wb") as output:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig=TERM", *command], env=environ, stdout=output, stderr=output
        )


def wait_for(happened: Callable[[], object], folder: Path) -> None:
    end = time.monotonic() + 60
    while not happened():
        if time.monotonic() > end:
            logs = "\n".join(
                f"{path.name}\n{path.read_text()[-2000:]}" for path in folder.glob("*.out")
            )
            pytest.fail(f"Slurm did not start, or did not end its jobs\n{logs}")
        time.sleep(0.2)


def idle_nodes(environ: dict[str, str]) -> int:
    nodes = subprocess.run(
        ["sinfo", "-h", "-N", "-p", "main", "-o", "%T"], env=environ, capture_output=True, text=True
    )
    return nodes.stdout.split().count("idle")


def free_ports() -> list[int]:
    """Return three free ports, the last two consecutive."""
    while True:
        first = 40000 + secrets.randbelow(20000)
        ports = [first, first + 1, first + 2]
        try:
            for port in ports:
                with closing(socket.socket()) as probe:
                    probe.bind(("", port))
        except OSError:
            continue
        return ports
