"""No text of the data leaves the machine, unless it is asked for and its licence lets it."""

import json
import struct
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from mvp_align.config import Config
from mvp_align.data.licences import text_problems
from mvp_align.data.readers import read_pairs
from mvp_align.schema import PreferencePair
from mvp_align.validate import combination_problems

Compose = Callable[..., Config]

BLOCK, HEADER, FULL, LAST = 32768, 7, 1, 4
RUN = ["evals.every_steps=2", "evals.every_pairs=4", "train.max_steps=2", "tracking=wandb"]


@pytest.fixture(scope="module")
def pairs() -> list[PreferencePair]:
    return [pair for name in ("train", "val", "test") for pair in sample(name)] + sample("ufp4")


def sample(name: str) -> list[PreferencePair]:
    if name == "ufp4":
        return read_pairs("sample:ufp4", "ufp4").pairs
    return read_pairs(f"sample:{name}.json", "mvpbench").pairs


def records(path: Path) -> Iterator[bytes]:
    """The records of a `.wandb` file: LevelDB's log format after a header of 7 bytes."""
    content, at, parts = path.read_bytes(), 7, b""
    while at < len(content):
        if BLOCK - at % BLOCK < HEADER:  # the rest of a block is padding
            at += BLOCK - at % BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", content, at)
        parts += content[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (FULL, LAST):
            yield parts
            parts = b""


def recorded(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All that W&B would upload: its records, and each file that they name."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    for content in records(path):
        record = Record.FromString(content)
        yield record.WhichOneof("record_type"), content
        for entry in record.artifact.manifest.contents:
            yield entry.path, Path(entry.local_path).read_bytes()
    for one in (path.parent / "files").rglob("*"):
        if one.is_file():  # also through links
            yield str(one), one.read_bytes()


def texts_in(content: bytes, pairs: list[PreferencePair]) -> set[str]:
    """Texts of pairs that are in some bytes, as they are or as JSON or HTML writes them."""
    found = set()
    for pair in pairs:
        for kind, text in (
            ("question", pair.question),
            ("answer", pair.chosen),
            ("answer", pair.rejected),
            ("profile", pair.profile_text),
            ("profile", pair.preference),
        ):
            forms = {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
            forms |= {form.replace("'", "&#39;").replace('"', "&#34;") for form in forms}
            if text.strip() and any(form.encode() in content for form in forms):
                found.add(kind)
    return found


def run(compose: Compose, tiny: list[str], *overrides: str) -> Path:
    config = compose(*tiny, *RUN, *overrides)
    assert combination_problems(config) == []
    import_module(f"recipes.{config.recipe}").main(config)
    return Path(config.run.dir)


def test_nothing_of_a_text_is_in_any_byte_unless_asked_for(
    compose: Compose, tiny: list[str], pairs: list[PreferencePair]
) -> None:
    folder = run(compose, tiny)
    parts = list(recorded(folder))
    names = {Path(name).name for name, _ in parts}
    assert {"adapter_model.safetensors", "tuned-in_domain.jsonl", "metrics.jsonl"} <= names
    assert "report.html" in names
    assert any("samples" in name for name in names)
    assert {"header", "run", "history", "summary", "artifact", "exit"} <= names
    leaks = {name: found for name, content in parts if (found := texts_in(content, pairs))}
    assert leaks == {}
    # what is searched for is there to be found
    assert texts_in((folder / "report.html").read_bytes(), pairs) == {
        "question",
        "answer",
        "profile",
    }


def test_questions_and_answers_are_sent_where_asked_for_and_profiles_never(
    compose: Compose, tiny: list[str], pairs: list[PreferencePair]
) -> None:
    folder = run(compose, tiny, "tracking.texts=true")
    parts = list(recorded(folder))
    found = [texts_in(content, pairs) for _, content in parts]
    assert set().union(*found) == {"question", "answer"}
    samples = b"".join(content for name, content in parts if "samples" in name)
    assert b"dimension=" in samples
    assert b"level=" not in samples and b"user_type=" not in samples


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["tracking.texts=true"], ""),
        (["data=files", "data.train=a.jsonl", "data.test=b.jsonl"], ""),
        (
            ["data=files", "data.train=a.jsonl", "data.test=b.jsonl", "tracking.texts=true"],
            "tracking.texts=true would hand over texts of data.train=a.jsonl, data.test=b.jsonl,"
            " and no licence of theirs is stated: set data.license to a licence such as CC-BY-4.0",
        ),
        (
            ["data.test=b.jsonl", "tracking.texts=true"],
            "texts of data.test=b.jsonl, and no licence of theirs is stated",
        ),
        (["data.test=b.jsonl", "tracking.texts=true", "data.license=own"], ""),
        (["data.test=b.jsonl", "tracking.texts=true", "data.license=cc-by-nc-sa-4.0"], ""),
        (["data.test=b.jsonl", "tracking.texts=true", "data.license=CC0-1.0"], ""),
        (
            ["data.test=b.jsonl", "tracking.texts=true", "data.license=CC-BY"],
            "data.license=CC-BY is not known to let others pass texts on",
        ),
        (
            ["data=divervalue", "tracking.texts=true"],
            "texts of data.train=data/DVB-train.json, data.val=data/DVB-val.json",
        ),
        (
            ["evals.ufp4=folder", "tracking.texts=true"],
            "texts of ufp4, which has no licence that lets others pass them on: leave ufp4 out",
        ),
    ],
)
def test_a_licence_decides(compose: Compose, overrides: list[str], problem: str) -> None:
    problems = text_problems(compose(*overrides))
    if problem:
        assert problem in "\n".join(problems)
        assert set(problems) <= set(combination_problems(compose(*overrides)))
    else:
        assert problems == []
