"""The scripts of slurm/ on a real Slurm: runs, signals, preemption, arrays, nodes, sweeps."""

import json
import os
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
from one_host_slurm import ROOT, Job, Slurm

pytestmark = pytest.mark.cluster

QUEUED_AGAIN = "saved, and queued again to go on"


def digest(run: Path) -> str:
    return sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


def losses(run: Path) -> dict[int, float]:
    """Return the loss by step from the last checkpoint. Fails if a step was logged twice."""
    last = max(
        run.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2])
    )
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    logged = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    assert [step for step, _ in logged] == list(range(1, len(logged) + 1))
    return dict(logged)


def training(run: Path) -> bool:
    """Return whether there is a whole checkpoint, and steps are left."""
    return (
        any(run.glob("checkpoints/checkpoint-*/trainer_state.json"))
        and not (run / "adapter").exists()
    )


def same(run: Path, other: Path) -> None:
    """Check that it finished with bitwise the same losses, adapter and metrics."""
    assert (run / "DONE").exists()
    assert losses(run) == losses(other)
    assert digest(run) == digest(other)
    assert (run / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


def went_on(job: Job) -> bool:
    """Return whether the job's second start resumed from the first one's checkpoint."""
    first, _, second = job.text().partition(f"job {job.id}, start 2;")
    return (
        job.shown("Restarts") == "1"
        and f"job {job.id}, start 1;" in first
        and "Going on from" in second
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def undisturbed(slurm: Slurm, settings: list[str], kept: Path) -> Path:
    """An uninterrupted run of `sbatch slurm/train.sbatch`, once for all tests."""
    run = kept / "run"
    if not run.exists():
        slurm.submit("train.sbatch", *settings, f"run.dir={run}").completed()
    return run


def test_a_job_says_where_it_runs_and_trains_to_the_end(slurm: Slurm, undisturbed: Path) -> None:
    assert (undisturbed / "DONE").exists()
    assert len(losses(undisturbed)) == 16
    (log,) = [
        text
        for path in slurm.folder.glob("log-*")
        if f"{undisturbed}/report.html" in (text := path.read_text())
    ]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    where = "start 1; nodes: 127.0.0.1; on each 1 GPUs, 1 processes, 8 CPUs a process; commit"
    assert f"{where} {commit.stdout.strip() or 'unknown'}\n" in log


def test_a_finished_run_is_left_alone(slurm: Slurm, undisturbed: Path, settings: list[str]) -> None:
    before = digest(undisturbed)
    job = slurm.submit("train.sbatch", *settings, f"run.dir={undisturbed}").completed()
    assert "is DONE" in job.text()
    assert digest(undisturbed) == before


def test_a_mistake_ends_the_job_with_the_command_s_code_and_words(
    slurm: Slurm, settings: list[str]
) -> None:
    job = slurm.submit("train.sbatch", *settings, "train.betta=1").ended()
    assert (job.state, job.exit_code) == ("FAILED", 2)
    assert "train.betta=1: no setting 'train.betta'. Did you mean 'train.beta'?" in job.text()
    assert "Traceback" not in job.text()


def test_srun_by_hand_does_not_make_two_runs_in_one_folder(
    slurm: Slurm, settings: list[str], tmp_path: Path
) -> None:
    command = [
        "srun",
        "--ntasks=2",
        sys.executable,
        "train.py",
        *settings,
        f"run.dir={tmp_path / 'run'}",
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=slurm.environ, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "srun started 2 processes, and nothing told them of each other" in done.stderr
    assert not (tmp_path / "run").exists()


# Stopped and started again


def test_a_signal_saves_and_the_job_starts_again_to_the_same_bytes(
    slurm: Slurm, settings: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = slurm.submit(
        "train.sbatch", *settings, "tracking=wandb", "tracking.mode=offline", f"run.dir={run}"
    )
    job.wait("checkpoint", lambda: training(run))
    slurm("scancel", "--signal=USR1", job.id)
    job.queued_again()
    assert QUEUED_AGAIN in job.text()
    assert len(losses(run)) < 16
    job.start_now().completed()
    assert went_on(job)
    same(run, undisturbed)
    parts = [path.name for path in (run / "wandb").glob("offline-run-*")]
    assert len(parts) == 2  # of one run
    assert {name.rpartition("-")[2] for name in parts} == {
        (run / "wandb_id.txt").read_text().strip()
    }


def test_slurm_signals_a_job_before_its_time_limit(
    slurm: Slurm, settings: list[str], tmp_path: Path
) -> None:
    """The limit comes nearer while the job runs, so that it cannot know of it but by the signal."""
    run = tmp_path / "run"
    job = slurm.submit(
        "train.sbatch", *settings, "train.max_steps=2000", f"run.dir={run}", options=("--time=60",)
    )
    job.wait("checkpoint", lambda: training(run))
    slurm("scontrol", "update", f"jobid={job.id}", "TimeLimit=2")
    job.queued_again()
    slurm("scancel", job.id)
    assert "Stopped (SIGUSR1)" in job.text()
    assert QUEUED_AGAIN in job.text()


def test_a_job_that_no_signal_reaches_saves_before_its_end(
    slurm: Slurm, settings: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ("--time=1", "--signal=URG@1")  # SIGURG is ignored
    job = slurm.submit(
        "train.sbatch", *settings, "train.max_steps=2000", f"run.dir={run}", options=options
    )
    job.queued_again()
    slurm("scancel", job.id)
    assert "Stopped (the job's time is nearly up)" in job.text()
    assert QUEUED_AGAIN in job.text()
    assert training(run)


@pytest.mark.parametrize(
    ("partition", "script", "queues"),
    [
        ("main", "multinode.sbatch", "unless Slurm itself queues it again"),
        ("patient", "train.sbatch", QUEUED_AGAIN),
    ],
)
def test_a_job_preempted_by_slurm_goes_on_afterwards(
    slurm: Slurm,
    settings: list[str],
    undisturbed: Path,
    tmp_path: Path,
    partition: str,
    script: str,
    queues: str,
) -> None:
    """By a job of a more urgent partition: without grace Slurm ends and requeues the job, with
    grace the job does it."""
    run = tmp_path / "run"
    options = (f"--partition={partition}", "--gpus-per-node=1")
    job = slurm.submit(script, *settings, f"run.dir={run}", options=options)
    job.wait("checkpoint", lambda: training(run))
    words = (
        "--parsable",
        "--partition=urgent",
        "--nodes=2",
        "--exclusive",
        "--output=/dev/null",
        "--wrap=true",
    )
    urgent = slurm.job(slurm("sbatch", *words).strip())
    job.queued_again()
    assert "Stopped (SIGTERM)" in job.text()
    assert queues in job.text()
    urgent.completed()
    job.start_now().completed()
    assert went_on(job)
    assert (run / "DONE").exists()
    # two processes round other sums
    assert losses(run) == pytest.approx(losses(undisturbed), rel=1e-4)


def test_a_cancelled_job_stays_cancelled_and_the_same_command_goes_on(
    slurm: Slurm, settings: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = slurm.submit("train.sbatch", *settings, f"run.dir={run}")
    job.wait("checkpoint", lambda: training(run))
    slurm("scancel", job.id)
    assert job.ended().state == "CANCELLED"
    assert "submit the same command to go on" in job.text()
    again = slurm.submit("train.sbatch", *settings, f"run.dir={run}").completed()
    assert "Going on from" in again.text()
    same(run, undisturbed)
    assert job.state == "CANCELLED"


def test_an_evaluation_goes_on_in_the_middle_to_the_same_metrics(
    slurm: Slurm, settings: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    words = [word for word in settings if not word.startswith(("train.", "evals", "data.limit"))]
    words += [
        f"adapter={undisturbed / 'adapter'}",
        "evals=in_domain",
        "data.limit=60",
        "evals.batch_size=1",
    ]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    slurm.submit("evaluate.sbatch", *words, f"run.dir={whole}").completed()
    job = slurm.submit("evaluate.sbatch", *words, f"run.dir={cut}")
    job.wait("scores of the base model", lambda: (cut / "scores" / "base-in_domain.jsonl").exists())
    slurm("scancel", job.id)
    assert job.ended().state == "CANCELLED"
    assert not (cut / "DONE").exists()
    slurm.submit("evaluate.sbatch", *words, f"run.dir={cut}").completed()
    assert (cut / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert {
        row["stage"] for row in map(json.loads, (cut / "metrics.jsonl").read_text().splitlines())
    } == {
        "base",
        "tuned",
    }


# Several processes, several runs


def rank_of(process: Path, job: Job) -> str | None:
    """Return RANK from the environment of a Python process of the job."""
    try:
        if not (process / "exe").readlink().name.startswith("python"):
            return None
        entries = dict(
            entry.split("=", 1)
            for entry in (process / "environ").read_text().split("\0")
            if "=" in entry
        )
    except OSError:  # gone
        return None
    return entries.get("RANK") if entries.get("SLURM_JOB_ID") == job.id else None


def test_a_process_that_dies_ends_the_job_at_once_and_two_train_to_the_losses_of_one(
    slurm: Slurm, settings: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    two = ("--gpus-per-node=0", "--export=ALL,MVP_ALIGN_PROCESSES=2")
    job = slurm.submit("train.sbatch", *settings, f"run.dir={run}", options=two)
    job.wait("checkpoint", lambda: training(run))
    (victim,) = [path for path in Path("/proc").glob("[0-9]*") if rank_of(path, job) == "1"]
    os.kill(int(victim.name), signal.SIGKILL)
    killed = time.monotonic()
    assert job.ended().state == "FAILED"
    assert time.monotonic() - killed < 20
    assert "Process 1 on 127.0.0.1 ended with code 137, so the whole step ends." in job.text()
    again = slurm.submit("train.sbatch", *settings, f"run.dir={run}", options=two).completed()
    assert "on each 0 GPUs, 2 processes, 4 CPUs a process" in again.text()
    assert "Going on from" in again.text()
    assert losses(run) == pytest.approx(losses(undisturbed), rel=1e-4)


def test_an_array_makes_a_run_of_each_seed(
    slurm: Slurm, settings: list[str], tmp_path: Path
) -> None:
    words = (*settings, "train.max_steps=2", f"run.dir={tmp_path}/seed-${{seed}}")
    array = slurm.submit(
        "seeds.sbatch", *words, options=("--array=7-8", f"--output={slurm.folder}/log-%A_%a")
    )
    for seed in (7, 8):
        slurm.job(f"{array.id}_{seed}").completed()
    assert {path.name for path in tmp_path.iterdir()} == {"seed-7", "seed-8"}
    assert digest(tmp_path / "seed-7") != digest(tmp_path / "seed-8")


def test_a_sweep_of_submitit_s_makes_a_job_of_each_seed_and_survives_a_signal(
    slurm: Slurm, settings: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    sweep = [
        "-m",
        "seed=12,13",
        "hydra/launcher=slurm",
        "hydra.launcher.timeout_min=10",
        f"hydra.sweep.dir={tmp_path}/sweep",
    ]
    runs = {seed: tmp_path / f"seed-{seed}" for seed in (12, 13)}
    command = [sys.executable, "train.py", *sweep, *settings, f"run.dir={tmp_path}/seed-${{seed}}"]
    with (tmp_path / "sweep.out").open("w") as output:
        sweeping = subprocess.Popen(
            command, cwd=ROOT, env=slurm.environ, stdout=output, stderr=output
        )
    try:
        first = signalled(slurm, sweeping, runs[12])
        first.queued_again().start_now()
        assert sweeping.wait(timeout=240) == 0, (tmp_path / "sweep.out").read_text()[-4000:]
    finally:
        sweeping.kill()
    assert first.shown("Restarts") == "1"
    same(runs[12], undisturbed)
    assert (runs[13] / "DONE").exists()


def signalled(slurm: Slurm, sweeping: subprocess.Popen[bytes], run: Path) -> Job:
    """Send SIGUSR1 to the sweep's first job once it trains, as Slurm does before a time limit."""
    end = time.monotonic() + 120
    while not training(run):
        assert time.monotonic() < end
        assert sweeping.poll() is None
        time.sleep(0.2)
    numbers = slurm("squeue", "-h", "-r", "-n", "mvp-align", "-o", "%F_%K").split()
    job = slurm.job(min(numbers))
    slurm("scancel", "--signal=USR1", job.id)
    return job
