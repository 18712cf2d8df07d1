"""Real runs of a few seconds through the recipes' `main`."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from mvp_align.config import Config
from mvp_align.data.sets import SETS, UFP4

Run = Callable[..., Path]


@pytest.fixture(scope="session")
def ufp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UF-P-4's four files, two rows each."""
    folder = tmp_path_factory.mktemp("data") / "ufp4"
    folder.mkdir()
    for number, user_type in enumerate(SETS[UFP4].user_types):
        rows = [
            {
                "prompt": f"Is {user_type} worth {n} coins?",
                "chosen": f"Yes, {'surely ' * n}it is.",
                "rejected": "No, it is not.",
                "profile": "A collector of coins." * (number % 2),
            }
            for n in (1, 2)
        ]
        (folder / f"{user_type}.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="session")
def settings(sharp_model: Path, ufp4: Path) -> list[str]:
    """6 steps of 4 pairs from 10 pairs: three steps per epoch, the last with two pairs."""
    return [
        f"model.id={sharp_model}",
        "model.name=sharp",
        "hardware=cpu",
        "tracking=none",
        f"evals.ufp4={ufp4}",
        "data.limit=10",
        "train.batch_size=4",
        "train.micro_batch_size=2",
        "train.max_steps=5",
        "train.learning_rate=5e-3",
        "train.save_steps=2",
    ]


@pytest.fixture(scope="session")
def run(compose: Callable[..., Config], settings: list[str]) -> Run:
    """`run(folder, "train.beta=0.2", ...)`: a run through the recipe's `main`."""

    def ran(folder: Path, *overrides: str, name: str = "train") -> Path:
        config = compose(*settings, f"run.dir={folder}", *overrides, name=name)
        import_module(f"recipes.{config.recipe}").main(config)
        return folder

    return ran


@pytest.fixture(scope="session")
def finished(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished lora_dpo run to compare with. Tests must not change it."""
    return run(tmp_path_factory.mktemp("runs") / "dpo")
