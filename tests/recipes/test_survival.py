"""Runs that are killed, stopped, resumed or out of disk: same final bytes, or a clear error."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from run_files import adapter_bytes, cut_off, logged, score_bytes
from stop_requests import AtCheck

from mvp_align.errors import UserError
from mvp_align.runs.checkpoints import latest_valid
from mvp_align.runtime import preemption
from mvp_align.runtime.preemption import EXIT_CODE, Preempted

ROOT = Path(__file__).parents[2]
Run = Callable[..., Path]


def test_a_killed_run_goes_on_to_the_same_bytes(
    finished: Path, settings: list[str], tmp_path: Path, run: Run
) -> None:
    """A real SIGKILL of a process of its own, between the checkpoint at step 2 and the end."""
    folder = tmp_path / "killed"
    slower = ["train.save_steps=2", f"run.dir={folder}"]
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *settings, *slower],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    state = folder / "checkpoints" / "checkpoint-2" / "trainer_state.json"
    until = time.monotonic() + 120
    while not state.is_file() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert state.is_file()
    assert not (folder / "DONE").exists()
    run(folder)
    assert adapter_bytes(folder) == adapter_bytes(finished)
    assert score_bytes(folder) == score_bytes(finished)
    assert (folder / "DONE").is_file()


@pytest.mark.parametrize("after", [4, 5])
def test_a_resume_ends_in_the_same_bytes_from_any_checkpoint(
    run: Run, finished: Path, tmp_path: Path, after: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Step 5 is the last one, and amid an epoch: a kill while the tuned model is scored."""
    folder = cut_off(finished, tmp_path / "cut", after)
    (folder / "checkpoints" / "checkpoint-9").mkdir()  # a save that was cut off
    base = (folder / "scores" / "base-in_domain.jsonl").stat().st_mtime_ns
    run(folder)
    assert f"Going on from {folder}/checkpoints/checkpoint-{after}" in capsys.readouterr().out
    assert adapter_bytes(folder) == adapter_bytes(finished)
    assert score_bytes(folder) == score_bytes(finished)
    # not scored again
    assert (folder / "scores" / "base-in_domain.jsonl").stat().st_mtime_ns == base


