"""Broken checkpoints are skipped, and a full disk or a kill leaves earlier ones intact."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mvp_align.runs.checkpoints import MANIFEST, WRITING, add_checkpoint, damage_of, latest_valid


def write(checkpoints: Path, step: int) -> Path:
    aside = checkpoints / WRITING / f"checkpoint-{step}"
    (aside / "deeper").mkdir(parents=True)
    (aside / "adapter_model.safetensors").write_bytes(bytes([step]) * 1000)
    (aside / "deeper" / "optimizer.pt").write_bytes(bytes([step + 1]) * 3000)
    return aside


def kept(checkpoints: Path, step: int) -> Path:
    add_checkpoint(write(checkpoints, step), checkpoints)
    return checkpoints / f"checkpoint-{step}"


def test_the_newest_two_stay(tmp_path: Path) -> None:
    assert latest_valid(tmp_path) is None
    for step in (2, 9, 10, 100):
        assert kept(tmp_path, step) == latest_valid(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*")) == [
        WRITING,
        "checkpoint-10",
        "checkpoint-100",
    ]
    listed = json.loads((tmp_path / "checkpoint-10" / MANIFEST).read_text())
    assert {name: file["bytes"] for name, file in listed.items()} == {
        "adapter_model.safetensors": 1000,
        "deeper/optimizer.pt": 3000,
    }


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "harm", "says"),
    [
        ("deeper/optimizer.pt", cut, "deeper/optimizer.pt has 2999 bytes, not 3000"),
        ("adapter_model.safetensors", flip, "adapter_model.safetensors is not what was written"),
        ("adapter_model.safetensors", Path.unlink, "adapter_model.safetensors is missing"),
        (MANIFEST, Path.unlink, "files.json is missing"),
        (MANIFEST, cut, "files.json is missing or cannot be read"),
    ],
)
def test_a_broken_one_is_passed_over_with_a_word(
    tmp_path: Path, capsys, file: str, harm: Callable[[Path], None], says: str
) -> None:
    older, newer = kept(tmp_path, 1), kept(tmp_path, 2)
    harm(newer / file)
    assert latest_valid(tmp_path) == older
    said = capsys.readouterr().out
    assert f"{newer} is broken and passed over" in said and says in said
    assert damage_of(older) is None


def test_one_that_comes_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    """A run that went on from an older checkpoint, because the newer one was broken, writes the
    newer one again."""
    cut(kept(tmp_path, 3) / "adapter_model.safetensors")
    assert latest_valid(tmp_path) is None
    assert latest_valid(tmp_path) is None
    assert kept(tmp_path, 3) == latest_valid(tmp_path)


def test_what_a_kill_left_half_written_is_not_looked_at(tmp_path: Path, capsys) -> None:
    first = kept(tmp_path, 1)
    write(tmp_path, 2)
    (tmp_path / ".checkpoint-0.gone").mkdir()
    assert latest_valid(tmp_path) == first
    assert capsys.readouterr().out == ""
