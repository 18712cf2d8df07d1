"""Run all checks, and print a table of their findings."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mvp_align.doctor import accelerators, machine
from mvp_align.doctor.findings import Finding, run_check

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def run_checks(*, offline: bool) -> list[Finding]:
    """Return one finding per check.

    `offline` skips network requests. Changes and raises nothing.
    """
    return [run_check(name, check) for name, check in checks(offline=offline).items()]


def checks(*, offline: bool) -> dict[str, Callable[[], Finding]]:
    return {
        "Python": machine.python,
        "packages": machine.packages,
        "torch": accelerators.torch_build,
        "GPUs": lambda: accelerators.warn_if_gpu_full(accelerators.gpus),
        "NCCL": accelerators.nccl,
        "bitsandbytes": lambda: accelerators.warn_if_gpu_full(accelerators.four_bit),
        "accelerate config": accelerators.launch_config,
        "variables": machine.variables,
        "Slurm": machine.slurm,
        "memory": machine.memory,
        "disk of outputs/": lambda: machine.disk(Path("outputs"), 5, "run.dir=FOLDER"),
        # LLaMA-2-7B has 13.5 GB
        "disk of the hub cache": lambda: machine.disk(machine.hub_cache(), 15, "HF_HOME=FOLDER"),
        "disk of our cache": lambda: machine.disk(machine.own_cache(), 1, "MVP_ALIGN_CACHE=FOLDER"),
        "Hugging Face hub": lambda: machine.hub(offline=offline),
        "W&B": machine.wandb_login,
        "demo model": machine.demo_model,
    }


def print_findings(findings: Sequence[Finding], console: Console | None = None) -> None:
    """Print one line per check, with the remedy below."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in findings:
        words = Text(finding.found)
        if finding.remedy:
            words.append(f"\n-> {finding.remedy}", style="bold")
        table.add_row(Text(finding.level, style=STYLES[finding.level]), finding.check, words)
    (console or Console(highlight=False)).print(table)