def test_a_resumed_run_keeps_the_passes_that_it_was_begun_with(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if it was begun where there was less memory."""
    auto = "train.micro_batch_size=auto"
    whole = run(tmp_path / "whole", auto)
    begun = json.loads((whole / "environment.json").read_text())
    assert begun["passes"] == {"micro": 4, "checkpointing": False}
    folder = cut_off(whole, tmp_path / "cut", 4)
    begun["passes"] = {"micro": 1, "checkpointing": True}
    (folder / "environment.json").write_text(json.dumps(begun))
    run(folder, auto)
    assert "1 a pass x 4 accumulated x 1 process, layers checkpointed" in capsys.readouterr().out
    assert json.loads((folder / "environment.json").read_text())["passes"] == begun["passes"]


def test_other_settings_do_not_go_on_with_a_run(run: Run, finished: Path, tmp_path: Path) -> None:
    folder = cut_off(finished, tmp_path / "cut", 4)
    with pytest.raises(UserError, match=r"train\.beta: 0\.1 there, 0\.3 now"):
        run(folder, "train.beta=0.3")
    assert not (folder / "adapter").exists()


def test_sft_and_a_reference_adapter_survive_a_resume(
    run: Run, finished: Path, tmp_path: Path
) -> None:
    reference = f"train.reference={finished / 'adapter'}"
    for name, overrides in (("sft", ["recipe=lora_sft"]), ("reference", [reference])):
        whole = run(
            tmp_path / name,
            *overrides,
            "evals=in_domain",
            "train.max_steps=4",
            "train.save_steps=3",
        )
        resumed = run(
            cut_off(whole, tmp_path / f"{name}-cut", 3),
            *overrides,
            "evals=in_domain",
            "train.max_steps=4",
            "train.save_steps=3",
        )
        assert adapter_bytes(resumed) == adapter_bytes(whole) != adapter_bytes(finished)
        assert score_bytes(resumed) == score_bytes(whole)
        assert [row["loss"] for row in logged(resumed) if "loss" in row] == [
            row["loss"] for row in logged(whole) if "loss" in row
        ]
        assert {path.name for path in (whole / "adapter").iterdir() if path.is_dir()} == set()
    sft = [row["loss"] for row in logged(tmp_path / "sft") if "loss" in row]
    assert sft[0] > 5  # nats a token of a random model, not ln 2
    other = [row["loss"] for row in logged(tmp_path / "reference") if "loss" in row]
    assert abs(other[0] - 0.693147) > 1e-4  # the reference is not the policy's base


def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on_with_more_room(
    run: Run, finished: Path, mount_disk: Callable[[str], Path]
) -> None:
    disk = mount_disk("6m")  # a checkpoint takes about 3.7 MB, most of it the tokenizer
    folder = disk / "run"
    with pytest.raises(
        UserError,
        match=r"No space left on the disk while writing .*checkpoints.* run the same command again",
    ):
        run(folder)
    whole = folder / "checkpoints" / "checkpoint-2"
    assert json.loads((whole / "trainer_state.json").read_text())["global_step"] == 2
    assert not (folder / "adapter").exists()
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    run(folder)
    assert adapter_bytes(folder) == adapter_bytes(finished)
    assert score_bytes(folder) == score_bytes(finished)


# Asked to stop

LOOKED_AT = [
    "evals.every_steps=2",
    "evals.every_pairs=4",
    "evals.batch_size=2",
    "train.disable_dropout=false",
    "lora.dropout=0.2",
    "run.logp_cache=false",
]


@pytest.fixture(scope="session")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """An undisturbed run with evaluations and dropout, and its number of checks for a stop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preemption, "request", never := AtCheck(-1))
        folder = run(tmp_path_factory.mktemp("runs") / "whole", *LOOKED_AT)
    return folder, never.count


def evaluations(folder: Path) -> list[dict[str, float]]:
    """Return the results of evaluations in training, without their durations."""
    found = [row for row in logged(folder) if any(key.startswith("eval_") for key in row)]
    return [
        {key: value for key, value in row.items() if "runtime" not in key and "second" not in key}
        for row in found
    ]


@pytest.mark.parametrize("share", [0.01, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.9, 1])
def test_a_run_asked_to_stop_ends_in_the_same_bytes(
    run: Run, whole: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """Wherever it is: scoring the base, the reference, a step, an evaluation on the way, scoring
    what came out."""
    expected, looks = whole
    folder = tmp_path / "stopped"
    monkeypatch.setattr(preemption, "request", AtCheck(max(1, round(share * looks))))
    with pytest.raises(Preempted):
        run(folder, *LOOKED_AT)
    assert not (folder / "DONE").exists()
    monkeypatch.setattr(preemption, "request", AtCheck(-1))
    run(folder, *LOOKED_AT)
    assert adapter_bytes(folder) == adapter_bytes(expected)
    assert score_bytes(folder) == score_bytes(expected)
    assert (folder / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
    found, wanted = evaluations(folder), evaluations(expected)
    # which the scores of the tuned model repeat in full
    last = [row for row in wanted if row["step"] == 5]
    assert found in (wanted, wanted[: -len(last)])
    assert not (folder / "logps").exists()


def test_a_signal_saves_and_ends_the_command_with_its_own_code(
    whole: tuple[Path, int], settings: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "stopped"
    looked_at = [word for word in LOOKED_AT if "every" not in word]
    command = [
        sys.executable,
        ROOT / "train.py",
        *settings,
        *looked_at,
        "train.max_steps=4000",
        "train.save_steps=5000",
        f"run.dir={folder}",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "training" in line:
            break
    process.send_signal(signal.SIGUSR1)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode == EXIT_CODE == 85
    assert "Stopped (SIGUSR1). What was done is kept: the same command again goes on." in errors
    assert "Traceback" not in errors
    assert latest_valid(folder / "checkpoints") is not None
