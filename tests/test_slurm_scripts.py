"""The scripts of slurm/ without Slurm: environment, started command, messages.

tests/cluster has the other tests of them.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser
from page_commands import check_slurm

from mvp_align.launch import check_command

ROOT = Path(__file__).parents[1]
HEADERS = [
    (path, path.read_text(encoding="utf-8")) for path in sorted((ROOT / "slurm").glob("*.sbatch"))
]
COMMANDS = [
    re.sub(r"\\\n(?:# *)?", "", command.group())
    for _, text in HEADERS
    for command in re.finditer(
        r"^(?:#  +)?(?:sbatch|python train\.py) (?:.*\\\n)*.*", text, re.MULTILINE
    )
]
DRY = ["hardware=cpu", "data.limit=8", "train.dry_run=true"]


def script(
    name: str, *words: str, cwd: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    plain = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("SLURM_", "MVP_ALIGN_"))
    }
    return subprocess.run(
        ["bash", str(ROOT / "slurm" / name), *words],
        cwd=cwd,
        env=plain | {"MVP_ALIGN_VENV": sys.prefix} | variables,
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_without_slurm_the_command_runs_on_this_machine(tmp_path: Path) -> None:
    done = script("train.sbatch", *DRY, cwd=tmp_path)  # from anywhere
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("job none, start 1; nodes: ")
    assert "8 pairs a step in 1 process, " in " ".join(done.stdout.split())


@pytest.mark.slow
def test_without_slurm_more_processes_start_through_torchrun() -> None:
    done = script("train.sbatch", *DRY, MVP_ALIGN_PROCESSES="2")
    assert done.returncode == 0, done.stderr
    assert "8 pairs a step in 2 processes, " in " ".join(done.stdout.split())


def test_the_command_s_exit_code_and_words_come_through() -> None:
    done = script("evaluate.sbatch", "seed=x")
    assert done.returncode == 2
    assert "seed=x: Value 'x'" in done.stderr


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("judge.sbatch", ["outputs/none", "--judge", "semantic"], "config.yaml: no such file"),
        ("answer.sbatch", ["model=gpt4o", "seed=x"], "seed=x: Value 'x'"),
    ],
)
def test_commands_of_the_program_run_too(name: str, words: list[str], message: str) -> None:
    done = script(name, *words)
    assert done.returncode == 2
    assert "1 processes" in done.stdout
    assert message in done.stderr


@pytest.mark.parametrize(
    ("name", "variables", "message"),
    [
        (
            "train.sbatch",
            {"MVP_ALIGN_VENV": "/nowhere"},
            "No virtual environment at /nowhere: run 'make setup'",
        ),
        ("seeds.sbatch", {}, "submit this file with sbatch"),
    ],
)
def test_what_is_missing_is_named(name: str, variables: dict[str, str], message: str) -> None:
    done = script(name, *DRY, **variables)
    assert done.returncode != 0
    assert message in done.stderr


def test_a_job_submitted_from_elsewhere_says_so(tmp_path: Path) -> None:
    done = script("launch.sh", "train.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        f"No train.py in {tmp_path}: submit from the repository's root.\n",
    )


@pytest.mark.parametrize("programs", [("apptainer", "singularity"), ("singularity",)])
def test_modules_are_loaded_and_a_container_is_entered(
    tmp_path: Path, programs: tuple[str, ...]
) -> None:
    """With stand-ins: `module` is a function that the shell exports, and `apptainer` and
    `singularity` are programs on the path. They read `APPTAINER_BIND` themselves, so the script
    passes it on as it is."""
    for name in programs:
        program = tmp_path / name
        program.write_text('#!/bin/sh\nprintf "%s|" "${0##*/}" "$LOADED" "$APPTAINER_BIND" "$@"\n')
        program.chmod(0o755)
    done = script(
        "train.sbatch", "run.name=a b", PATH=f"{tmp_path}:{os.environ['PATH']}",
        MVP_ALIGN_CONTAINER="/images/mvp.sif", APPTAINER_BIND="/scratch,/data",
        MVP_ALIGN_MODULES="gcc/13 cuda/13", **{"BASH_FUNC_module%%": '() { export LOADED="$*"; }'},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    bound = f"exec|--nv|--bind|{ROOT}|--pwd|{ROOT}|/images/mvp.sif|"
    assert done.stdout.splitlines()[-1] == (
        f"{programs[0]}|load gcc/13 cuda/13|/scratch,/data|{bound}python|train.py|run.name=a b|"
    )


def test_a_container_without_a_program_that_runs_it_is_refused(tmp_path: Path) -> None:
    """On a path that has what the script needs before that, and neither of the two programs."""
    for name in ("bash", "dirname"):
        found = shutil.which(name)
        assert found
        (tmp_path / name).symlink_to(found)
    done = script("train.sbatch", *DRY, PATH=str(tmp_path), MVP_ALIGN_CONTAINER="/images/mvp.sif")
    assert done.returncode == 2
    assert "Neither apptainer nor singularity is here" in done.stderr


def test_a_conda_environment_is_activated(tmp_path: Path) -> None:
    """With a stand-in for conda: its hook defines the function that activates."""
    conda = tmp_path / "conda"
    conda.write_text(f"#!/bin/sh\necho 'conda() {{ PATH={tmp_path}/envs/$2:$PATH; }}'\n")
    python = tmp_path / "envs" / "mine" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "mine: $*"\n')
    for program in (conda, python):
        program.chmod(0o755)
    done = script("train.sbatch", "seed=1", CONDA_EXE=str(conda), MVP_ALIGN_CONDA="mine")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "mine: train.py seed=1")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_headers_compose(command: str) -> None:
    words = shlex.split(re.split(r"  +at most|  +on the CPU|  +# ", command.lstrip("# "))[0])
    if words[0] == "sbatch":
        (at,) = [number for number, word in enumerate(words) if word.startswith("slurm/")]
        assert (ROOT / words[at]).is_file()
        check_slurm(words, is_name=False)
    else:
        check_command("train", get_args_parser().parse_args(words[2:]).overrides)


def test_commands_are_found() -> None:
    assert len(COMMANDS) >= 6


def test_scripts_ask_slurm_for_the_same() -> None:
    """Resources differ; what survival hangs on does not."""
    wanted = {"--requeue", "--signal=USR1@120", "--open-mode=append", "--ntasks-per-node=1"}
    for path, text in HEADERS:
        assert wanted <= {
            line.split()[1] for line in text.splitlines() if line.startswith("#SBATCH")
        }, path.name
