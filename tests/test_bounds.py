"""pyproject.toml's bounds, constraints.txt and the installed versions agree."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from mvp_align.doctor.machine import pinned

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
NEEDED = [
    Requirement(line)
    for line in [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
    if not line.startswith("mvp-align[")
]
TESTED = {
    canonicalize_name(name): Version(number)
    for name, number in pinned(ROOT / "constraints.txt").items()
}
INSIDES = {
    "accelerate",
    "bitsandbytes",
    "datasets",
    "deepspeed",
    "huggingface-hub",
    "hydra-core",
    "hydra-submitit-launcher",
    "inspect-ai",
    "lm-eval",
    "omegaconf",
    "peft",
    "torch",
    "trackio",
    "transformers",
    "trl",
    "wandb",
    "wandb-workspaces",
}
"""Libraries whose private names the code reads, or whose methods it overrides."""


def of_project(requirement: Requirement) -> str:
    return canonicalize_name(requirement.name)


@pytest.mark.parametrize("requirement", NEEDED, ids=of_project)
def test_the_tested_version_lies_within(requirement: Requirement) -> None:
    tested = TESTED[of_project(requirement)]
    assert requirement.specifier.contains(tested, prereleases=True)
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return
    assert requirement.specifier.contains(installed, prereleases=True)


@pytest.mark.parametrize("name", sorted(INSIDES))
def test_a_library_whose_insides_are_used_ends_after_the_tested_version(name: str) -> None:
    """At the next minor version, or, for one that keeps its word longer, at the next major one."""
    (requirement,) = (one for one in NEEDED if of_project(one) == name)
    (end,) = (Version(one.version) for one in requirement.specifier if one.operator == "<")
    major, minor = TESTED[name].major, TESTED[name].minor
    nexts = [Version(f"{major}.{minor + 1}")]
    if name in ("datasets", "huggingface-hub"):  # no method of theirs is overridden
        nexts.append(Version(f"{major + 1}"))
    assert end in nexts


def test_private_modules_that_are_imported_belong_to_bounded_libraries() -> None:
    distributions = {
        "hydra": "hydra-core",
        "huggingface_hub": "huggingface-hub",
        "lm_eval": "lm-eval",
    }
    text = "\n".join(path.read_text("utf-8") for path in (ROOT / "mvp_align").rglob("*.py"))
    found = {
        match[1]
        for match in re.finditer(r"^\s*(?:from|import) (\w+)(?:\.\w+)*\._\w+", text, re.MULTILINE)
    }
    assert "hydra" in found
    assert {distributions.get(name, name.replace("_", "-")) for name in found} <= INSIDES
