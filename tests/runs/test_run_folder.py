"""Run folders: started, resumed, refused, finished; whole files or none on a full disk."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from mvp_align import __version__
from mvp_align.config import (
    Config,
    Data,
    Evals,
    Hardware,
    Lora,
    Model,
    Prompt,
    Run,
    Tracking,
    Train,
)
from mvp_align.errors import AlreadyDone, UserError
from mvp_align.metrics.rows import Row, read_rows, write_rows
from mvp_align.runs.lock import release
from mvp_align.runs.pair_files import read_scores
from mvp_align.runs.run_folder import RunFolder, open_run
from mvp_align.runs.stored_config import read_config
from mvp_align.runtime.atomic import full_disk_explained, write_text
from mvp_align.schema import PairScore

SCORE = PairScore(
    "p1", "user\u20281", chosen_logp=-10.1, rejected_logp=-1 / 3, chosen_tokens=7, rejected_tokens=3
)


def config(**changes: object) -> Config:
    values: dict[str, object] = {
        "recipe": "lora_dpo",
        "model": Model("tiny", "somewhere/tiny"),
        "data": Data(name="sample"),
        "prompt": Prompt("paper", "{question}"),
    }
    return Config(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mounted], capture_output=True
    ).returncode:
        pytest.skip("mounting a small file system needs root")
    yield mounted
    subprocess.run(["umount", mounted], check=True)


def test_new_run_writes_resolved_config(tmp_path: Path) -> None:
    folder = open_run(tmp_path / "outputs" / "a", config(seed=7))
    written = yaml.safe_load(folder.config_yaml.read_text())
    assert not folder.resumed
    assert written["run"]["name"] == "lora_dpo-tiny-sample-paper-7"
    assert written["train"]["beta"] == 0.1
    assert read_config(folder.path).train.learning_rate == 5e-5


def test_same_settings_resume_whatever_changes_no_number(tmp_path: Path) -> None:
    open_run(tmp_path, config())
    changed = config(
        run=Run(name="other", dir="elsewhere"),
        tracking=Tracking(backend="none", tags=["x"]),
        train=Train(dry_run=True),
        evals=Evals(batch_size=32),
    )
    assert open_run(tmp_path, changed).resumed


def test_other_settings_are_refused_and_all_listed(tmp_path: Path) -> None:
    folder = open_run(tmp_path, config())
    before = folder.config_yaml.read_bytes()
    with pytest.raises(UserError) as caught:
        open_run(
            tmp_path, config(train=Train(beta=0.3), lora=Lora(target_modules=["q_proj"]), seed=13)
        )
    message = str(caught.value)
    assert "train.beta: 0.1 there, 0.3 now" in message
    assert "lora.target_modules: ['q_proj', 'k_proj', 'v_proj'] there, ['q_proj'] now" in message
    assert "seed: 12 there, 13 now" in message
    assert "train.learning_rate" not in message
    assert "change run.name" in message
    assert folder.config_yaml.read_bytes() == before


def test_settings_that_an_adapter_brings_are_no_change_to_a_run_of_before_they_were_settings(
    tmp_path: Path,
) -> None:
    begun = config(adapter="theirs", lora=Lora(use_rslora=True, alpha_pattern={"q_proj": 8}))
    folder = open_run(tmp_path, begun)
    stored = yaml.safe_load(folder.config_yaml.read_text())
    for name in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "init"):
        del stored["lora"][name]
    folder.config_yaml.write_text(yaml.safe_dump(stored))
    assert open_run(tmp_path, begun).resumed
    with pytest.raises(UserError, match=r"lora\.r: 16 there, 4 now"):
        open_run(tmp_path, replace(begun, lora=Lora(r=4)))


def test_a_done_run_says_so_to_the_same_command_alone(tmp_path: Path) -> None:
    folder = open_run(tmp_path, config())
    folder.finish()
    assert not (tmp_path / "LOCK").exists()
    time, name, version = folder.done.read_text().split()
    assert datetime.fromisoformat(time).tzinfo is not None
    assert (name, version) == ("mvp_align", __version__)
    with pytest.raises(
        AlreadyDone,
        match=r"is DONE\. To run it again: run\.on_exists=overwrite, or another run\.name",
    ) as caught:
        open_run(
            tmp_path,
            config(
                tracking=Tracking(backend="none"),
                hardware=Hardware(loader_workers=3),
                run=Run(name="free to change"),
            ),
        )
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(UserError) as refused:
        open_run(tmp_path, config(seed=99, adapter="a", train=Train(learning_rate=1e-3)))
    assert str(refused.value).splitlines() == [
        (
            f"{tmp_path} holds a finished run with other settings. Change run.name to start"
            " another, or delete this one by run.on_exists=overwrite:"
        ),
        "  - adapter: None there, a now",
        "  - seed: 12 there, 99 now",
        "  - train.learning_rate: 5e-05 there, 0.001 now",
    ]


def test_a_done_run_points_to_the_command_for_another_judge(tmp_path: Path) -> None:
    open_run(tmp_path, config(evals=Evals(metrics=["opa", "paa"]))).finish()
    asked = config(evals=Evals(metrics=["opa", "paa"], judge="gpt4o"), run=Run(dir=str(tmp_path)))
    with pytest.raises(
        AlreadyDone, match=rf"evals.judge was semantic: `mvp-align judge {tmp_path} --judge gpt4o`"
    ):
        open_run(tmp_path, asked)


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("changed", ["data.train", "evals.ufp4", "adapter", "model.id"])
def test_content_that_changed_under_the_same_name_is_another_run(
    tmp_path: Path, changed: str, done: bool
) -> None:
    files = {
        "data.train": tmp_path / "pairs.jsonl",
        "evals.ufp4": tmp_path / "ufp4" / "honesty.json",
        "adapter": tmp_path / "adapter" / "adapter_model.safetensors",
        "model.id": tmp_path / "model" / "model.safetensors",
    }
    for path in files.values():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\0" * (2**26 + 9) if path == files["model.id"] else b"before")
    same = config(
        data=Data(name="mine", train=str(files["data.train"])),
        evals=Evals(ufp4=str(files["evals.ufp4"].parent)),
        adapter=str(files["adapter"].parent),
        model=Model("m", str(files["model.id"].parent)),
    )
    run = open_run(tmp_path / "run", same)
    if done:
        run.finish()
    os.utime(files[changed])  # read, copied, written again as it was
    with pytest.raises(AlreadyDone) if done else nullcontext():
        open_run(tmp_path / "run", same)
    with files[changed].open("r+b") as file:
        file.write(b"after!")
    with pytest.raises(UserError) as refused:
        open_run(tmp_path / "run", same)
    assert str(refused.value).splitlines()[1:] == [
        f"  - {changed}: its content has changed since then"
    ]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("file", "is a file"),
        ("file/below", "cannot be made"),
        ("full", "holds files but no config.yaml"),
    ],
)
def test_unusable_place_is_a_clear_error(tmp_path: Path, place: str, says: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=says) as caught:
        open_run(tmp_path / place, config())
    assert str(tmp_path / place) in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "full" / "config.yaml").exists()


@pytest.mark.parametrize("resumed", [False, True])
def test_read_only_file_system_is_a_clear_error(small_disk: Path, resumed: bool) -> None:
    if resumed:
        open_run(small_disk / "run", config())
        release(small_disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(UserError, match=r"cannot be (made|written)"):
        open_run(small_disk / "run", config())


@pytest.mark.parametrize("broken", ["train: [1", "just words", "train: ${nothing}"])
def test_broken_config_of_an_unfinished_run(tmp_path: Path, broken: str) -> None:
    folder = open_run(tmp_path, config())
    folder.config_yaml.write_text(broken)
    with pytest.raises(UserError, match=r"config\.yaml|other settings"):
        open_run(tmp_path, config())
    with pytest.raises(UserError, match=r"config\.yaml"):
        read_config(tmp_path)


def test_leftovers_of_a_kill_while_starting_do_not_block(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml.77.tmp").write_text("recipe: lo")
    assert not open_run(tmp_path, config()).resumed


def test_an_existing_run_may_be_refused_or_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_run(tmp_path, config()).finish()
    (tmp_path / "metrics.jsonl").write_text("old")
    with pytest.raises(UserError, match=r"run\.on_exists=fail, and .* holds a run"):
        open_run(tmp_path, config(run=Run(on_exists="fail")))
    assert (tmp_path / "metrics.jsonl").read_text() == "old"
    begun = open_run(tmp_path, config(seed=13, run=Run(on_exists="overwrite")))
    assert not begun.resumed
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "environment.json", "LOCK"}
    assert read_config(tmp_path).seed == 13
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # the same command in a requeued job
    for on_exists in ("overwrite", "fail"):
        assert open_run(tmp_path, config(seed=13, run=Run(on_exists=on_exists))).resumed


def test_only_a_run_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"holds files but no config\.yaml"):
        open_run(tmp_path, config(run=Run(on_exists="overwrite")))
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_scores_come_back_to_the_last_bit(tmp_path: Path) -> None:
    folder = open_run(tmp_path, config())
    assert folder.read_scores("tuned", "ufp4/honesty") is None
    folder.write_scores("tuned", "ufp4/honesty", [SCORE])
    path = tmp_path / "scores" / "tuned-ufp4-honesty.jsonl"
    line = json.loads(path.read_text())
    assert list(line) == [
        "id", "user_id", "chosen_logp", "rejected_logp", "chosen_tokens", "rejected_tokens",
        "margin",
    ]  # fmt: skip
    assert line["margin"] == pytest.approx(-10.1 / 7 + 1 / 9)
    assert folder.read_scores("tuned", "ufp4/honesty") == [SCORE]


def test_damaged_scores_name_the_line(tmp_path: Path) -> None:
    folder = open_run(tmp_path, config())
    folder.write_scores("base", "in_domain", [SCORE, SCORE])
    path = folder.scores("base", "in_domain")
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match=r"base-in_domain\.jsonl, line 2"):
        read_scores(path)


def test_rows_come_back_and_damage_names_the_line(tmp_path: Path) -> None:
    rows = [
        Row("base", "in_domain", "opa/acc@0", "birth_country", "a\u2028b", 0.5, None, None, 4, 2)
    ]
    path = tmp_path / "metrics.jsonl"
    write_rows(path, rows)
    assert read_rows(path) == rows
    path.write_text(path.read_text() + '{"stage": "base"}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: no row of"):
        read_rows(path)
    with pytest.raises(UserError, match="no such file"):
        read_rows(tmp_path / "other.jsonl")


def test_processes_that_do_not_write_leave_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", resumed=False, writes=False)
    folder.write_scores("base", "in_domain", [SCORE])
    folder.write_json(folder.notes, {})
    folder.finish()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_keeps_the_old_file_and_no_temporary_one(small_disk: Path) -> None:
    path = small_disk / "metrics.jsonl"
    write_text(path, "old\n")
    with pytest.raises(UserError) as caught:
        write_text(path, "x" * 200_000)
    assert str(path) in str(caught.value)
    assert "free some space" in str(caught.value)
    assert "last checkpoint is whole" in str(caught.value)
    assert [entry.name for entry in small_disk.iterdir()] == ["metrics.jsonl"]
    assert path.read_text() == "old\n"


def test_run_on_a_full_disk_does_not_begin(small_disk: Path) -> None:
    with suppress(OSError):
        (small_disk / "filler").write_bytes(b"x" * 100_000)
    with pytest.raises(UserError, match="No space left"):
        open_run(small_disk / "run", config())


def test_full_device_is_explained_and_other_errors_pass(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=f"while writing {tmp_path}/x"),
        full_disk_explained(tmp_path / "x"),
    ):
        Path("/dev/full").write_text("x")
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "absent" / "x", "x")


def test_written_file_follows_umask_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    before = os.umask(0o027)
    try:
        write_text(path, "erste\n")
        write_text(path, "zweite Zeile: é\n")
    finally:
        os.umask(before)
    assert path.read_text(encoding="utf-8") == "zweite Zeile: é\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]
