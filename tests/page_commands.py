"""Check commands on pages by program: options parse, overrides compose, and files exist."""

import re
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import typer
import yaml
from hydra._internal.utils import get_args_parser
from pages import CONF, ROOT

from mvp_align.cli import app
from mvp_align.launch import check_command


def check_overrides(name: str, words: list[str]) -> None:
    words = [word.replace("adapter=...", "adapter=FOLDER") for word in words]
    parsed = get_args_parser().parse_args(words)
    check_command(name, parsed.overrides, multirun=parsed.multirun)


def check_script(words: list[str]) -> None:
    """Check `train.py` and `evaluate.py`, whatever starts them."""
    names = ("train.py", "evaluate.py")
    if "--module" in words:
        names, words = ("train", "evaluate"), words[words.index("mvp_align.cli") + 1 :]
    (at,) = [number for number, word in enumerate(words) if word in names]
    check_overrides(Path(words[at]).stem, words[at + 1 :])


def check_python(words: list[str], is_name: bool) -> None:
    if words[1] != "-m":
        check_script(words)
        return
    module = import_module(words[2])
    if hasattr(module, "main") and words[2].startswith("benchmarks."):
        benchmark = typer.Typer()
        benchmark.command()(module.main)
        typer.main.get_command(benchmark).make_context(words[2], words[3:])


def check_ours(words: list[str], is_name: bool) -> None:
    """Options and arguments must parse; inline code may omit arguments."""
    command, rest = typer.main.get_command(app), words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"mvp-align has no command {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    if rest and hasattr(command, "commands"):  # an option of `mvp-align` itself
        assert rest[0] in {"--help"}.union(*(param.opts for param in command.params))
    elif words[1] in ("train", "evaluate", "answer"):
        check_overrides(words[1], rest)
    elif rest or not is_name:
        given = command.make_context(words[1], rest).params
        for judge in given.get("judges") or []:
            known = judge == "semantic" or (CONF / "judge" / f"{judge}.yaml").is_file()
            assert known or judge == "FILE.yaml"


def check_make(words: list[str], is_name: bool) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(words) > 1 and {*words[1:]} <= {*targets}


def check_slurm(words: list[str], is_name: bool) -> None:
    """Check `sbatch slurm/FILE ...` and `bash slurm/FILE ...`, whose overrides go to its script."""
    (at,) = [number for number, word in enumerate(words) if word.startswith("slurm/")]
    assert all(word.startswith("-") for word in words[1:at])
    text = (ROOT / words[at]).read_text()
    if command := re.search(r"launch\.sh -m mvp_align\.cli (\w+)", text):
        check_ours(["mvp-align", command[1], *words[at + 1 :]], is_name)
        return
    (script,) = re.findall(r"launch\.sh ([\w/]+)\.py", text)
    if script == "slurm/serve":
        check_ours(["mvp-align", "generate", *words[at + 1 :]], is_name)
    else:
        check_overrides(script, words[at + 1 :])


def check_pip(words: list[str], is_name: bool) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in words[1:]:
        if extras := re.fullmatch(r"\.\[(.*)\]", word):
            assert {*extras[1].split(",")} <= {*project["optional-dependencies"]}
        if "==" in word and "*" not in word:
            assert word in (ROOT / "Makefile").read_text()
        if word.endswith(".txt"):
            assert (ROOT / word).is_file()


def check_export(words: list[str], is_name: bool) -> None:
    for word in words[1:]:
        assert re.fullmatch(r"[A-Z_0-9]+=\S+", word)


def check_container(words: list[str], is_name: bool) -> None:
    for word in words:
        assert not word.endswith(".def") or (ROOT / word).is_file()
    if "train.py" in words:
        services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
        assert words[:2] == ["docker", "compose"] and {*services} & {*words}
        check_script(words)


def check_lm_eval(words: list[str], is_name: bool) -> None:
    text = (ROOT / "mvp_align/harness/lm_eval/mvp_opa.yaml").read_text(encoding="utf-8")
    task = yaml.safe_load(text.replace("!function ", ""))
    assert words[words.index("--tasks") + 1] == task["task"]
    if "--metadata" in words:
        metadata = yaml.safe_load(words[words.index("--metadata") + 1])
        assert {*metadata} == {"data", "format", "prompt"}


def check_inspect(words: list[str], is_name: bool) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    package, name = words[2].split("/")
    module = project["entry-points"]["inspect_ai"][package].replace(".", "/")
    assert f"@task\ndef {name}(" in (ROOT / f"{module}.py").read_text(encoding="utf-8")
    assert words[1] == "eval"


def check_wandb(words: list[str], is_name: bool) -> None:
    import wandb.cli.cli

    known = {
        option for param in wandb.cli.cli.cli.commands[words[1]].params for option in param.opts
    }
    assert {word for word in words if word.startswith("--")} <= known


def taken_as_it_is(words: list[str], is_name: bool) -> None:
    """Accept a program that is neither part of this project nor of its dependencies."""


PROGRAMS: dict[str, Callable[[list[str], bool], None]] = {
    "python": check_python,
    "accelerate": lambda words, is_name: check_script(words),
    "mvp-align": check_ours,
    "make": check_make,
    "sbatch": check_slurm,
    "bash": check_slurm,
    "pip": check_pip,
    "export": check_export,
    "docker": check_container,
    "apptainer": check_container,
    "lm_eval": check_lm_eval,
    "inspect": check_inspect,
    "wandb": check_wandb,
} | dict.fromkeys(
    (
        "cd", "conda", "git", "hf", "module", "scancel", "scontrol", "source", "tensorboard",
        "trackio", "vllm",
    ),
    taken_as_it_is,
)  # fmt: skip
