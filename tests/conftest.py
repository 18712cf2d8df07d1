"""Shared fixtures: configs composed as on the command line, and small models with a tokenizer."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may wait for a network
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

import hydra

from mvp_align.config import Config
from mvp_align.launch import CONF_DIR, to_config
from mvp_align.runs.lock import release_all
from mvp_align.schema import PreferencePair

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from transformers import PreTrainedModel

    from mvp_align.modeling.hardware import Placement

SHARED = Path(__file__).parents[2] / "shared"
"""Reference data that stands beside a checkout, never in it: real third-party pairs, golden
figures, LLaMA-2's tokens."""

Compose = Callable[..., Config]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """Release locks after each test, because all tests run in one process."""
    try:
        return (yield)
    finally:
        release_all()


@pytest.fixture(scope="session")
def compose() -> Compose:
    """`compose("train.epochs=1", ..., name="evaluate")`: the typed config of a command."""

    def composed(*overrides: str, name: str = "train") -> Config:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
            return to_config(hydra.compose(name, list(overrides)))

    return composed


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the reference data is not beside this checkout")
    return SHARED


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium.

    One a module: while it is open, playwright's event loop runs in this thread, where code under
    test may not start its own.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine (chromium, or google-chrome)")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, compose: Compose) -> Path:
    """A folder with a random LLaMA of 2 layers, and SmolLM2's tokenizer with chat template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from mvp_align.modeling.source import load_tokenizer, packaged_gguf

    model = compose().model
    if packaged_gguf(model) is None:
        pytest.skip("the demo model's package is not installed: `make setup`")
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tokenizer = load_tokenizer(model)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sharpen() -> Callable[[PreTrainedModel], PreTrainedModel]:
    """Enlarge weights: initial ones (0.02) give near-uniform attention, which hides wrong masks."""
    import torch
    from torch import nn

    def sharpened(model: PreTrainedModel) -> PreTrainedModel:
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.Linear):
                    module.weight.mul_(6)
        return model.eval()

    return sharpened


@pytest.fixture(scope="session")
def sharp_model(
    tiny_model: Path,
    sharpen: Callable[[PreTrainedModel], PreTrainedModel],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The tiny LLaMA's folder, sharpened."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("models") / "sharp-llama"
    sharpen(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)).save_pretrained(
        folder
    )
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def placement() -> Placement:
    import torch

    from mvp_align.modeling.hardware import Placement

    return Placement(torch.device("cpu"), torch.float32, None)


@pytest.fixture(scope="session")
def few_pairs() -> list[PreferencePair]:
    """16 short pairs of 8 people, of different lengths.

    Two answers start with a token that merges with the prompt's last one.
    """
    subjects = (
        "tea", "chess", "rain", "opera", "bread", "trains", "snow", "poems", "maps", "cats",
        "jazz", "soup", "glass",
        "birds", "salt", "moss",
    )  # fmt: skip
    pairs = []
    for number, subject in enumerate(subjects):
        chosen = f"I love {subject}" + ", truly and always" * (number % 4) + "."
        rejected = f"No {subject} for me" + ", not today" * (number % 3) + ", thank you."
        if number in (3, 7):
            chosen = f"?! {chosen}"
        question = f"What do you make of {subject}" + " these days" * (number % 2) + "?"
        pairs.append(PreferencePair(f"p{number}", f"u{number % 8}", question, chosen, rejected))
    return pairs


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`mount_disk("6m")`: the folder of a file system of that size, removed after the test."""
    folder = tmp_path / "disk"

    def mounted(size: str) -> Path:
        folder.mkdir()
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
        ).returncode:
            pytest.skip("mounting a small file system needs root")
        return folder

    yield mounted
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def tiny(tiny_model: Path, tmp_path: Path) -> list[str]:
    """Overrides that turn any recipe into a run of seconds, in its own folder."""
    return [
        f"model.id={tiny_model}",
        "model.name=tiny",
        "hardware=cpu",
        "tracking=none",
        "run.logp_cache=false",
        "data.limit=24",
        "train.max_steps=3",
        "train.micro_batch_size=2",
        "train.learning_rate=1e-3",
        f"run.dir={tmp_path / 'run'}",
    ]


@pytest.fixture
def sharp(tiny: list[str], sharp_model: Path) -> list[str]:
    """The same with the sharpened model, for tests that compare numbers."""
    return [*tiny, f"model.id={sharp_model}", "model.name=sharp"]


@pytest.fixture
def query() -> Callable[..., list[tuple]]:
    """`query(store, sql, *values)`: open a store, and return the rows."""

    def rows(path: Path, statement: str, *values: object) -> list[tuple]:
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute(statement, values).fetchall()

    return rows
