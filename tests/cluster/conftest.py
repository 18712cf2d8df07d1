"""The Slurm cluster that these tests submit to, one per test session."""

import os
import shutil
from collections.abc import Iterator

import pytest
from one_host_slurm import NEEDED, Slurm, one_host_slurm


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    missing = [
        name
        for name in NEEDED
        if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None
    ]
    if missing or os.geteuid() != 0:
        lacking = (
            f"lacks {', '.join(missing)} (apt-get install slurmctld slurmd slurm-client munge)"
            if missing
            else "is not root"
        )
        reason = f"no Slurm can be started: this machine or user {lacking}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with one_host_slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def settings(tiny: list[str]) -> list[str]:
    """The tiny model with 16 steps of 4 pairs: slow enough to interrupt, quick to finish."""
    return [
        *tiny,
        "evals=in_domain",
        "train.batch_size=4",
        "train.max_steps=16",
        "train.save_steps=4",
    ]
