from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from finished_rows import rows

from mvp_align.config import Config

__all__ = ["rows"]  # a fixture


@pytest.fixture(scope="session")
def finished(
    tiny_model: Path, compose: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run that trained a tiny model, as it was left. Copy it to change it."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    config = compose(
        f"model.id={tiny_model}", "model.name=tiny", "hardware=cpu", "tracking=none",
        "run.logp_cache=false", "data.limit=40", "train.max_steps=3", "train.micro_batch_size=2",
        "train.learning_rate=1e-3", f"run.dir={folder}", "run.name=finished",
    )  # fmt: skip
    import_module("recipes.lora_dpo").main(config)
    return folder
