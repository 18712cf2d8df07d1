"""Two processes (gloo, CPU) against one: the same scores and losses, each pair once, one writer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STEPS = 3


def launch(processes: int, overrides: list[str]) -> str:
    start = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
    ]
    command = [*start, "--num_processes", str(processes), "--main_process_port", "0", "train.py", *overrides]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def scores(run: Path, name: str) -> dict[str, tuple[float, float]]:
    lines = (run / "scores" / f"{name}.jsonl").read_text().splitlines()
    found = {entry["id"]: (entry["chosen_logp"], entry["rejected_logp"]) for entry in map(json.loads, lines)}
    assert len(found) == len(lines)
    return found


@pytest.mark.slow
def test_two_processes_find_what_one_finds(sharp: list[str], tmp_path: Path) -> None:
    runs = {}
    for processes in (1, 2):
        runs[processes] = tmp_path / f"{processes}"
        overrides = [f"run.dir={runs[processes]}", "train.batch_size=4", f"train.max_steps={STEPS}", "evals=in_domain"]
        launch(processes, [*sharp, *overrides, "train.micro_batch_size=1"])
    for stage in ("base", "tuned"):
        one, two = (scores(runs[n], f"{stage}-in_domain") for n in (1, 2))
        assert one.keys() == two.keys()
        for name in one:
            assert two[name] == pytest.approx(one[name], abs=1e-3, rel=1e-5)
    one, two = (history(runs[n]) for n in (1, 2))
    assert len(one) == len(two) == STEPS
    assert two == pytest.approx(one, rel=1e-5)
    assert len({path.name for path in runs[2].iterdir()}) == len({path.name for path in runs[1].iterdir()})


def history(run: Path) -> list[float]:
    (state,) = run.glob("checkpoints/checkpoint-*/trainer_state.json")
    return [entry["loss"] for entry in json.loads(state.read_text())["log_history"] if "loss" in entry]


@pytest.mark.slow
def test_a_model_sharded_by_fsdp_takes_the_same_step() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(Path(__file__).with_name("sharded_step.py"))],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same") == 2
