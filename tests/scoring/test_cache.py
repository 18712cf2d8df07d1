"""The log-prob cache: exact, separate by model, and robust against damaged files."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch

from mvp_align.errors import UserError
from mvp_align.scoring import cache as cache_module
from mvp_align.scoring.cache import IDENTITY, LogpCache, cached_models, clear, open_cache
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.methods import scoring_method
from mvp_align.scoring.tokens import Answer, TokenizedPair

MODEL = {"model": "a", "weights": "1"}


@pytest.fixture
def pairs() -> list[TokenizedPair]:
    made = []
    for number in range(7):
        context = tuple(range(3, 9 + number))
        chosen, rejected = (
            Answer((*context, *range(20, 22 + number + more)), len(context)) for more in (0, 3)
        )
        made.append(TokenizedPair(str(number), "u", chosen, rejected))
    return made


@pytest.fixture
def counted(load_sharp):
    """A model, and a list that grows with each of its passes."""
    model, passes = load_sharp(), []
    scoring_method(model)
    model.model.register_forward_hook(lambda *_: passes.append(1))
    return model, passes


def files(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.safetensors"))


def test_a_second_run_computes_nothing_and_gets_the_same_bits(
    counted, pairs, tmp_path: Path
) -> None:
    model, passes = counted
    first = score_pairs(model, pairs, cache=open_cache(tmp_path, MODEL))
    assert passes
    passes.clear()
    assert score_pairs(model, pairs, batch_size=3, cache=open_cache(tmp_path, MODEL)) == first
    assert not passes
    assert len(files(tmp_path)) == 1


def test_what_is_missing_is_computed_and_added(counted, pairs, tmp_path: Path) -> None:
    model, passes = counted
    score_pairs(model, pairs[:3], cache=open_cache(tmp_path, MODEL))
    before = len(passes)
    all_of_them = score_pairs(model, pairs, batch_size=1, cache=open_cache(tmp_path, MODEL))
    assert len(passes) > before
    plain = score_pairs(model, pairs)
    for found, expected in zip(all_of_them, plain, strict=True):
        assert found.chosen_logp == pytest.approx(expected.chosen_logp, abs=1e-4)
    assert len(open_cache(tmp_path, MODEL).known) == 14


@pytest.mark.parametrize("changed", [{"model": "b"}, {"weights": "2"}, {"dtype": "bfloat16"}])
def test_another_model_finds_nothing(tmp_path: Path, pairs, changed: dict[str, str]) -> None:
    with open_cache(tmp_path, MODEL) as cache:
        cache.add(pairs[0].chosen, -1.0)
    assert pairs[0].chosen in open_cache(tmp_path, MODEL)
    assert pairs[0].chosen not in open_cache(tmp_path, MODEL | changed)


def test_the_same_tokens_with_another_start_are_another_answer(tmp_path: Path) -> None:
    with open_cache(tmp_path, MODEL) as cache:
        cache.add(Answer((1, 2, 3), 1), -1.0)
    again = open_cache(tmp_path, MODEL)
    assert again[Answer((1, 2, 3), 1)] == -1.0
    assert Answer((1, 2, 3), 2) not in again
    assert Answer((1, 2), 1) not in again


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_file_is_removed_and_computed_again(
    counted, pairs, tmp_path: Path, capsys, damage: str
) -> None:
    model, passes = counted
    expected = score_pairs(model, pairs, cache=open_cache(tmp_path, MODEL))
    (path,) = files(tmp_path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(
        {"cut": content[:-9], "flipped": content, "empty": b"", "other": b"no tensors"}[damage]
    )
    passes.clear()
    assert score_pairs(model, pairs, cache=open_cache(tmp_path, MODEL)) == expected
    assert passes
    assert "is damaged: removed" in capsys.readouterr().out
    assert len(open_cache(tmp_path, MODEL).known) == 14


def test_an_interrupted_pass_goes_on_with_the_same_bits(
    counted, pairs, tmp_path: Path, monkeypatch
) -> None:
    model, passes = counted
    expected = score_pairs(model, pairs, batch_size=2, cache=LogpCache())
    whole = len(passes)
    monkeypatch.setattr(cache_module, "FLUSH_SECONDS", -1)

    class Killed(Exception):
        pass

    def stop(*_: object) -> None:
        if len(passes) == whole + 2:
            raise Killed

    hook = model.model.register_forward_pre_hook(stop)
    with pytest.raises(Killed):
        score_pairs(model, pairs, batch_size=2, cache=open_cache(tmp_path, MODEL))
    hook.remove()
    assert 0 < len(open_cache(tmp_path, MODEL).known) < 14
    passes.clear()
    assert score_pairs(model, pairs, batch_size=2, cache=open_cache(tmp_path, MODEL)) == expected
    assert len(passes) == whole - 2


def add_own(root: Path, process: int) -> None:
    with open_cache(root, MODEL) as cache:
        for number in range(50):
            cache.add(Answer((process, number), 1), float(-number))


def test_processes_need_no_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=add_own, args=(tmp_path, number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = open_cache(tmp_path, MODEL)
    assert len(found.known) == 200
    assert found[Answer((3, 49), 1)] == -49.0


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot keep log-probabilities in .*MVP_ALIGN_CACHE"):
        open_cache(tmp_path / "file", MODEL)


def test_a_full_disk_costs_the_cache_not_the_run(
    counted, pairs, tmp_path: Path, monkeypatch, capsys
) -> None:
    model, _ = counted

    def full(path: Path, content: bytes) -> None:
        raise UserError("No space left on the disk")

    cache = open_cache(tmp_path, MODEL)
    monkeypatch.setattr(cache_module, "write_bytes", full)
    assert score_pairs(model, pairs, cache=cache) == score_pairs(model, pairs)
    assert "not kept for other runs: No space left" in capsys.readouterr().out


def test_cached_models_are_listed_and_cleared(tmp_path: Path, pairs) -> None:
    for name in ("b", "a"):
        with open_cache(tmp_path, {"model": name}) as cache:
            cache.add(pairs[0].chosen, -1.0)
            cache.add(pairs[0].rejected, -2.0)
    parts = cached_models(tmp_path)
    assert [(part.identity["model"], part.answers) for part in parts] == [("a", 2), ("b", 2)]
    assert all(part.size_bytes > 80 for part in parts)
    assert json.loads((parts[0].folder / IDENTITY).read_text()) == {"model": "a"}
    clear(parts[0])
    assert [part.identity["model"] for part in cached_models(tmp_path)] == ["b"]


def test_values_keep_every_bit(tmp_path: Path, pairs) -> None:
    value = torch.tensor(-123.456789012345678, dtype=torch.float64).item()
    with open_cache(tmp_path, MODEL) as cache:
        cache.add(pairs[0].chosen, value)
        cache.add(pairs[0].chosen, -7.0)  # a second value for the same thing is not taken
    assert open_cache(tmp_path, MODEL)[pairs[0].chosen] == value
