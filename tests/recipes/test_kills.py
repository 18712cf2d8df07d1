"""SIGKILL at twenty random moments in all phases of a run that has the personal recipe's levers.

The result equals that of an undisturbed run, byte for byte.
"""

import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
from run_files import adapter_bytes, score_bytes

from mvp_align.config import Config
from mvp_align.runs.checkpoints import WRITING, list_checkpoints

SLOW = [
    "train.max_steps=40",
    "train.save_steps=3",
    "evals.batch_size=1",
    "data.limit=40",
    "run.logp_cache=false",
]
PERSONAL = [
    "prompt=preference",
    "train.order=disagreeing",
    "train.batch_size=2",
    "train.objective=gr_dpo",
    "data.counterfactual=dimension",
    "train.best_by=opa/acc@0",
    "evals.every_steps=5",
    "evals.every_pairs=4",
]
DEADLINE_SECONDS = 120


@dataclass
class Phase:
    """How to recognise a phase by its files, and the delay range of the kill, in seconds."""

    name: str
    reached: Callable[[Path, float], bool]
    longest: float


def newer(path: Path, began: float) -> bool:
    return path.exists() and path.stat().st_mtime > began


def saved(run: Path, began: float) -> bool:
    return any(newer(folder, began) for _, folder in list_checkpoints(run / "checkpoints"))


PHASES = (
    Phase("scoring the base", lambda run, began: (run / "config.yaml").is_file(), 2),
    Phase(
        "computing the reference",
        lambda run, began: (run / "scores" / "base-ufp4-prompt_free.jsonl").is_file(),
        2,
    ),
    Phase("training", saved, 0.5),
    Phase("saving", lambda run, began: newer(run / "checkpoints" / WRITING, began), 0.1),
    Phase("scoring what came out", lambda run, began: (run / "adapter").is_dir(), 1.5),
)


def recipe(config: Config) -> None:
    import_module(f"recipes.{config.recipe}").main(config)


def start(config: Config) -> multiprocessing.process.BaseProcess:
    """Fork a process from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["recipes.lora_dpo", "run_files"])
    process = context.Process(target=recipe, args=(config,))
    process.start()
    return process


@pytest.mark.cluster
def test_killed_at_twenty_moments(
    compose: Callable[..., Config],
    settings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    undisturbed = compose(*settings, *SLOW, *PERSONAL, f"run.dir={tmp_path / 'undisturbed'}")
    process = start(undisturbed)
    process.join()
    assert process.exitcode == 0

    draw = random.Random(20)
    folder = tmp_path / "killed"
    config = compose(*settings, *SLOW, *PERSONAL, f"run.dir={folder}")
    found: dict[str, list[int]] = {}
    for phase in [phase for phase in PHASES for _ in range(4)]:
        began = time.time()
        process = start(config)
        while process.is_alive() and not phase.reached(folder, began):
            assert time.time() - began < DEADLINE_SECONDS, f"{phase.name} never came"
            time.sleep(0.0005)
        time.sleep(draw.uniform(0, phase.longest))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, (
            f"the run ended before it could be killed while {phase.name}"
        )
        newest = [step for step, _ in list_checkpoints(folder / "checkpoints")]
        found.setdefault(phase.name, []).append(max(newest, default=0))
    process = start(config)
    process.join()
    assert process.exitcode == 0
    print("the newest checkpoint after each kill:", found)
    # it was killed all along the way
    assert len({step for steps in found.values() for step in steps}) > 5
    assert (folder / "DONE").is_file()
    assert adapter_bytes(folder) == adapter_bytes(tmp_path / "undisturbed")
    assert score_bytes(folder) == score_bytes(tmp_path / "undisturbed")
    for name in ("metrics.jsonl", "curves.jsonl"):
        assert (folder / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
