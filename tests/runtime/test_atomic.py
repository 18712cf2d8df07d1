"""Remedies for a full disk depend on whether blocks, inodes or a quota ran out."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mvp_align.errors import UserError
from mvp_align.runtime.atomic import full_disk_explained, write_text


def explained(error: Exception, path: Path) -> str:
    with pytest.raises(UserError) as caught, full_disk_explained(path):
        raise error
    return str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        RuntimeError(
            'Error while serializing: IoError(Os { code: 122, message: "Disk quota exceeded" })'
        ),  # safetensors
    ],
)
def test_a_quota_is_no_full_disk(error: Exception, tmp_path: Path) -> None:
    said = explained(error, tmp_path / "x.json")
    assert said.startswith(f"Your quota is used up while writing {tmp_path}/x.json.")
    assert "quota -s" in said and "df -h" not in said


def test_a_full_disk_is_one(tmp_path: Path) -> None:
    said = explained(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), tmp_path / "x.json")
    assert (
        said.startswith("No space left on the disk while writing") and f"df -h {tmp_path}" in said
    )


def test_a_disk_without_inodes_has_space(mount_disk: Callable[[str], Path]) -> None:
    disk = mount_disk("6m,nr_inodes=20")
    with pytest.raises(
        UserError, match=rf"No inodes left on the disk while writing .*df -i {disk}"
    ):
        for number in range(30):
            write_text(disk / f"{number}", "few")


def test_another_error_passes(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), full_disk_explained(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")
